"""`amem export`: the main model or the ARM as a file for other programs, compared with the original before writing."""

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from amem_cli.artifacts import atomic, checkpoint
from amem_cli.artifacts.provenance import Provenance, head_of, identities, parent, require_same
from amem_cli.data.clips import evenly_spaced
from amem_cli.data.datasets import read_dataset, split_numbers, warn_about_counts
from amem_cli.data.loading import middle_clip
from amem_cli.data.manifest import load_manifest
from amem_cli.data.readers.files import folder_tracklet
from amem_cli.data.tracklets import Split, Tracklet, VideoDataset, known_people
from amem_cli.errors import AmemError, BadData, InputMissing, OutputExists, is_installed
from amem_cli.metrics.ranking import evaluate_ranking
from amem_cli.models.checkpoints import load_arm, load_main_model
from amem_cli.models.from_frames import INPUT, OUTPUTS, FromFrames, trace
from amem_cli.person_ids import UNKNOWN
from amem_cli.runtime.engine import CPU, Engine, prepare
from amem_cli.runtime.progress import Progress
from amem_cli.stages.extract_features import extract_tracklets
from amem_cli.tools.export_options import ExportOptions

LIMIT = 1e-5  # cosine distance of an export from the original
REAL_CLIPS, CALIBRATION_CLIPS = 8, 300  # of a data set, evenly spaced
OLDEST_TORCH = "2.14"  # 2.10 bounds the number of frames wrongly and writes ONNX files with wrong types
Pair = tuple[np.ndarray, np.ndarray]  # a batch of frames, and the same at the network's size
OPSET = 18  # the first with all that the networks need
KEY = "amem"  # of the description in a file's metadata
Files = dict[str, bytes]
Run = Callable[[np.ndarray], Sequence[np.ndarray]]


class Subject(NamedTuple):
    """A loaded checkpoint; `frames` is T of its training, 0 for the ARM."""

    kind: str
    network: Any
    config: Any
    frames: int


class Clips(NamedTuple):
    """Tracklets to compare and to calibrate on, and the split with queries, if any."""

    compared: Sequence[Tracklet]
    calibration: Sequence[Tracklet] = ()
    split: Split | None = None
    official: bool = True  # the gallery includes the queries


def export(options: ExportOptions, progress: Progress, *, dry_run: bool = False) -> dict[str, Any]:
    """Write the export; returns the description that is also in its metadata. `dry_run` only checks the inputs.

    Raises `AmemError`, exit code 70, for an export that differs from the original: nothing is written then.
    """
    versions = require_packages(options.format, options.int8)
    as_read = identities(options.model)
    subject, clips = load_subject(options.model), read_clips(options, progress)
    description = describe(subject, options, versions)
    require_same(as_read)
    if dry_run:
        return description
    for path in map(options.out.with_suffix, FORMATS[options.format].suffixes):
        if path.exists() and not options.out.exists():
            why = "it exists and is not known to be of an earlier export"
            raise OutputExists("--out", path, why=why, remedy="Choose another name, or move it away")
        atomic.require_writable(path)
    progress.log("export: tracing the network")
    program, fewest = trace(FromFrames(subject.network, subject.kind, subject.config.height_width), subject.frames)
    if subject.frames:
        description["input"] |= {"fewest_frames": fewest or subject.frames, "any_length": fewest is not None}
    progress.log(f"export: converting to {options.format}")
    built = FORMATS[options.format](program, OUTPUTS[subject.kind])
    progress.log("export: comparing with the original")
    run, engine = built.load(built.files("")), prepare(subject.network, CPU, "fp32", "eager", progress.warn)
    description["cosine_distance"] = {"limit": LIMIT, "random": distance(run, engine, random_pairs(subject, fewest))}
    if clips.compared:
        description["cosine_distance"]["real"] = distance(run, engine, real_pairs(clips.compared, subject))
    for name, found in description["cosine_distance"].items():
        if not found <= LIMIT:
            why = f"on {name} clips its cosine distance to the original is {found:.3g}, above {LIMIT:g}"
            raise AmemError("export", options.out, why=why, remedy="Nothing was written. Use another --format")
    if options.int8:
        built.quantise([resized for _, resized in real_pairs(clips.calibration, subject)])
        small = built.load(built.files(""))
        description["int8"] = {"cosine_distance": distance(small, engine, real_pairs(clips.compared, subject))}
        if clips.split is not None and subject.frames:
            rates = [mean_ap(one, clips.split, clips.official, subject, progress) for one in (run, small)]
            description["int8"] |= {"mAP_before": rates[0], "mAP_after": rates[1]}
    files = built.files(json.dumps(description))
    atomic.require_free_space(options.out.parent, sum(map(len, files.values())))
    if len(files) > 1:
        options.out.unlink(missing_ok=True)  # written last: while it exists, all files are of one export
    for suffix, content in files.items():
        atomic.write_bytes(options.out.with_suffix(suffix), content)
    return description


