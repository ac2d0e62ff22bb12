"""The options of `amem export`, from which its flags are made. Imports nothing heavy."""

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Literal

from amem_cli.errors import UsageError
from amem_cli.options import data_root_option, option

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}  # of the file that is named


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """`dataset` (`split` None: its first) and `frames`, a folder, give real clips to compare. Raises `UsageError`."""

    model: Path = option(MISSING, "checkpoint: amem-main.safetensors or arm.safetensors", argument=True)
    out: Path = option(MISSING, "file to write: .onnx, .xml (and .bin) or .pt2")
    format: Literal["auto", "onnx", "openvino", "torch-export"] = option("auto", "auto: by the suffix of --out")
    dataset: str = option("", "also compare on clips of this data set")
    split: int | None = option(None, "split of a data set with several; default 0")
    data_root: Path = data_root_option()
    frames: Path | None = option(None, "also compare on this folder of one person's frames")
    int8: bool = option(False, "OpenVINO in 8 bits, calibrated on --dataset; prints the mAP")

    def __post_init__(self) -> None:
        named = {suffix: name for name, suffix in SUFFIXES.items()}
        wanted = named.get(self.out.suffix, "") if self.format == "auto" else self.format
        if self.out.suffix != SUFFIXES.get(wanted):
            remedy = "Name a file that ends in .onnx (ONNX), .xml (OpenVINO) or .pt2 (torch.export)"
            why = f"--format {wanted} writes {SUFFIXES[wanted]} files" if wanted else "no format has this suffix"
            raise UsageError("--out", self.out, why=why, remedy=remedy)
        object.__setattr__(self, "format", wanted)
        if self.int8 and (self.format != "openvino" or not self.dataset):
            why, remedy = "it needs OpenVINO and clips to calibrate on", "Use --format openvino and --dataset NAME"
            raise UsageError("--int8", why=why, remedy=remedy)
        if self.split is not None and (self.split < 0 or not self.dataset):
            why, remedy = "it is a number from 0 on, with --dataset", "Use --dataset NAME --split 0"
            raise UsageError("--split", str(self.split), why=why, remedy=remedy)
