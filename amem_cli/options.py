"""Every option of every stage: its name, default, preset value and help stand here and nowhere else.

The command line, the TOML files of `--config` and the provenance of artifacts are all made from these dataclasses.
Paper (P) and own (D) choices are told apart in the help texts. Imports nothing heavy.
"""

import dataclasses
import importlib.util
import os
import re
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from amem_cli.errors import InputMissing, UsageError, did_you_mean

PRESETS = ("paper", "small")
BACKBONES = {  # --backbone: the module and the class, imported when one is built
    "i3d": "amem_cli.models.i3d:I3D",
    "r3d": "amem_cli.models.resnet3d:ResNet3D50",
    "p3d": "amem_cli.models.p3d:P3D199",
    "s3d": "amem_cli.models.torchvision_video:S3D",
    "r3d_18": "amem_cli.models.torchvision_video:R3D18",
    "mc3_18": "amem_cli.models.torchvision_video:MC3_18",
    "r2plus1d_18": "amem_cli.models.torchvision_video:R2Plus1D18",
}


DATASET_HELP = "mars | ilids-vid | prid2011 | market1501 | peta, or the path of your own .toml"


def option(default: Any, help: str, *, small: Any = None, science: bool = True, env: str = "") -> Any:
    """A field of an options dataclass.

    `small` is the value of `--preset small` where it differs; without `science` the option decides where or how fast
    something is computed but not what, and two runs that differ in it alone count as the same.
    """
    metadata = {"help": help, "small": default if small is None else small, "science": science, "env": env}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """What every stage takes."""

    dataset: str = option("mars", DATASET_HELP)
    data_root: Path = option(Path("data"), "folder that holds the data sets", science=False, env="AMEM_DATA")
    workspace: Path = option(Path("workspace"), "folder for all artifacts", science=False, env="AMEM_WORKSPACE")
    device: str = option("auto", "auto | cpu | cuda | cuda:N; auto takes CUDA when there is one", science=False)
    precision: Literal["auto", "fp32", "bf16"] = option("auto", "auto is bf16 on CUDA, fp32 on a CPU")
    seed: int = option(0, "seed of every random draw: the same seed, the same result")
    workers: int = option(-1, "loader processes; -1 chooses: 0 on a CPU, up to 8 on CUDA", science=False)
    image_size: str = option("256x128", "height x width that frames are resized to (P)", small="128x64")
    resume: str = option(
        "auto", "auto continues and reuses; never starts anew; PATH continues from that state", science=False
    )
    force: bool = option(False, "overwrite an output of another configuration", science=False)

    def __post_init__(self) -> None:
        if self.image_size:
            self.height_width  # noqa: B018 - the property checks the text
        check_device(self.device)
        self._require("workers", self.workers >= -1, "must be -1 or more")

    @property
    def height_width(self) -> tuple[int, int]:
        """The frame size in pixels, (height, width)."""
        match = re.fullmatch(r"(\d+)x(\d+)", self.image_size)
        size = (int(match[1]), int(match[2])) if match else (0, 0)
        if not all(side >= 32 and side % 16 == 0 for side in size):
            raise UsageError(
                "--image-size",
                self.image_size,
                why="must be HEIGHTxWIDTH in pixels, both multiples of 16 and at least 32",
                remedy="For example --image-size 256x128",
            )
        return size

    def science(self) -> dict[str, Any]:
        """The options that decide what is computed, as JSON values: what provenance records and compares."""
        return {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.metadata["science"]
        }

    def _require(self, name: str, condition: bool, why: str) -> None:
        if not condition:
            raise UsageError(f"--{name.replace('_', '-')}", getattr(self, name), why=why)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(StageOptions):
    """What the three training stages share."""

    accumulate: int = option(1, "batches whose gradients are averaged into one step of the optimiser (D)")
    weight_decay: float = option(5e-4, "Adam's weight decay (P)")
    warmup_steps: int = option(0, "steps over which the learning rate rises linearly from zero (D)", small=50)
    lr_step: int = option(60, "epochs after which the learning rate is multiplied by --lr-factor (P)")
    lr_factor: float = option(0.2, "factor of --lr-step (P)")
    validate: float = option(
        0.0, "part of the training people held out to find the `best` weights by; 0: none, train on all (D)"
    )
    validate_epochs: int = option(10, "epochs between looks at the held-out training people (D)", small=2)
    on_bad_image: Literal["stop", "skip"] = option(
        "stop", "skip looks at every image first, and leaves out and lists the unreadable ones"
    )
    sync_batchnorm: bool = option(False, "under torchrun on CUDA: batch norm over the images of all processes (D)")
    save_seconds: float = option(60.0, "seconds between saved states; at most this much work is lost", science=False)
    log_steps: int = option(10, "steps between lines of metrics.jsonl", science=False)
    time_limit: str = option("", "stop after 3h50m, 45m or 90s, with the state saved; empty: never", science=False)
    tensorboard: bool = option(False, "also write metrics.jsonl's figures for TensorBoard", science=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "accumulate", "learning_rate", "lr_step", "lr_factor", "log_steps", "validate_epochs"):
            self._require(name, getattr(self, name) > 0, "must be positive")
        for name in ("weight_decay", "warmup_steps", "save_seconds"):
            self._require(name, getattr(self, name) >= 0, "must not be negative")
        self._require("learning_rate", self.learning_rate < 1, "must be below 1")
        self._require("validate", 0 <= self.validate < 1, "must be a fraction of the people, from 0 to below 1")
        if self.resume not in ("auto", "never") and not Path(self.resume).is_file():
            raise InputMissing("--resume", self.resume, why="not found", remedy="Use auto, never or a state file")
        self.time_limit_seconds  # noqa: B018 - the property checks the text
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            remedy = "Run: python -m pip install tensorboard"
            raise InputMissing("--tensorboard", why="the package tensorboard is not installed", remedy=remedy)

    @property
    def time_limit_seconds(self) -> float | None:
        """`--time-limit` in seconds, None without one."""
        if not self.time_limit:
            return None
        match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", self.time_limit)
        if not match:
            raise UsageError("--time-limit", self.time_limit, why="not a duration", remedy="For example 3h50m or 45m")
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return hours * 3600.0 + minutes * 60 + seconds


