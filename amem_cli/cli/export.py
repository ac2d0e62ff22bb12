"""The command `amem export`: options, one call, one print."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from amem_cli.cli import console, flags
from amem_cli.cli.flags import choice, command
from amem_cli.cli.root import app
from amem_cli.options import TrainAmemOptions
from amem_cli.runtime.progress import Progress

Format = Annotated[str | None, choice("onnx", "openvino", "torch-export", help="empty: by the suffix of --out")]


@command(app, "export", "amem export amem-main.safetensors --out amem.onnx", "amem export arm.safetensors --out a.xml")
def export(
    output: flags.Output,
    model: Annotated[Path, Argument(help="checkpoint: amem-main.safetensors or arm.safetensors")],
    out: Annotated[Path, Option(help="file to write: .onnx, .xml (and .bin) or .pt2")],
    format: Format = None,
    dataset: Annotated[str | None, Option(help="also compare on clips of this data set")] = None,
    split: flags.Split = None,
    data_root: flags.DataRoot = TrainAmemOptions.data_root,
    frames: Annotated[Path | None, Option(help="also compare on this folder of one person's frames")] = None,
    int8: Annotated[bool, Option("--int8", help="OpenVINO in 8 bits, calibrated on --dataset; prints the mAP")] = False,
    dry_run: flags.DryRun = False,
) -> None:
    """Write a model for other programs: ONNX, OpenVINO or torch.export.

    Frames go in as uint8 RGB of any size: resizing and normalisation are
    inside. The file is compared with the original before it is written.
    """
    from amem_cli.tools.export import ExportOptions, export

    format = format or {".xml": "openvino", ".pt2": "torch-export"}.get(out.suffix, "onnx")
    where: dict[str, Any] = {"dataset": dataset or "", "split": split, "data_root": data_root, "frames": frames}
    options = ExportOptions(model=model, out=out, format=format, int8=int8, **where)
    description = export(options, progress := Progress(output.quiet), dry_run=dry_run)
    if output.as_json:
        return console.print_json(description | {"out": out, "dry_run": dry_run, "warnings": progress.warnings})
    print(f"export: {out} ({description['format']}{', not written' if dry_run else ''})")
    print_export(description)


def print_export(description: dict[str, Any]) -> None:
    """Input, outputs and figures of an export."""
    given, (height, width) = description["input"], description["image_size"]
    shape = ", ".join(map(str, given["shape"]))
    console.print_wrapped(f"{given['name']}: uint8 RGB ({shape}), resized to {height} x {width} inside", "  ")
    for name, (_, size) in description["outputs"].items():
        print(f"  {name}: float32 (batch, {size})")
    for name, found in list(description.get("cosine_distance", {}).items())[1:]:
        print(f"  cosine distance to the original on {name} clips: {found:.1e}")
    if int8 := description.get("int8"):
        print(f"  8 bits: cosine distance to the original {int8['cosine_distance']:.1e}")
        if "mAP_before" in int8:
            print(f"  mAP {100 * int8['mAP_before']:.1f} before 8 bits, {100 * int8['mAP_after']:.1f} with 8 bits")
