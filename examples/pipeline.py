"""The six stages of AMEM, called from Python.

    amem data walkers data        # or the real data sets, see docs/data.md
    python examples/pipeline.py data workspace --preset small

Each stage is a function of its options; it returns its artifact, and reuses one that a run with the same options made.
"""

import argparse
from pathlib import Path
from typing import Any

from amem_cli.options import (
    PRESETS,
    EvaluateOptions,
    ExtractFeaturesOptions,
    LabelVideosOptions,
    TrainAmemOptions,
    TrainArmOptions,
    TrainTaeOptions,
)
from amem_cli.resolve import resolve
from amem_cli.runtime.progress import Progress
from amem_cli.stages.evaluate import evaluate
from amem_cli.stages.extract_features import extract_features
from amem_cli.stages.label_videos import label_videos
from amem_cli.stages.train_amem import train_amem
from amem_cli.stages.train_arm import train_arm
from amem_cli.stages.train_tae import train_tae


def pipeline(data_root: Path, workspace: Path, preset: str, common: dict[str, Any], **amem: Any) -> dict[str, Any]:
    """Train and evaluate AMEM on MARS; returns the metrics.

    `common` are options of all trainings, such as `device`, `amem` options of train-amem alone.
    """
    places, progress = {"data_root": data_root, "workspace": workspace}, Progress()

    train_arm(resolve(TrainArmOptions, places | common, preset=preset), progress)
    label_videos(LabelVideosOptions(**places, dataset="mars"), progress)
    train_tae(resolve(TrainTaeOptions, places | common, preset=preset), progress)
    (trained,) = train_amem(resolve(TrainAmemOptions, places | common | amem, preset=preset), progress)
    print(f"model: {trained.artifact}")
    (extracted,) = extract_features(resolve(ExtractFeaturesOptions, places, preset=preset), progress)
    print(f"features: {extracted.artifact}")
    return evaluate(EvaluateOptions(workspace=workspace, protocol="mars"), progress).metrics


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train and evaluate AMEM on MARS.")
    parser.add_argument("data_root", type=Path, help="folder of the data sets")
    parser.add_argument("workspace", type=Path, help="folder of all artifacts")
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    metrics = pipeline(arguments.data_root, arguments.workspace, arguments.preset, {"device": arguments.device})
    print(f"rank-1 {metrics['rank']['1']:.1%}, mAP {metrics['mAP']:.1%}")