@dataclass(frozen=True, kw_only=True)
class TrainArmOptions(TrainingOptions):
    """`train-arm`: the attribute recognition model on PETA (paper, section AEM)."""

    dataset: str = option("peta", DATASET_HELP)
    backbone: Literal["resnet50", "resnet18"] = option("resnet50", "ResNet-50 is the paper's (P)", small="resnet18")
    weights: str = option(
        "", "ImageNet weights: a file, or 'imagenet' for torchvision's own; empty: from scratch", science=False
    )
    partition: str = option(
        "person", "held-out part: person | random-1 ... random-5 (those of PETA.mat, with train+val) | none (D)"
    )
    hold_out: float = option(0.2, "fraction of the people that --partition person holds out (D)")
    epochs: int = option(60, "passes over the training images (D)", small=12)
    batch_size: int = option(64, "images a step (D)", small=32)
    learning_rate: float = option(1e-4, "Adam's learning rate (D)", small=1e-3)
    lr_step: int = option(25, "epochs after which the learning rate is multiplied by --lr-factor (D)", small=9)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("batch_size", self.batch_size > 1, "must be at least 2")
        self._require("hold_out", 0 < self.hold_out < 1, "must lie between 0 and 1")
        if not re.fullmatch(r"person|random-[1-5]|none", self.partition):
            known = ("person", *(f"random-{number}" for number in range(1, 6)), "none")
            remedy = f"{did_you_mean(self.partition, known)}Known are {', '.join(known)}"
            raise UsageError("--partition", self.partition, why="unknown partition", remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class LabelVideosOptions(StageOptions):
    """`label-videos`: pseudo attribute labels by the ARM, averaged over all frames of a tracklet."""

    part: Literal["train", "test", "all"] = option(
        "train", "tracklets to label; a data set with several splits is labelled whole"
    )
    threshold: float = option(0.5, "a label is 1 where the temporal mean exceeds this (P)")
    batch_size: int = option(64, "frames a step (D)", science=False)
    engine: Literal["auto", "torch", "eager", "openvino"] = option(
        "auto", "auto: on a CPU openvino where it is installed, else torch; on CUDA eager", science=False
    )
    arm: str = option("", "ARM checkpoint; empty: the workspace's", science=False)
    image_size: str = option("256x128", "not used: frames get the size that the ARM was trained at", small="128x64")
    on_bad_image: Literal["stop", "skip"] = option("stop", "skip leaves an unreadable frame out and lists it")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_resume(self.resume)
        self._require("batch_size", self.batch_size > 0, "must be positive")
        self._require("threshold", 0 < self.threshold < 1, "must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class AdversarialOptions(TrainingOptions):
    """The adversarial terms of eq. 4 and 5, whose weight and form the paper leaves open."""

    adversarial_weight: float = option(1e-3, "weight of the adversarial term within its loss; 0: none (D)", small=2e-4)
    adversarial_form: Literal["non-saturating", "minimax"] = option(
        "non-saturating", "minimax is the literal form of eq. 4 and 5 (D)"
    )
    discriminator_learning_rate: float = option(
        2e-4, "Adam's learning rate for the discriminator, beta1 = 0.5 as in DCGAN (D)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("adversarial_weight", self.adversarial_weight >= 0, "must not be negative")
        self._require("discriminator_learning_rate", self.discriminator_learning_rate > 0, "must be positive")


@dataclass(frozen=True, kw_only=True)
class TrainTaeOptions(AdversarialOptions):
    """`train-tae`: the texture auto-encoder on single images (eq. 4, Fig. 3)."""

    dataset: str = option("market1501", DATASET_HELP)
    weights: str = option(
        "", "ImageNet weights of ResNet-18: a file, or 'imagenet'; empty: from scratch", science=False
    )
    epochs: int = option(60, "passes over the training images (D)", small=12)
    batch_size: int = option(64, "images a step (D)", small=32)
    learning_rate: float = option(1e-3, "Adam's learning rate, as for the whole model (D)")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("batch_size", self.batch_size > 1, "must be at least 2")


@dataclass(frozen=True, kw_only=True)
class TrainAmemOptions(AdversarialOptions):
    """`train-amem`: I3D with appearance and motion enhancement, end to end (eq. 6)."""

    split: str = option("", "0 ... 9 or all, for data sets with several splits; empty: 0")
    modules: Literal["baseline", "aem", "mem", "amem", "after-enhancement"] = option(
        "amem", "row of the paper's Table 3; after-enhancement trains both modules but keeps f_A, f_M out of f_s"
    )
    predict_frames: int = option(3, "c, frames that MEM predicts one after another (P)")
    backbone: Literal[tuple(BACKBONES)] = option("i3d", "i3d, r3d, p3d are the paper's; the others are torchvision's")
    branch: Literal["inception", "conv3d", "conv2d"] = option(
        "inception", "kind of the appearance and the motion branch (P)"
    )
    branch_kernel: Literal["3x3x3", "1x3x3"] = option("3x3x3", "kernel of the inception branch (D)")
    weights: str = option(
        "",
        "Kinetics weights of the backbone: a file, an amem-main of another training, or 'kinetics' for torchvision's "
        "own (s3d, r3d_18, mc3_18, r2plus1d_18); empty: from scratch",
        science=False,
    )
    labels: str = option("", "pseudo-labels file; empty: the workspace's", science=False)
    tae: str = option("", "TAE checkpoint; empty: the workspace's", science=False)
    clip_frames: int = option(8, "T, consecutive frames a clip (P)")
    people_per_batch: int = option(8, "P, people in a batch of P x K clips (D)", small=4)
    clips_per_person: int = option(4, "K, clips of each person in a batch (D)", small=3)
    epochs: int = option(240, "passes over the training tracklets (D)", small=30)
    learning_rate: float = option(1e-3, "Adam's learning rate (P)", small=3e-4)
    margin: float = option(0.2, "margin of the triplet loss, k of eq. 7 (P)")
    triplet_features: Literal["normalised", "raw"] = option("normalised", "f_s as the triplet loss takes it (D)")
    lambda_a: float = option(0.1, "lambda_A of eq. 6, weight of L_AEM (P)")
    lambda_m: float = option(10.0, "lambda_M of eq. 6, weight of L_MEM (P)")
    texture_loss: Literal["standardised", "literal", "none"] = option(
        "standardised", "texture MSE in units of the textures' variance, as written, or none (D)"
    )
    texture_weight: float = option(0.1, "weight of the standardised texture MSE within L_MEM (D)")
    embedding_start: Literal["copy", "statistics", "random"] = option(
        "copy", "MEM's embedding starts by copying the frame, at the textures' statistics, or at random (D)"
    )
    mem_lr_factor: float = option(
        1.0, "learning rate of MEM's embedding and decoder, in units of --learning-rate (D)", small=0.1
    )
    flip: float = option(0.5, "probability that a whole clip is mirrored (D)")
    crop: float = option(0.5, "probability that a whole clip is cropped to 8/9 of its sides (D)")
    gradient_steps: int = option(100, "steps between measurements of each term's gradient; 0: never", science=False)
    checkpoint_activations: bool = option(
        False, "keep few maps for the backward pass and compute the others again: less memory, more time", science=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_split(self.split)
        self._require("clip_frames", self.clip_frames >= 4, "must be at least 4")
        self._require("people_per_batch", self.people_per_batch >= 2, "must be at least 2")
        self._require("clips_per_person", self.clips_per_person >= 2, "must be at least 2")
        for name in ("margin", "lambda_a", "lambda_m", "texture_weight", "gradient_steps"):
            self._require(name, getattr(self, name) >= 0, "must not be negative")
        self._require("mem_lr_factor", self.mem_lr_factor > 0, "must be positive")
        for name in ("flip", "crop"):
            self._require(name, 0 <= getattr(self, name) <= 1, "must be a probability")
        if self.uses_mem and not 1 <= self.predict_frames <= self.clip_frames - 2:
            raise UsageError(
                "--predict-frames",
                self.predict_frames,
                why=f"a start frame 0 < t < T - c needs 1 <= c <= T - 2 = {self.clip_frames - 2}",
                remedy="Lower --predict-frames or raise --clip-frames",
            )

    @property
    def uses_aem(self) -> bool:
        return self.modules in ("aem", "amem", "after-enhancement")

    @property
    def uses_mem(self) -> bool:
        return self.modules in ("mem", "amem", "after-enhancement")


@dataclass(frozen=True, kw_only=True)
class ExtractFeaturesOptions(StageOptions):
    """`extract-features`: one L2-normalised f_s per tracklet, by the main model alone."""

    split: str = option("", "0 ... 9 or all, for data sets with several splits; empty: 0")
    model: str = option("", "amem-main checkpoint; empty: the workspace's", science=False)
    batch_size: int = option(16, "clips a step (D)", science=False)
    engine: Literal["auto", "torch", "eager", "openvino"] = option(
        "auto", "auto: on a CPU openvino where it is installed, else or in bf16 torch; on CUDA eager", science=False
    )
    image_size: str = option("", "height x width; empty: the size that the model was trained at")
    flip: bool = option(False, "also average f_s over each clip's mirror image, for evaluate --flip")
    on_bad_image: Literal["stop", "skip"] = option("stop", "skip leaves an unreadable frame out and lists it")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_resume(self.resume)
        check_split(self.split)
        self._require("batch_size", self.batch_size > 0, "must be positive")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(StageOptions):
    """`evaluate`: CMC and mAP under a stated protocol."""

    dataset: str = option("", "the protocol's own; any other is refused", science=False)
    protocol: str = option("mars", "mars | ilids-10split | prid-10split | the path of your own .toml")
    features: tuple[Path, ...] = option((), "features files; none: the workspace's, one for each split", science=False)
    bootstrap: int = option(1000, "resamples of the queries for the 95 % intervals; 0: none")
    rerank: bool = option(False, "a further row with k-reciprocal re-ranking (Zhong et al. 2017)")
    flip: bool = option(False, "a further row over clips and their mirror images (extract with --flip)")
    calibrate: float = option(0.0, "report the distance threshold for this false-match rate, such as 0.001; 0: none")
    precision: Literal["auto", "fp32", "bf16"] = option("auto", "ranking is always float32", science=False)
    image_size: str = option("", "no images are read here", science=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.calibrate < 1:
            raise UsageError("--calibrate", self.calibrate, why="a false-match rate lies between 0 and 1")
        self._require("bootstrap", self.bootstrap >= 0, "must not be negative")


def check_device(device: str) -> None:
    """Raise `UsageError` unless `device` is auto, cpu, cuda or cuda:N."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError("--device", device, why="unknown device", remedy="Use auto, cpu, cuda or cuda:N")


def check_resume(resume: str) -> None:
    """Raise `UsageError` where `--resume` names a state but the command keeps shards, which need no naming."""
    if resume not in ("auto", "never"):
        raise UsageError("--resume", resume, why="this command has no state to name", remedy="Use auto or never")


def check_split(split: str) -> None:
    """Raise `UsageError` unless `split` is empty, a number or "all"."""
    if not re.fullmatch(r"|all|\d{1,3}", split):
        raise UsageError("--split", split, why="not a split", remedy="Use a number such as 0, or all")


def resolve(cls: type[Any], flags: dict[str, Any], *, preset: str = "paper", config: Path | None = None) -> Any:
    """The options of one run: flags win over the config file, that over environment variables, these over the preset.

    `flags` holds what was given on the command line, None where nothing was. Raises `UsageError` for an unknown
    preset, name or value.
    """
    if preset not in PRESETS:
        remedy = f"{did_you_mean(preset, PRESETS)}Use {' or '.join(PRESETS)}"
        raise UsageError("--preset", preset, why="unknown preset", remedy=remedy)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        values[field.name] = field.metadata["small"] if preset == "small" else field.default
        if field.metadata["env"] and os.environ.get(field.metadata["env"]):
            values[field.name] = Path(os.environ[field.metadata["env"]])
    values |= read_config(cls, config) if config is not None else {}
    values |= {name: value for name, value in flags.items() if value is not None}
    return cls(**values)


def read_config(cls: type, path: Path) -> dict[str, Any]:
    """The values in a TOML file of `--config`: names as on the command line, top level or in a table per command.

    A table named like another command is passed over; every other unknown name is an error.
    """
    try:
        document = tomllib.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputMissing("--config", path, why="not found") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError("--config", path, why=f"not a readable TOML file ({error})") from error
    own = command_of(cls)
    tables = {name: value for name, value in document.items() if isinstance(value, dict)}
    for name in tables:
        if name not in COMMANDS:
            remedy = f"{did_you_mean(name, COMMANDS)}Tables are named like commands: {', '.join(COMMANDS)}"
            raise UsageError("--config", path, why=f"unknown table [{name}]", remedy=remedy)
    entries = {name: value for name, value in document.items() if not isinstance(value, dict)} | tables.get(own, {})
    types_of = typing.get_type_hints(cls)
    everywhere = {field.name for other in COMMANDS.values() for field in dataclasses.fields(other)}
    values = {}
    for key, value in entries.items():
        name = key.replace("-", "_")
        if name in types_of:
            values[name] = _coerce(path, key, types_of[name], value)
        elif key in tables.get(own, {}) or name not in everywhere:
            meant = did_you_mean(name, types_of).replace("_", "-")
            raise UsageError(
                "--config", path, why=f"unknown option '{key}'", remedy=f"{meant}See: amem config show {own}"
            )
    return values


def _coerce(path: Path, key: str, kind: Any, value: Any) -> Any:
    """A TOML value as the option's type, or `UsageError`."""
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value in choices:
            return value
        meant = did_you_mean(str(value), choices)
        raise UsageError(
            "--config", path, why=f"{key} = {value!r} is unknown", remedy=f"{meant}Known are {', '.join(choices)}"
        )
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if typing.get_origin(kind) is tuple and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(Path(item) for item in value)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    expected = kind.__name__ if isinstance(kind, type) else str(kind)
    raise UsageError("--config", path, why=f"{key} = {value!r} is not of type {expected}")


COMMANDS: types.MappingProxyType[str, type] = types.MappingProxyType(
    {
        "train-arm": TrainArmOptions,
        "label-videos": LabelVideosOptions,
        "train-tae": TrainTaeOptions,
        "train-amem": TrainAmemOptions,
        "extract-features": ExtractFeaturesOptions,
        "evaluate": EvaluateOptions,
    }
)


def command_of(cls: type) -> str:
    """The command whose options `cls` holds."""
    return next(command for command, options in COMMANDS.items() if options is cls)
