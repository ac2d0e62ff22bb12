"""The path of each artifact in a workspace."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """The folder of `--workspace`, and the paths of all artifacts in it."""

    root: Path

    @property
    def arm(self) -> Path:
        return self.root / "arm" / "arm.safetensors"

    @property
    def tae(self) -> Path:
        return self.root / "tae" / "tae.safetensors"

    def labels(self, dataset: str) -> Path:
        return self.root / "labels" / f"{dataset}.h5"

    def amem(self, dataset: str, split: int | None) -> Path:
        """The training model's checkpoint; `amem-main.safetensors` is next to it."""
        return self.root / "amem" / _numbered(dataset, split) / "amem.safetensors"

    def amem_main(self, dataset: str, split: int | None) -> Path:
        return self.amem(dataset, split).with_name("amem-main.safetensors")

    def features(self, dataset: str, split: int | None) -> Path:
        return self.root / "features" / f"{_numbered(dataset, split)}.h5"

    def results(self, protocol: str) -> Path:
        return self.root / "results" / f"{protocol}.json"


def _numbered(dataset: str, split: int | None) -> str:
    return dataset if split is None else f"{dataset}-split{split}"


def metrics_path(output: Path) -> Path:
    """The metrics.jsonl of an artifact: for a training in its folder, else next to the file, under its name."""
    trained = output.suffix == ".safetensors"
    return output.with_name("metrics.jsonl") if trained else output.with_suffix(".metrics.jsonl")


def sample_path(folder: Path, step: int) -> Path:
    """The sample picture of validation people after `step` steps of the training in `folder`."""
    return folder / "samples" / f"step-{step:06d}.png"


def sample_pictures(folder: Path) -> list[tuple[int, Path]]:
    """The sample pictures of a training by their steps."""
    matches = ((re.fullmatch(r"step-(\d+)\.png", path.name), path) for path in (folder / "samples").glob("step-*.png"))
    return sorted((int(match[1]), path) for match, path in matches if match)
