"""What `amem show` and `amem report` are about: data set, split, workspace and data root."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts import checkpoint, features
from amem_cli.artifacts.atomic import require_writable, sha256_file
from amem_cli.artifacts.features import Features
from amem_cli.artifacts.output import read_provenance
from amem_cli.artifacts.paths import Workspace
from amem_cli.data.chain import Chain
from amem_cli.data.datasets import choose_splits, read_videos
from amem_cli.data.manifest import Manifest, Protocol, load_manifest, protocol_of, require_people
from amem_cli.data.tracklets import Split, Tracklet, VideoDataset
from amem_cli.errors import UsageError, require_known
from amem_cli.metrics.ranking import Ranking, evaluate_ranking

MODEL_NAMES = {  # the paper's, by --modules
    "baseline": "baseline",
    "aem": "baseline + AEM",
    "mem": "baseline + MEM",
    "after-enhancement": "baseline after enhancement",
    "amem": "AMEM",
}
FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Picture:
    """What `amem show` draws: tracklets by `names`, the file, the predicted frames, the seed of random queries."""

    names: Sequence[str]
    out: Path
    rounds: int | None = None
    seed: int = 0

    def check(self, kind: str, manifest: Manifest) -> None:
        """Raise `AmemError`s if a picture of `kind` cannot be drawn or written. Imports no torch."""
        if self.out.suffix.lower() not in FORMATS:
            raise UsageError("--out", self.out, why=f"its suffix is none of {', '.join(FORMATS)}")
        if kind == "cmc" and self.names:
            raise UsageError("tracklet", self.names[0], why="a CMC curve is over all queries", remedy="Leave it out")
        if kind != "frames" and self.rounds is not None:
            raise UsageError("--predict-frames", str(self.rounds), why="is for show frames", remedy="Leave it out")
        if kind == "attributes" and len(self.names) > 2:
            why = f"{len(self.names)} were named"
            raise UsageError("tracklets", why=why, remedy="Name one, or two to compare them")
        if kind != "attributes":
            require_people(manifest)
        require_writable(self.out)


@dataclass(frozen=True)
class Source:
    """The data set (a shipped name or the path of a TOML file) and a split, 0 of several by default.

    Raises `UsageError` for one without tracklets, and for a split that it does not have; reads the rest when it is
    needed.
    """

    dataset: str
    data_root: Path
    workspace: Workspace
    split: int | None = None

    def __post_init__(self) -> None:
        _ = self.number  # raises for a split that the data set does not have

    @cached_property
    def manifest(self) -> Manifest:
        return load_manifest(self.dataset)

    @property
    def protocol(self) -> Protocol:
        return protocol_of(self.manifest)

    @cached_property
    def number(self) -> int | None:
        """The split's number, None for a data set with one official split."""
        split = "" if self.split is None else str(self.split)
        return choose_splits(self.manifest.name, self.protocol.numbers, split)[0]

    @cached_property
    def videos(self) -> VideoDataset:
        """The data set on disk. Raises `InputMissing` or `BadData`."""
        return read_videos(self.manifest, self.data_root)

    @property
    def content(self) -> Split:
        """The tracklets of the split."""
        return self.videos.splits[self.number or 0]

    @property
    def queries(self) -> list[Tracklet]:
        return [tracklet for tracklet, query in zip(self.content.test, self.content.is_query, strict=True) if query]

    def tracklets(self, names: Sequence[str]) -> list[Tracklet]:
        """The named tracklets of the split; `UsageError` lists those that it does not have."""
        known = {tracklet.name: tracklet for tracklet in (*self.content.train, *self.content.test)}
        require_known("tracklet", names, known, "the data set has no tracklet of this name")
        return [known[name] for name in names]

    @property
    def chain(self) -> Chain:
        return Chain(self.manifest, self.workspace.root, self.number, self.data_root)

    def label_all(self) -> str:
        """The command that labels all tracklets, not those of one subset."""
        return re.sub(r" --subset \w+", "", self.chain.command("label-videos")) + " --subset all"

    @property
    def key(self) -> tuple[str, int | None]:
        """What the paths of a `Workspace` depend on."""
        return self.manifest.name, self.number

    @property
    def features_file(self) -> Path:
        return self.workspace.features(*self.key)

    @cached_property
    def features(self) -> Features:
        return features.read(self.features_file, remedy=self.chain.remedy("extract-features"))

    @property
    def gallery(self) -> np.ndarray:
        """The gallery rows of the features file, (N,) bool: all for an official split, else all but the queries."""
        is_query = self.features.is_query
        return np.ones_like(is_query) if self.number is None else ~is_query

    def ranking(self, query: np.ndarray, gallery: np.ndarray) -> Ranking:
        """The evaluation of some rows of the features file as queries against others as gallery, (N,) bool each."""
        table = self.features
        return evaluate_ranking(
            table.features[query], table.features[gallery],
            table.person_id[query], table.person_id[gallery], table.camera_id[query], table.camera_id[gallery],
        )  # fmt: skip

    @cached_property
    def average_precisions(self) -> dict[int, float]:
        """The average precision by the evaluation, NaN without a match, for each row that is a query."""
        ranking = self.ranking(self.features.is_query, self.gallery)
        rows = np.flatnonzero(self.features.is_query)
        return dict(zip(rows.tolist(), ranking.average_precision.tolist(), strict=True))

    def model_name(self, result: dict[str, Any]) -> str:
        """The paper's name for the model of a result, from the provenance of result, features and checkpoint.

        "this model" for a model of another program, or one that is no longer in the workspace.
        """
        provenance = result.get("provenance", {})
        main_file = self.workspace.amem_main(*self.key)
        for path in (self.features_file, main_file):
            parents = provenance.get("parents", {}).values()
            if not path.is_file() or sha256_file(path) not in [parent.get("sha256") for parent in parents]:
                return "this model"
            provenance = read_provenance(path)
        return MODEL_NAMES.get(checkpoint.read_description(main_file)["model"]["modules"], "this model")
