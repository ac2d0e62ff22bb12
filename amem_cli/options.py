"""The options of the six stages: each name, default, preset value and help is declared once.

Command line flags, `--config` files and the provenance of artifacts are derived from these dataclasses. A stage has a
group of options only when it uses every one in it. In the help, (P) marks a choice of the paper and (D) one of ours.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from amem_cli.errors import InputMissing, UsageError, require_package
from amem_cli.option_values import check_values, flag_of, parse_duration, parse_image_size

PRESETS = ("paper", "small", "strong")
NETWORKS_WITH = {  # those with weights by name
    "imagenet": ("resnet18", "resnet50", "mobilenet_v2"),
    "kinetics": ("i3d", "s3d", "r3d_18", "mc3_18", "r2plus1d_18"),
}
BACKBONES = {  # --backbone: module and class, imported when the backbone is built
    "i3d": "amem_cli.models.i3d:I3D",
    "r3d": "amem_cli.models.resnet3d:ResNet3D50",
    "p3d": "amem_cli.models.p3d:P3D199",
    "mobilenet_v2": "amem_cli.models.inflated:InflatedMobileNetV2",
    "resnet50": "amem_cli.models.inflated:InflatedResNet50",
    "s3d": "amem_cli.models.torchvision_video:S3D",
    "r3d_18": "amem_cli.models.torchvision_video:R3D18",
    "mc3_18": "amem_cli.models.torchvision_video:MC3_18",
    "r2plus1d_18": "amem_cli.models.torchvision_video:R2Plus1D18",
}

MIDDLE_MAPS = ("i3d", "mobilenet_v2", "resnet50")  # backbones for --motion-maps middle

Engine = Literal["auto", "torch", "eager", "openvino"]
BadImage = Literal["stop", "skip"]
Tracker = Literal["none", "tensorboard", "wandb", "mlflow"]
# Scripts and config files may give these to all six stages; where a stage has no such option, they have no effect.
COMMON = ("data_root", "workspace", "device", "precision", "seed", "workers", "image_size", "resume")
DATASET_HELP = "mars | ilids-vid | prid2011 | market1501 | peta, or the path of your own .toml"
DEVICE_HELP = "auto | cpu | cuda | cuda:N; auto uses CUDA if available"
NO_SEED = "without effect: nothing is random here"
SPLIT_HELP = "0 ... 9 or all, for data sets with several splits; empty: 0"


def weights_by_name(network: str) -> str:
    """The name of the weights that `--weights auto` finds for a network."""
    return next((name for name, networks in NETWORKS_WITH.items() if network in networks), "imagenet")


def option(
    default: Any, help: str, *, small: Any = None, strong: Any = None, affects_result: bool = True, env: str = "",
    flag: str = "", argument: bool = False,
) -> Any:  # fmt: skip
    """A field of an options dataclass.

    `small` and `strong` are the values under these presets where they differ. `flag` is its flag where that has another
    name; an `argument` has none.
    """
    presets = {name: value for name, value in (("small", small), ("strong", strong)) if value is not None}
    metadata = {"help": help, "presets": presets, "affects_result": affects_result, "env": env}
    return dataclasses.field(default=default, metadata=metadata | {"flag": flag, "argument": argument})


def setting(default: Any, help: str, **more: Any) -> Any:
    """An option that the fingerprint leaves out: it says where or how fast something is computed, or it names a file,
    which provenance records as a parent."""
    return option(default, help, affects_result=False, **more)


def workspace_option() -> Any:
    """The option `--workspace`, which commands other than the stages have too."""
    return setting(Path("workspace"), "folder of all artifacts", env="AMEM_WORKSPACE")


def data_root_option() -> Any:
    """The option `--data-root`."""
    return setting(Path("data"), "folder of the data sets", env="AMEM_DATA")


def preset_value(field: dataclasses.Field[Any], preset: str) -> Any:
    """The value of an option under a preset."""
    return field.metadata["presets"].get(preset, field.default)


# -- groups ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Options:
    """Common to all stages: where artifacts are, the device, the seed, reuse of existing output."""

    panel: ClassVar[str] = "Every stage"

    workspace: Path = workspace_option()
    device: str = setting("auto", DEVICE_HELP)
    seed: int = option(0, "seed of all random numbers")
    resume: str = setting("auto", "auto: continue and reuse; never: start again")
    force: bool = setting(False, "overwrite output of another configuration")

    def __post_init__(self) -> None:
        check_values(self)
        if self.resume not in ("auto", "never") and not isinstance(self, Schedule):
            raise UsageError("--resume", self.resume, why="this command has no state files", remedy="Use auto or never")

    def fingerprint(self) -> dict[str, Any]:
        """The options that affect the result, as JSON values: provenance records and compares them."""
        fields = dataclasses.fields(self)
        return {field.name: getattr(self, field.name) for field in fields if field.metadata["affects_result"]}

    def require(self, name: str, condition: bool, why: str) -> None:
        """Raise `UsageError` that names the flag of option `name`, unless `condition` holds."""
        if not condition:
            raise UsageError(flag_of(name), str(getattr(self, name)), why=why)


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """A stage that reads images."""

    panel: ClassVar[str] = "Data"

    dataset: str = option("mars", DATASET_HELP)
    data_root: Path = data_root_option()
    workers: int = setting(-1, "loader processes; -1: 0 on a CPU, up to 8 on CUDA")
    on_bad_image: BadImage = option("stop", "skip: check every image first, leave out and list unreadable ones")
    precision: Literal["auto", "fp32", "bf16"] = option("auto", "auto: bf16 on a GPU that has it, else fp32 (D)")


@dataclass(frozen=True, kw_only=True)
class Schedule(DataOptions):
    """A stage that trains: optimiser, learning rate, validation, saved states."""

    panel: ClassVar[str] = "Training"

    image_size: str = option("256x128", "height x width of input frames (P)", small="128x64")
    epochs: int = option(60, "passes over the training data")
    learning_rate: float = option(1e-3, "Adam's learning rate")
    accumulate: int = option(1, "batches per optimiser step, gradients averaged (D)")
    weight_decay: float = option(5e-4, "Adam's weight decay (P)")
    warmup_steps: int = option(0, "steps of linear learning rate warm-up (D)", small=50)
    lr_schedule: Literal["step", "cosine"] = option(
        "step", "step: --lr-step (P); cosine: down to 0 at the end (D)", small="cosine", strong="cosine"
    )
    lr_step: int = option(60, "epochs between multiplications of the learning rate by --lr-factor (P)")
    lr_factor: float = option(0.2, "factor of the learning rate every --lr-step epochs (P)")
    validate: float = option(0.0, "fraction of training people used for validation; 0: train on all (D)")
    validate_epochs: int = option(10, "epochs between validations (D)", small=2)
    sync_batchnorm: bool = option(False, "with torchrun on CUDA: batch norm over all processes (D)")
    save_seconds: float = setting(60.0, "seconds between saved training states")
    log_steps: int = setting(10, "steps between lines of metrics.jsonl")
    time_limit: str = setting("", "save and stop after 3h50m, 45m or 90s; empty: no limit")
    log_to: Tracker = setting("none", "tracker that gets the figures too; wandb: offline (D)")
    tensorboard: bool = setting(False, "the same as --log-to tensorboard")
    resume: str = setting("auto", "auto: continue and reuse; never: start again; PATH: that state")

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_image_size(self.image_size)
        self.require("batch_size", getattr(self, "batch_size", 2) > 1, "must be at least 2")  # batch norm in training
        parse_duration(self.time_limit)
        for name in {self.log_to, "tensorboard" if self.tensorboard else "none"} - {"none"}:
            require_package(name, "--log-to")
        if self.resume not in ("auto", "never") and not Path(self.resume).is_file():
            raise InputMissing("--resume", self.resume, why="not found", remedy="Use auto, never or a state file")

    @property
    def height_width(self) -> tuple[int, int]:
        """`image_size` as (height, width) in pixels."""
        return parse_image_size(self.image_size)


@dataclass(frozen=True, kw_only=True)
class Adversarial(Schedule):
    """The adversarial terms of eq. 4 and 5; the paper does not give their weight and form."""

    panel: ClassVar[str] = "Adversarial loss"

    adversarial_weight: float = option(1e-3, "weight of the adversarial term; 0: none (D)", small=0.0)
    adversarial_form: Literal["non-saturating", "minimax"] = option("non-saturating", "minimax: as eq. 4 and 5 say (D)")
    discriminator_learning_rate: float = option(2e-4, "the discriminator's rate (Adam, beta1 0.5 as in DCGAN) (D)")


# -- the six stages ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrainArmOptions(Schedule):
    """`train-arm`: the attribute recognition model on PETA (section AEM)."""

    dataset: str = option("peta", DATASET_HELP)
    backbone: Literal["resnet50", "resnet18", "mobilenet_v2"] = option(
        "resnet50", "ResNet-50 is the paper's (P)", small="mobilenet_v2"
    )
    weights: str = setting(
        "", "ImageNet weights: a file, or imagenet; empty: from scratch", small="imagenet", strong="imagenet"
    )
    partition: Literal["person", "random-1", "random-2", "random-3", "random-4", "random-5", "none"] = option(
        "person", "test images: of people held out, of a random partition of PETA.mat, or none (D)"
    )
    hold_out: float = option(0.2, "fraction of people that --partition person uses for the test (D)")
    loss_weights: Literal["none", "frequency"] = option(
        "none", "none: all equal (P); frequency: what is rare in the training images counts up to e times as much (D)"
    )
    epochs: int = option(60, "passes over the training images (D)", small=4)
    batch_size: int = option(64, "images per batch (D)", small=32)
    learning_rate: float = option(1e-4, "Adam's learning rate (D)", small=3.5e-4)
    lr_step: int = option(25, "epochs between multiplications of the rate by --lr-factor (D)")


@dataclass(frozen=True, kw_only=True)
class LabelVideosOptions(DataOptions):
    """`label-videos`: pseudo attribute labels, averaged over all frames of a tracklet (section AEM)."""

    seed: int = setting(0, NO_SEED)
    subset: Literal["train", "test", "all"] = option("train", "tracklets to label; data sets with splits: always all")
    threshold: float = option(0.5, "the label is 1 if the mean probability exceeds this (P)")
    batch_size: int = setting(64, "frames per batch (D)")
    engine: Engine = setting("auto", "auto: openvino if installed, else torch; eager on CUDA")
    arm: str = setting("", "ARM checkpoint; empty: the workspace's")
    frames: int = option(0, "label at most this many frames of a tracklet, evenly spaced; 0: all")


@dataclass(frozen=True, kw_only=True)
class TrainTaeOptions(Adversarial):
    """`train-tae`: the texture auto-encoder on single images (Fig. 3, eq. 4)."""

    dataset: str = option("market1501", DATASET_HELP)
    tae_encoder: Literal["resnet18", "mobilenet_v2", "patches"] = option(
        "resnet18", "ResNet-18 (P); patches: principal components of 16x16 pixels (D)", small="patches"
    )
    weights: str = setting(
        "", "the encoder's ImageNet weights: a file, imagenet, or auto: imagenet, none for patches; empty: none",
        small="auto", strong="auto",
    )  # fmt: skip
    epochs: int = option(60, "passes over the training images (D)", small=2)
    batch_size: int = option(64, "images per batch (D)", small=16)
    learning_rate: float = option(1e-3, "Adam's learning rate, as for the whole model (D)", small=2e-3)
    weight_decay: float = option(5e-4, "Adam's weight decay (P)", small=0.0)
    freeze_bn: float = option(1.0, "fraction of the steps after which batch norm is frozen; 1: never (D)", small=0.6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tae_encoder == "patches" and self.weights not in ("", "auto"):
            why = "there are no pretrained weights of --tae-encoder patches"
            raise UsageError("--weights", self.weights, why=why, remedy="Use --weights auto")

    @property
    def initial_weights(self) -> str:
        """`weights` without auto."""
        if self.weights == "auto":
            return "" if self.tae_encoder == "patches" else "imagenet"
        return self.weights


@dataclass(frozen=True, kw_only=True)
class TrainAmemOptions(Adversarial):
    """`train-amem`: a 3-D backbone with appearance and motion enhancement, end to end (eq. 6)."""

    split: str = option("", SPLIT_HELP)
    modules: Literal["baseline", "aem", "mem", "amem", "after-enhancement"] = option(
        "amem", "row of Table 3; after-enhancement trains both modules, f_s uses f_B alone"
    )
    predict_frames: int = option(3, "c, frames that MEM predicts one after another (P)", small=2)
    predict_stride: int = option(1, "frames from one predicted frame to the next; 1: the next frame (P)")
    backbone: Literal[tuple(BACKBONES)] = option(  # type: ignore[valid-type]
        "i3d", "i3d, r3d, p3d: the paper's; mobilenet_v2, resnet50: inflated image networks; others: torchvision's",
        small="mobilenet_v2", strong="resnet50",
    )  # fmt: skip
    branch: Literal["inception", "conv3d", "conv2d"] = option("inception", "appearance and motion branch (P)")
    branch_kernel: Literal["3x3x3", "1x3x3"] = option("3x3x3", "kernel of the inception branch (D)", small="1x3x3")
    motion_maps: Literal["last", "middle"] = option(
        "last", "maps of the backbone that the motion branch reads: the last (P), or those in its middle, at 1/8 of "
        "the frames, of all points in time (D)",
    )  # fmt: skip
    weights: str = setting(
        "", "backbone weights: a file (also an amem-main or amem-arm), imagenet, kinetics, or auto: the workspace's "
        "ARM if it is of this network, else those by name; empty: from scratch", small="auto", strong="auto",
    )  # fmt: skip
    labels: str = setting("", "pseudo-labels file; empty: the workspace's")
    tae: str = setting("", "TAE checkpoint; empty: the workspace's")
    clip_frames: int = option(8, "T, frames per clip (P)", small=4)
    people_per_batch: int = option(8, "P of a batch of P x K clips (D)")
    clips_per_person: int = option(4, "K of a batch of P x K clips (D)", small=2)
    epochs: int = option(240, "passes over the training tracklets (D)", small=30, strong=120)
    learning_rate: float = option(1e-3, "Adam's learning rate (P)", small=3.5e-4, strong=3.5e-4)
    warmup_steps: int = option(0, "steps of linear learning rate warm-up (D)", small=20, strong=500)
    neck: Literal["none", "bn"] = option("none", "bn: f_s goes through batch norm (D)", small="bn", strong="bn")
    mirror: Literal["off", "on"] = option("off", "on: the test also averages mirrored clips (D)", small="on")
    label_smoothing: float = option(0.0, "label smoothing of the identity loss (D)", small=0.1, strong=0.1)
    triplet: Literal["margin", "soft-margin"] = option(
        "margin", "triplet loss: hinge with --margin, eq. 7 (P), or softplus without a margin (D)",
        small="soft-margin", strong="soft-margin",
    )  # fmt: skip
    margin: float = option(0.2, "margin k of the triplet loss, eq. 7 (P)")
    triplet_features: Literal["normalised", "raw"] = option(
        "normalised", "f_s in the triplet loss (D)", small="raw", strong="raw"
    )
    lambda_a: float = option(0.1, "lambda_A of eq. 6, weight of L_AEM (P)")
    lambda_m: float = option(10.0, "lambda_M of eq. 6, weight of L_MEM (P)")
    texture_loss: Literal["standardised", "literal", "none"] = option(
        "standardised", "texture MSE: in units of the textures' variance, as in eq. 5, or none (D)", small="none"
    )
    texture_weight: float = option(0.1, "weight of the standardised texture MSE in L_MEM (D)")
    embedding_start: Literal["copy", "statistics", "random"] = option(
        "copy", "MEM's embedding starts by copying the frame, at the textures' statistics, or at random (D)"
    )
    backbone_lr_factor: float = option(1.0, "learning rate of the backbone relative to --learning-rate; 0: frozen (D)")
    fc_lr_factor: float = option(1.0, "rate of the layer that gives f_s relative to --learning-rate (D)", small=0.1)
    fusion_start: Literal["random", "zero"] = option(
        "random", "zero: f_s starts as that of the baseline, and training adds f_A and f_M (D)", small="zero"
    )
    mem_lr_factor: float = option(1.0, "learning rate of MEM relative to --learning-rate (D)", small=0.1)
    decoder_lr_factor: float = option(1.0, "learning rate of MEM's decoder relative to that of MEM (D)")
    flip: float = option(0.5, "probability of mirroring a whole clip (D)")
    crop: float = option(0.5, "probability of cropping a whole clip to 8/9 of its sides (D)")
    erase: float = option(0.0, "probability of erasing one rectangle in all frames (D)", small=0.5, strong=0.5)
    jitter: float = option(0.0, "strength of random brightness, contrast, saturation and sharpness of a clip (D)")
    clip_sampling: Literal["consecutive", "segments"] = option(
        "consecutive", "training clips: consecutive frames (P), or one frame of each of T segments (D; not with MEM)"
    )
    average_weights: float = option(0.0, "decay of a moving average of the weights, for the test; 0: none (D)")
    average_initial: float = option(
        0.0, "share of the initial weights in the tested backbone; 0: the trained ones alone (D)", small=0.5
    )
    gradient_steps: int = setting(100, "steps between logs of each term's gradient norm; 0: never")
    checkpoint_activations: bool = setting(False, "recompute activations in the backward pass: less memory, more time")

    def __post_init__(self) -> None:
        super().__post_init__()
        consecutive = self.clip_sampling == "consecutive"
        self.require("clip_sampling", consecutive or not self.uses_mem, "MEM needs consecutive frames")
        known = self.motion_maps == "last" or self.backbone in MIDDLE_MAPS
        self.require("motion_maps", known, f"only {', '.join(MIDDLE_MAPS)} have middle maps")
        if self.uses_mem and not 1 <= self.predict_frames * self.predict_stride <= self.clip_frames - 2:
            stride, most = self.predict_stride, (self.clip_frames - 2) // self.predict_stride
            room = "T - c needs 1 <= c <= T - 2" if stride == 1 else f"T - {stride}c needs 1 <= c <= (T - 2) / {stride}"
            why = f"a start frame 0 < t < {room} = {most}"
            remedy = "Lower --predict-frames or raise --clip-frames"
            raise UsageError("--predict-frames", str(self.predict_frames), why=why, remedy=remedy)

    @property
    def uses_aem(self) -> bool:
        return self.modules in ("aem", "amem", "after-enhancement")

    @property
    def uses_mem(self) -> bool:
        return self.modules in ("mem", "amem", "after-enhancement")


@dataclass(frozen=True, kw_only=True)
class ExtractFeaturesOptions(DataOptions):
    """`extract-features`: one L2-normalised f_s per tracklet, from the main model alone."""

    seed: int = setting(0, NO_SEED)
    split: str = option("", SPLIT_HELP)
    model: str = setting("", "amem-main or amem-arm checkpoint; empty: the workspace's amem-main")
    batch_size: int = setting(16, "clips per batch (D)")
    engine: Engine = setting("auto", "auto: on a CPU openvino or torch; eager on CUDA")
    image_size: str = option("", "height x width; empty: the size the model was trained at")
    flip: bool = option(False, "also average f_s over mirrored clips, for evaluate --flip")
    parts: int = option(1, "join f_s of this many horizontal parts of the maps (D); 1: f_s of whole maps (P)")
    adapt_cameras: bool = option(
        False, "batch norm statistics of each camera's tracklets, without identities (D)", small=True
    )
    clips: int = option(0, "at most this many clips of a tracklet, evenly spaced; 0: all")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """`evaluate`: CMC and mAP under a protocol."""

    device: str = setting("auto", "auto | cpu | cuda | cuda:N; auto: the CPU, which starts faster than CUDA")
    protocol: str = option("mars", "mars | ilids-10split | prid-10split | the path of your own .toml")
    dataset: str = setting("", "must be the protocol's data set; empty: not checked")
    features: tuple[Path, ...] = setting((), "features files, one per split; none: the workspace's")
    bootstrap: int = option(1000, "resamples of the queries for 95 % intervals; 0: none")
    rerank: bool = option(False, "add a row with k-reciprocal re-ranking (Zhong et al. 2017)")
    flip: bool = option(False, "add a row over clips and mirrored clips (extract with --flip)")
    calibrate: float = option(0.0, "report the distance threshold for this false-match rate, e.g. 0.001; 0: none")
    conventions: bool = option(False, "add rank-1 ... 20 and mAP as eight other code bases count them")
    strict: bool = setting(False, "fail with exit code 65 for features of a part of the data set")


COMMANDS: dict[str, type[Options]] = {
    "train-arm": TrainArmOptions,
    "label-videos": LabelVideosOptions,
    "train-tae": TrainTaeOptions,
    "train-amem": TrainAmemOptions,
    "extract-features": ExtractFeaturesOptions,
    "evaluate": EvaluateOptions,
}