def load_subject(path: Path) -> Subject:
    """The network of an amem-main or amem-arm. Raises as `checkpoint.load`, and `BadData` for other kinds."""
    description = checkpoint.read_description(path, remedy="amem train-amem and amem train-arm write such files")
    kind = str(description.get("kind"))
    loaders: dict[str, Any] = {"amem-main": load_main_model, "amem-arm": load_arm}
    if kind not in loaders:
        remedy = "Give an amem-main.safetensors or an arm.safetensors"
        raise BadData("model", path, why=f"is of kind {kind}", remedy=remedy)
    network, config = loaders[kind](path)
    return Subject(kind, network.eval(), config, config.clip_frames if kind == "amem-main" else 0)


def describe(subject: Subject, options: ExportOptions, versions: dict[str, str]) -> dict[str, Any]:
    """What a program needs to know to use the export, as JSON."""
    main, config = subject.kind == "amem-main", subject.config.as_json()
    normalisation = (subject.network.backbone if main else subject.network.backbone.network).normalisation
    recorded = {name: getattr(options, name) for name in ("format", "dataset", "split", "int8")}
    provenance = Provenance("export", recorded, {subject.kind: parent(options.model)}).as_json()
    provenance["versions"] |= versions
    shape = ["batch", *(["frames"] if main else []), "height", "width", 3]
    widths = (512, 1) if main else (len(subject.config.attributes),)
    return {
        **head_of("amem-export"), "network": subject.kind,
        "format": options.format, "opset": OPSET if options.format == "onnx" else None,
        "input": {"name": INPUT, "dtype": "uint8", "colours": "RGB", "shape": shape},
        "outputs": {name: ["batch", width] for name, width in zip(OUTPUTS[subject.kind], widths, strict=True)},
        "image_size": list(subject.config.height_width), "clip_frames": subject.frames or None,
        "normalisation": {"mean": list(normalisation.mean), "std": list(normalisation.std)},
        "attributes": config.pop("attributes", []), "model": config, "provenance": provenance,
    }  # fmt: skip


def distance(run: Run, engine: Engine, pairs: Iterable[Pair]) -> float:
    """The largest cosine distance of an export's output (f_s or probabilities) from the original's."""
    worst = 0.0
    for stored, resized in pairs:
        expected, found = engine(torch.from_numpy(resized)).double().numpy(), run(stored)
        if len(found) == 1:
            expected = 1 / (1 + np.exp(-expected))
        rows = found[0].astype(np.float64)
        cosine = (rows * expected).sum(axis=1) / (np.linalg.norm(rows, axis=1) * np.linalg.norm(expected, axis=1))
        worst = float(np.maximum(worst, (1 - cosine).max()))  # keeps NaN
    return worst


