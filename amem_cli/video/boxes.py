"""Where boxes around people come from: a MOTChallenge file, a detector of torchvision, or motion."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from amem_cli.artifacts.atomic import open_input, sha256_file, sha256_lines
from amem_cli.data.readers.files import BadRows, read_text
from amem_cli.errors import BadData, InputMissing, UsageError, did_you_mean, require_known
from amem_cli.video.decode import Camera, Picture

DETECTORS = (
    "fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_resnet50_fpn_v2",
    "retinanet_resnet50_fpn_v2", "ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn",
)  # fmt: skip
DEFAULT_DETECTOR = "fasterrcnn_mobilenet_v3_large_fpn"
PERSON = 1  # COCO's class
LEAST_SCORE = 0.2
DETECTOR_BATCH = 4
MOST_BOXES = 1000  # in one picture
MOST_MOT_BYTES = 1 << 30
MOT_COLUMNS = 10  # at most
MOT_REMEDY = "Give a MOTChallenge file, motion or torchvision"
VISIBLE = 0.25  # of a person, at least
PART = 500  # pictures whose boxes are stored together
WithBoxes = Iterator[tuple[Picture, np.ndarray]]


def part_of(picture: Picture) -> int:
    """The number of the part, from 0, that a picture's boxes are stored in."""
    return (picture.number - 1) // PART


@dataclass(frozen=True)
class Boxes:
    """`find(camera, pictures)` gives (picture, boxes (n, 6)) in order: left, top, width, height, score, id.

    The id is -1 where the source does not track. `name` is for people, `identity` for provenance. `given` are the
    frames of all boxes of a file.
    """

    name: str
    identity: str
    find: Callable[[Camera, Iterator[Picture]], WithBoxes] = field(repr=False)
    given: tuple[int, ...] = field(default=(), repr=False)


def detects(choice: str) -> bool:
    """Whether a choice of `--boxes` can be a detector."""
    return choice.partition(":")[0] in ("", "torchvision")


def boxes_from(choice: str, detector_weights: Path | None, device: str) -> Boxes:
    """The source for `--boxes`: "motion", "torchvision", "torchvision:MODEL", a file, or empty for the default.

    The default is a detector if its weights are on the disk, else motion. Raises `UsageError` or `InputMissing`.
    """
    if not choice:
        choice = "torchvision" if detector_weights or _cached_weights(DEFAULT_DETECTOR) else "motion"
    kind, _, model = choice.partition(":")
    if choice == "motion":
        return Boxes("motion in front of a fixed background", "motion", _motion)
    if kind == "torchvision":
        return _detector(model or DEFAULT_DETECTOR, detector_weights, device)
    if not Path(choice).exists() and not choice.endswith(".txt"):
        remedy = f"{did_you_mean(choice, ('motion', 'torchvision'))}Use motion, torchvision[:MODEL] or a file"
        raise UsageError("--boxes", choice, why="not a source of boxes", remedy=remedy)
    table, left_out = read_mot(Path(choice))
    given = tuple(frame for frame, boxes in table.items() for _ in boxes)
    without = f", without {left_out} rows that are no visible, tracked pedestrian" if left_out else ""
    name = f"the boxes of {Path(choice).name}{without}"
    digest = sha256_lines(f"{frame} {boxes.tolist()}" for frame, boxes in table.items())[:16]

    def listed(camera: Camera, pictures: Iterator[Picture]) -> WithBoxes:
        return ((picture, table.get(picture.number, np.zeros((0, 6)))) for picture in pictures)

    return Boxes(name, f"mot {digest}", listed, given)


def _motion(camera: Camera, pictures: Iterator[Picture]) -> WithBoxes:
    from amem_cli.video.motion import MotionBoxes

    find = MotionBoxes(camera)
    for picture in pictures:
        found = find(picture)
        yield picture, np.concatenate([found, np.full((len(found), 1), -1.0)], axis=1)


def read_mot(path: Path) -> tuple[dict[int, np.ndarray], int]:
    """Boxes (n, 6) of each frame of a MOTChallenge file `frame,id,left,top,width,height[,score,...]`, and the number of
    rows that are left out.

    Left out are rows with flag 0 of ground truth; with nine columns other classes than pedestrians, and people of whom
    less than a quarter is visible, because their boxes show others; next to tracks, boxes without one. Scores are used
    if all are from 0 to 1. Raises `BadRows` with every row that cannot be read, or for more than 1000 boxes in a frame.
    """
    rows = _mot_rows(path)
    scores = {row[6] for row in rows}
    flags, scored = scores == {0, 1}, min(scores) >= 0 and 0 < max(scores) <= 1
    tracked = any(row[1] >= 0 for row in rows)
    table: dict[int, list[list[float]]] = {}
    for frame, person, *box, score, kind, visible in rows:
        if (score or not flags) and kind in (1, -1) and not 0 <= visible < VISIBLE and (person >= 0 or not tracked):
            table.setdefault(int(frame), []).append([*box, score if scored else 1.0, max(person, -1)])
    if not table:
        raise BadData("boxes", path, why="it has no boxes of people", remedy=MOT_REMEDY)
    if full := [f"frame {frame} has {len(boxes)}" for frame, boxes in table.items() if len(boxes) > MOST_BOXES]:
        raise BadRows("boxes", path, why=f"more than {MOST_BOXES} boxes in a frame", rows=full)
    kept = sum(map(len, table.values()))
    return {frame: np.array(boxes) for frame, boxes in sorted(table.items())}, len(rows) - kept


