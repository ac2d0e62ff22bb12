"""The file formats of `amem export`. Each class converts a traced network in its constructor; `files` gives the
contents of its files by suffix, with a description (JSON) inside, and `load` makes them a function of a batch."""

import contextlib
import importlib.util
import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amem_cli.errors import InputMissing
from amem_cli.models.from_frames import INPUT

OPSET = 18  # the first with all that the networks need
KEY = "amem"  # of the description in a file's metadata
Files = dict[str, bytes]
Run = Callable[[np.ndarray], Sequence[np.ndarray]]


class TorchExport:
    """.pt2; the description is an extra file."""

    packages: tuple[str, ...] = ("torch",)

    def __init__(self, program: torch.export.ExportedProgram, outputs: Sequence[str]):
        self.program = program

    def files(self, description: str) -> Files:
        torch.export.save(self.program, buffer := io.BytesIO(), extra_files={KEY: description})
        return {".pt2": buffer.getvalue()}

    @staticmethod
    def load(files: Files) -> Run:
        module = torch.export.load(io.BytesIO(files[".pt2"])).module()
        return lambda frames: [output.detach().numpy() for output in module(torch.from_numpy(frames))]


class Onnx:
    """ONNX with the weights inside; the description is an entry of `metadata_props`."""

    packages = ("onnx", "onnxscript", "onnxruntime")

    def __init__(self, program: torch.export.ExportedProgram, outputs: Sequence[str]):
        names: dict[str, Any] = {"input_names": [INPUT], "output_names": list(outputs)}
        converted: Any = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, **names)
        self.model = converted.model

    def files(self, description: str) -> Files:
        import onnx_ir

        self.model.metadata_props[KEY] = description
        return {".onnx": onnx_ir.to_proto(self.model).SerializeToString()}

    @staticmethod
    def load(files: Files) -> Run:
        import onnxruntime

        session = onnxruntime.InferenceSession(files[".onnx"], providers=["CPUExecutionProvider"])
        return lambda frames: session.run(None, {INPUT: frames})


class OpenVino:
    """OpenVINO IR in float32; the description is runtime information of the model."""

    packages = ("openvino",)

    def __init__(self, program: torch.export.ExportedProgram, outputs: Sequence[str]):
        import openvino

        self.model = openvino.convert_model(program)
        for port, name in zip([*self.model.inputs, *self.model.outputs], [INPUT, *outputs], strict=True):
            port.get_tensor().set_names({name})

    def files(self, description: str) -> Files:
        import openvino

        self.model.set_rt_info(description, [KEY])
        with tempfile.TemporaryDirectory(prefix="amem-export-") as folder:
            openvino.save_model(self.model, path := Path(folder, "model.xml"), compress_to_fp16=False)
            return {suffix: path.with_suffix(suffix).read_bytes() for suffix in (".bin", ".xml")}

    @staticmethod
    def load(files: Files) -> Run:
        import openvino

        core = openvino.Core()
        model = core.read_model(files[".xml"], files[".bin"])
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda frames: [output.copy() for output in compiled(frames).to_tuple()]

    def quantise(self, batches: Sequence[np.ndarray]) -> None:
        """Convolutions in 8 bits by NNCF, with the ranges of `batches`; resizing and linear layers stay float32."""
        import nncf

        scope = nncf.IgnoredScope(types=["MatMul"])
        with contextlib.redirect_stdout(sys.stderr):
            data = nncf.Dataset(batches)
            self.model = nncf.quantize(self.model, data, subset_size=len(batches), ignored_scope=scope)


FORMATS: dict[str, Any] = {"onnx": Onnx, "openvino": OpenVino, "torch-export": TorchExport}


def require_packages(format: str, int8: bool) -> dict[str, str]:
    """The versions of the packages that a format needs; `InputMissing` without one of them."""
    packages = (*FORMATS[format].packages, *(("nncf",) if int8 else ()))
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        why = f"not installed: {', '.join(missing)}"
        raise InputMissing("--format", format, why=why, remedy='Run: python -m pip install "amem[export]"')
    return {name: metadata.version(name) for name in packages}