def random_pairs(subject: Subject, fewest: int | None) -> Iterator[Pair]:
    """Random colours, smooth in space, in batches of several lengths, heights and widths.

    Resizing by a factor of two in one direction leaves Pillow nothing to round differently.
    """
    (height, width), generator, length = subject.config.height_width, np.random.default_rng(0), subject.frames
    lengths = (length, length + 3, fewest) if fewest else (length,) * 3
    sizes = ((height, width), (2 * height, width), (height, width // 2))
    for batch, frames, (rows, columns) in zip((2, 1, 3), lengths, sizes, strict=True):
        lead = (batch, frames) if frames else (batch,)
        spots = generator.integers(0, 256, (batch * (frames or 1), 4, 2, 3), dtype=np.uint8)
        images = [Image.fromarray(one).resize((columns, rows), Image.Resampling.BICUBIC) for one in spots]
        resized = [image.resize((width, height), Image.Resampling.BILINEAR) for image in images]
        stored, small = (np.stack([np.asarray(one) for one in each]) for each in (images, resized))
        yield stored.reshape(*lead, rows, columns, 3), small.reshape(*lead, height, width, 3)


def real_pairs(tracklets: Sequence[Tracklet], subject: Subject) -> Iterator[Pair]:
    """The middle clip (or frame) of each tracklet, at the network's size."""
    for tracklet in tracklets:
        frames = middle_clip(tracklet, subject.frames or 1, subject.config.height_width)
        yield (frames[None], frames[None]) if subject.frames else (frames, frames)


def read_clips(options: ExportOptions, progress: Progress) -> Clips:
    """The real clips that the options name. Raises as `read_dataset` and `folder_tracklet`."""
    own = [folder_tracklet("--frames", options.frames)] if options.frames else []
    if not options.dataset:
        return Clips(own)
    manifest = load_manifest(options.dataset)
    dataset = read_dataset(manifest, options.data_root)
    warn_about_counts(manifest, dataset, progress, options.data_root)
    if not isinstance(dataset, VideoDataset):
        images = [Tracklet(path.name, UNKNOWN, 0, str(path.parent), (path.name,)) for path in dataset.paths]
        return Clips([*own, *evenly_spaced(images, REAL_CLIPS)], evenly_spaced(images, CALIBRATION_CLIPS))
    split = dataset.splits[split_numbers(dataset, "" if options.split is None else str(options.split))[0] or 0]
    compared = [*own, *evenly_spaced(split.test, REAL_CLIPS)]
    scored = split if len(known_people(split.test)) and any(split.is_query) else None
    return Clips(compared, evenly_spaced(split.train or split.test, CALIBRATION_CLIPS), scored, not dataset.numbered)


def mean_ap(run: Run, split: Split, official: bool, subject: Subject, progress: Progress) -> float:
    """mAP of an export on the test tracklets of a split, as `extract-features` and `evaluate` compute it."""

    def similarity(images: torch.Tensor) -> torch.Tensor:
        feature, norm = run(images.numpy())
        return torch.from_numpy(feature * norm)

    engine, shape = Engine(similarity, progress.warn), (subject.frames, *subject.config.height_width)
    clips = sum(-(-len(tracklet) // subject.frames) for tracklet in split.test)
    with progress.loop("mAP", clips, unit="clips") as bar:
        rows = extract_tracklets(split.test, bar, clip_shape=shape, engine=engine, device=CPU)["features"]
    query = np.array(split.is_query)
    gallery = np.ones_like(query) if official else ~query
    cameras = np.array([tracklet.camera_id for tracklet in split.test])
    both = [each[kept] for each in (rows, known_people(split.test), cameras) for kept in (query, gallery)]
    return float(evaluate_ranking(*both).mAP)


# The formats. Each class converts a traced network in its constructor; `files` gives the contents of its files by
# suffix, with a description (JSON) inside, and `load` makes them a function of a batch.


class TorchExport:
    """.pt2; the description is an extra file."""

    packages: tuple[str, ...] = ("torch",)
    suffixes: tuple[str, ...] = (".pt2",)

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
    suffixes = (".onnx",)

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
    suffixes = (".bin", ".xml")

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
            self.model = nncf.quantize(self.model, nncf.Dataset(batches), subset_size=len(batches), ignored_scope=scope)


FORMATS: dict[str, Any] = {"onnx": Onnx, "openvino": OpenVino, "torch-export": TorchExport}


def require_packages(format: str, int8: bool) -> dict[str, str]:
    """The versions of the packages that a format needs; `InputMissing` without one of them."""
    if torch.__version__ < OLDEST_TORCH:
        remedy = f"Run: python -m pip install 'torch>={OLDEST_TORCH}' torchvision"
        raise InputMissing("amem export", why=f"torch {torch.__version__} is too old for it", remedy=remedy)
    packages = (*FORMATS[format].packages, *(("nncf",) if int8 else ()))
    if missing := [name for name in packages if not is_installed(name)]:
        why = f"not installed: {', '.join(missing)}"
        raise InputMissing("--format", format, why=why, remedy='Run: python -m pip install "amem[export]"')
    return {name: metadata.version(name) for name in packages}