def _mot_rows(path: Path) -> list[list[float]]:
    """Nine numbers of each row: frame, id, left, top, width, height, score, class, visible part; -1: unknown."""
    rows, bad, seen = [], [], set()
    for number, line in enumerate(read_text(path, "boxes", MOST_MOT_BYTES).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = [float(value) for value in line.strip().rstrip(", ").split("," if "," in line else None)]
            frame, person, _, _, width, height = values[:6]
            whole = all(map(math.isfinite, values)) and frame == int(frame) >= 1 and person == int(person)
            if not whole or min(width, height) <= 0 or len(values) > MOT_COLUMNS:
                raise ValueError
        except ValueError:
            bad.append(f"line {number}: {line[:60]!r}")
            continue
        if person >= 0 and (frame, person) in seen:
            bad.append(f"line {number}: a second box of id {person:g} in frame {frame:g}")
        seen.add((frame, person))
        rows.append([*values, 1.0][:7] + (values[7:] if len(values) == 9 else [-1.0, -1.0]))
    if bad:
        why = "rows that are not `frame,id,left,top,width,height,...` with frames from 1"
        raise BadRows("boxes", path, why=why, rows=bad, remedy=MOT_REMEDY)
    if not rows:
        raise BadData("boxes", path, why="it has no boxes", remedy=MOT_REMEDY)
    return rows


def _detector(model: str, weights: Path | None, device: str) -> Boxes:
    known = [f"torchvision:{name}" for name in DETECTORS]
    require_known("--boxes", [f"torchvision:{model}"], known, "no detector of this name")
    if weights is not None:
        open_input(weights, "detector weights").close()
    path = weights or _cached_weights(model)
    if path is None:
        remedy = f"Download {_address_of_weights(model)} and give it as --detector-weights FILE, or use --boxes motion"
        raise InputMissing("detector", model, why="its weights are not on this machine", remedy=remedy)
    identity = f"torchvision {model} {sha256_file(path)[:16]}"
    return Boxes(f"torchvision's {model}", identity, lambda _, pictures: _detect(_load(model, path, device), pictures))


def _cached_weights(model: str) -> Path | None:
    """The file of torchvision's weights in torch's hub cache, if it is there."""
    from amem_cli.weights.names import cache_path

    path = cache_path(_address_of_weights(model))
    return path if path.is_file() else None


def _address_of_weights(model: str) -> str:
    """Where torchvision downloads its weights from."""
    import torchvision

    return str(torchvision.models.get_model_weights(model).DEFAULT.url)


def _load(model: str, path: Path, device: str) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """A function from RGB pictures to boxes of people (n, 6)."""
    import torch
    import torchvision

    from amem_cli.runtime.distributed import choose_device

    network = torchvision.models.get_model(model, weights=None, weights_backbone=None)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        why = f"not the weights of {model} ({str(error).splitlines()[0]})"
        raise BadData("detector weights", path, why=why, remedy="Give --boxes torchvision:MODEL of these") from error
    where = choose_device(device)
    network = network.to(where).eval()

    @torch.inference_mode()
    def detect(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        images = [torch.from_numpy(np.ascontiguousarray(p)).to(where).permute(2, 0, 1).float() / 255 for p in pictures]
        found = []
        for result in network(images):
            kept = (result["labels"] == PERSON) & (result["scores"] >= LEAST_SCORE)
            corners, scores = (result[key][kept].cpu().double().numpy() for key in ("boxes", "scores"))
            sides = corners[:, 2:] - corners[:, :2]
            columns = [corners[:, :2], sides, scores[:, None], np.full((len(scores), 1), -1.0)]
            found.append(np.concatenate(columns, axis=1)[:MOST_BOXES])
        return found

    return detect


def _detect(detect: Callable[[Sequence[np.ndarray]], list[np.ndarray]], pictures: Iterator[Picture]) -> WithBoxes:
    # a batch does not cross parts, so that a continued run has the same batches
    for _, part in itertools.groupby(pictures, part_of):
        while batch := list(itertools.islice(part, DETECTOR_BATCH)):
            yield from zip(batch, detect([picture.rgb() for picture in batch]), strict=True)
