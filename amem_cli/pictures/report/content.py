"""The content of the report, section by section; `tools/report.py` collects it, the page draws it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.data.chain import ArtifactState
from amem_cli.pictures.attention import Attention
from amem_cli.pictures.predicted_frames import PredictedClip
from amem_cli.pictures.ranked_lists import RankedRow

Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name -> (steps, values)


@dataclass(frozen=True, slots=True)
class Missing:
    """Takes the place of a section: why it cannot be made, and the command that makes its input (if one is known)."""

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
    """Attributes of a query and one of its answers: (A,) probabilities in [0, 1]; `answer_is` describes the answer."""

    answer_is: str
    names: Sequence[str]
    query: np.ndarray
    answer: np.ndarray


@dataclass(frozen=True, slots=True)
class RankedQuery:
    """One ranked list, why it was chosen ("best", "worst", "random"), attributes, and attention maps."""

    chosen: str
    row: RankedRow
    comparisons: Sequence[Comparison] = ()
    attention: Attention | None = None


@dataclass(frozen=True, slots=True)
class RankedLists:
    """All lists of the page; `frames_of` maps every tracklet in them to its frames, in order.

    `attributes` describes the origin of the comparisons' probabilities, or why there are none; `no_attention` is the
    reason why no query has attention maps.
    """

    queries: Sequence[RankedQuery]
    frames_of: Mapping[str, Sequence[Path]]
    attributes: str | Missing
    no_attention: Missing | None = None


@dataclass(frozen=True, slots=True)
class Predictions:
    """Clips with MEM's predictions, and the `mean_errors` of all measured ones."""

    clips: Sequence[PredictedClip]
    errors: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Curves:
    """The training curves of one stage: panel title -> lines. `seconds` is the duration of the training. `samples` are
    the sample pictures of its validations, by the number of steps done."""

    stage: str
    path: Path
    panels: Mapping[str, Lines]
    seconds: float | None = None
    samples: Sequence[tuple[int, Path]] = ()


@dataclass(frozen=True, slots=True)
class Artifact:
    """One artifact of the chain; `details` are tables by their titles (options, parents, versions)."""

    state: ArtifactState
    sha256: str = ""
    megabytes: float | None = None
    seconds: float | None = None
    details: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """The content of the page; `result` is the content of a result file, `notes` are remarks about the data set.
    `generated`: its people are generated."""

    dataset: str
    split: int | None
    model: str
    workspace: Path
    generated: bool
    notes: Sequence[str]
    result: Mapping[str, Any] | Missing
    camera_pairs: Sequence[CameraPair] | Missing
    ranked_lists: RankedLists | Missing
    predictions: Predictions | Missing
    curves: Sequence[Curves | Missing]
    artifacts: Sequence[Artifact]
