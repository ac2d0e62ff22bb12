"""What the report shows, section by section: what `stages/report.py` collects and the page draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from amem_cli.pictures.attention import HeatRow
from amem_cli.pictures.frames import PredictedClip
from amem_cli.pictures.ranked_lists import RankedRow


@dataclass(frozen=True, slots=True)
class Missing:
    """In the place of a section's content: why there is none and the command that makes it (or none is known)."""

    why: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class CameraPair:
    """Queries of one camera against the gallery of another: rates in [0, 1] over the queries with a match there."""

    query_camera: int
    answer_camera: int
    queries: int
    rank_1: float
    mAP: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Attributes of a query and one of its answers: (A,) probabilities in [0, 1]; `what` names the answer in words."""

    what: str
    names: Sequence[str]
    query: np.ndarray
    answer: np.ndarray


@dataclass(frozen=True, slots=True)
class Attention:
    """Where the model looks in a clip: `frames` (T, H, W, 3) uint8, and the heat of BF, f_B, f_A, f_M."""

    frames: np.ndarray
    rows: Sequence[HeatRow]


@dataclass(frozen=True, slots=True)
class RankedQuery:
    """One ranked list, why it was chosen, the attributes of some of its answers beside the query's, and where the model
    looks in the query."""

    chosen: Literal["best", "random", "worst"]
    row: RankedRow
    comparisons: Sequence[Comparison] = ()
    attention: Attention | None = None


@dataclass(frozen=True, slots=True)
class RankedLists:
    """All lists of the page; `frames_of` maps every tracklet in them to its frames, in order.

    `attributes_from` says in words where the comparisons' probabilities come from, or why there are none;
    `no_attention` why no query has maps of attention, if so.
    """

    queries: Sequence[RankedQuery]
    frames_of: Mapping[str, Sequence[Path]]
    attributes_from: str | Missing
    no_attention: Missing | None = None


@dataclass(frozen=True, slots=True)
class Predictions:
    """Clips with MEM's predictions, and the means of their errors as `stages.show.mean_errors` gives them."""

    clips: Sequence[PredictedClip]
    errors: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Curves:
    """The training curves of one stage: panel title -> line name -> (steps, values); `seconds` is what it took.

    `samples` are the pictures of what it made of held-out people, by the number of steps done.
    """

    stage: str
    path: Path
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]
    seconds: float | None
    samples: Sequence[tuple[int, Path]] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """One artifact of the chain; `details` are tables by their titles (options, parents, versions)."""

    stage: str
    path: Path
    state: str
    why: str
    command: str
    sha256: str = ""
    megabytes: float | None = None
    seconds: float | None = None
    details: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What the page shows, section by section; `result` is the content of a result file."""

    dataset: str
    split: int | None
    workspace: Path
    result: Mapping[str, Any] | Missing
    camera_pairs: Sequence[CameraPair] | Missing
    ranked_lists: RankedLists | Missing
    predictions: Predictions | Missing
    curves: Sequence[Curves | Missing]
    chain: Sequence[Link]
