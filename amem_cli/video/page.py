"""The page of `amem find`: people as rows, a timeline per camera, clips, attributes. One HTML file, no network."""

import contextlib
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from amem_cli.artifacts import atomic
from amem_cli.artifacts.paths import is_generated
from amem_cli.artifacts.pseudo_labels import PseudoLabels
from amem_cli.data.clips import evenly_spaced
from amem_cli.data.images import open_rgb
from amem_cli.data.readers.files import frames_in_order, list_folder
from amem_cli.errors import BadData, counted, listing
from amem_cli.pictures.frames import side_by_side
from amem_cli.pictures.html import clock, render, webp
from amem_cli.runtime.progress import Progress
from amem_cli.video.link import Linked
from amem_cli.video.search import Found, Hit, SearchResult
from amem_cli.video.tracklets import Tracklets

FRAME, GREY = (80, 160), (128, 128, 128)  # width, height of a frame on the page, and what fills it up
STRIP = 6  # frames of a strip
MOST_FRAMES = 40  # of a clip
MOST_BYTES = 10_000_000  # of all pictures, before they become text
BYTES_PER_TRACK = 650  # what the text about a track takes from that
LEAST_BAR = 0.006  # width of a bar, as a fraction of the timeline
BYTES_PER_FRAME = 2800
ATTRIBUTE, MOST_TAGS = 0.5, 8
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)  # seconds between the marks of a timeline, below hours
LEAST_ONE = 0.4  # less: rather another person
DOUBTFUL_BELOW, NEAR_LIMIT = 0.8, 0.8  # how probable; of the limit
_page = partial(render, __package__, "page", ())
WORDS = ((0.95, "almost certainly"), (0.8, "very likely"), (0.6, "probably"), (0.0, "perhaps"))


@dataclass(frozen=True)
class Clip:
    """A track on the page: its frames side by side in one picture, `columns` of them."""

    key: str
    name: str
    camera: str
    when: str
    seconds: float | None
    columns: int
    source: str
    note: str

    @property
    def strip(self) -> list[int]:
        """The places of the strip's frames in the picture."""
        return evenly_spaced(range(self.columns), STRIP)


def find_page(linked: Linked, tracklets: Tracklets, labels: PseudoLabels | None, used: list[str]) -> str:
    """The page of `amem find`; `used` says what it was made with."""
    gallery = linked.gallery
    frames = _chosen([_images(tracklets.folder / name) for name in gallery.tracklets])
    notes = ["" if np.isnan(sure) else f"same person: {per_cent(sure)}" for sure in linked.probability]
    columns = zip(gallery.tracklets, gallery.cameras, gallery.seconds, frames, notes, strict=True)
    clips = [_clip(f"t{row}", *column) for row, column in enumerate(columns)]
    members: dict[int, list[int]] = defaultdict(list)
    for row, person in enumerate(linked.person.tolist()):
        members[person].append(row)
    tags = _tags(labels, gallery.tracklets, members) if labels else {}
    people: list[dict[str, Any]] = []
    for person, rows in members.items():
        cameras = list(dict.fromkeys(gallery.cameras[row] for row in rows))
        seen = seen_by(cameras, len(rows), len(tracklets.tracks))
        (sure, one), (apart, other) = sureness(linked, rows), next_person(linked, person)
        people.append({"number": person, "cameras": cameras, "about": [seen, sure, apart], "doubtful": one or other,
                       "clips": [clips[row] for row in rows], "tags": tags.get(person, [])})  # fmt: skip
    people.sort(key=lambda one: (-len(one["cameras"]), one["number"]))
    every = sorted({tag for one in people for tag in one["tags"]})
    facts = [
        counted(len(tracklets.tracks), "cameras"), counted(len(gallery), "tracks"),
        counted(linked.people, "people"), f"{linked.in_several_cameras()} seen by several cameras",
        f"{sum(one['doubtful'] for one in people)} doubtful", *without_pictures(sum(not own for own in frames)),
    ]  # fmt: skip
    return _page(
        title="Who is where", facts=facts, people=people, tags=every, used=used, clips=clips,
        timelines=timelines(linked), generated=is_generated(tracklets.folder),
        faults=tracklets.faults + gallery.doubts(linked.calibration), calibrated=linked.calibration is not None,
    )  # fmt: skip


def write_search_page(result: SearchResult, out: Path, progress: Progress) -> None:
    """The page of a search; a tracklet has pictures where its data set is where the features file says."""
    frames: dict[int, Sequence[Path]] = {}
    missing = set()
    rows = [hit.row for found in result.found for hit in found.hits]
    for row in rows + [found.row for found in result.found if found.row is not None]:
        table, tracklet = result.gallery.tables[result.gallery.file_of(row)], result.gallery.tracklets[row]
        folder = Path(table.folder, tracklet)
        if not table.folder or not folder.is_dir():
            missing.add(table.folder or table.dataset)
        elif images := _images(folder):
            frames[row] = images
    if missing:
        progress.warn(f"no pictures of the tracks of {listing(sorted(missing))}: their images are not there")
    used = [f"features: {path.name}" for path in result.gallery.paths]
    used += [f"model trained on {result.gallery.training}"] if result.gallery.training else []
    used += result.gallery.extracted_with
    used.append(f"calibration: {result.calibration.name}" if result.calibration else "no calibration")
    atomic.write_text(out, search_page(result, frames, used))


def search_page(result: SearchResult, frames_of: Mapping[int, Sequence[Path]], used: list[str]) -> str:
    """The page of `amem search --out`: a row per query with its hits; `frames_of` are images by row of the gallery."""
    people, clips = [], []
    asked = [found.row for found in result.found if found.row is not None]
    hits = [hit.row for found in result.found for hit in found.hits]
    chosen = _chosen([frames_of.get(row, ()) for row in asked + hits])
    frames = iter(chosen[len(asked) :])
    lacking = {row for row, own in zip(hits, chosen[len(asked) :], strict=True) if not own}
    for number, found in enumerate(result.found, start=1):
        shown = []
        for hit, own in zip(found.hits, frames, strict=False):
            times = np.array([hit.first_seconds, hit.last_seconds], float)
            note = f"{hit.rank}. {_note(hit)}"
            shown.append(_clip(f"q{number}-{hit.rank}", hit.tracklet, hit.camera, times, own, note))
        if found.row is not None and found.row in frames_of:
            name, camera = result.gallery.tracklets[found.row], result.gallery.cameras[found.row]
            asked_for = _clip(f"q{number}-asked", name, camera, np.full(2, np.nan), chosen[0], "looked for")
            shown.insert(0, asked_for)  # the only query
        clips += shown
        people.append({"number": number, "heading": heading(found), "about": [], "doubtful": False,
                       "clips": shown, "tags": []})  # fmt: skip
    from_gallery = all(found.row is not None for found in result.found)  # a video or a folder may show real people
    folders = [table.folder for table in result.gallery.tables]
    generated = from_gallery and all(folder and is_generated(Path(folder)) for folder in folders)
    doubts = [] if any(found.described for found in result.found) else result.gallery.doubts(result.calibration)
    facts = [counted(len(people), "queries"), f"{result.searched} tracklets searched", *without_pictures(len(lacking))]
    return _page(
        title="Search", facts=facts, people=people, tags=[], used=used, clips=clips, timelines=[],
        faults=doubts, generated=generated, calibrated=True,
    )  # fmt: skip


def heading(found: Found) -> str:
    """What the hits of a query are: nearest to a tracklet, or people who fit a description."""
    if not found.described:
        return f"Nearest to {found.query}"
    words = (("not " if word[0] == "-" else "") + readable(word[1:]) for word in found.query.split())
    return f"Fits the description: {', '.join(words)}"


def in_words(probability: float) -> str:
    """How sure, in words and per cent, of one person or of another."""
    who, sure = ("one", probability) if probability >= LEAST_ONE else ("another", 1 - probability)
    word = next(word for least, word in WORDS if sure >= least)
    return f"{word} {who} person ({per_cent(sure)})"


def per_cent(sure: float) -> str:
    return "more than 99 %" if sure > 0.99 else f"{100 * sure:.0f} %"


def seen_by(cameras: Sequence[str], tracks: int, known: int) -> str:
    """Where a person was seen; `known` is the number of all cameras."""
    if len(cameras) > 1:
        return f"Seen by {', '.join(cameras[:-1])} and {cameras[-1]}."
    if known > 1:
        return f"Seen by {cameras[0]} only: nobody in another camera is alike enough to count as the same."
    return "Seen once." if tracks == 1 else f"Seen {tracks} times."


def sureness(linked: Linked, rows: Sequence[int]) -> tuple[str, bool]:
    """How sure it is that the tracks of a person are one, by the least sure of them; and whether it is doubtful."""
    if len(rows) == 1:
        return "", False
    chances = linked.probability[list(rows)]
    if not np.isnan(chances).all():
        chance = float(np.nanmin(chances))
        return f"The {len(rows)} tracks are {in_words(chance)}.", chance < DOUBTFUL_BELOW
    far = float(np.nanmax(linked.distance[list(rows)])) / max(linked.threshold, 1e-9)
    alike = "very much alike" if far < 1 / 3 else "alike" if far < NEAR_LIMIT else "only just alike enough"
    return f"The {len(rows)} tracks look {alike} (difference {100 * far:.0f} % of the usual limit).", far >= NEAR_LIMIT


def next_person(linked: Linked, person: int) -> tuple[str, bool]:
    """About the most similar other person, and whether it is doubtful that it is another; empty if there is none."""
    other, far = linked.most_similar(person)
    if not other:
        return "", False
    if linked.together(person, other):
        return f"Most similar is person {other}, in view at the same time: another person.", False
    if linked.calibration is not None and not linked.uncertain & {person, other}:
        chance = float(linked.calibration.probability(np.array(far)))
        return f"Most similar is person {other}: {in_words(chance)}.", chance > 1 - DOUBTFUL_BELOW
    part = far / max(linked.threshold, 1e-9)
    how = "who could be the same: compare the pictures" if part < 1.5 else "not alike enough to be the same"
    return f"Most similar is person {other}, {how} (difference {100 * part:.0f} % of the usual limit).", part < 1.5


def period(first: float, last: float) -> str:
    begin, end = clock(first), clock(last)
    return begin if begin == end else f"{begin} to {end}"


def readable(attribute: str) -> str:
    """An attribute of PETA in words."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z0-9])", " ", attribute).lower()
    words = re.sub(r"^(personal|carrying|accessory) (?!nothing|other)", "", words)
    return words.replace("accessory nothing", "no accessory").replace("less ", "under ").replace("larger ", "over ")


def _note(hit: Hit) -> str:
    parts = [in_words(hit.probability)] if hit.probability is not None else []
    parts += [f"squared distance {hit.distance:.3f}"] if hit.distance is not None and hit.probability is None else []
    parts += [f"fits the description by {100 * hit.fits:.0f} %"] if hit.fits is not None else []
    return ", ".join(parts)


def _tags(labels: PseudoLabels, tracklets: list[str], members: dict[int, list[int]]) -> dict[int, list[str]]:
    """The most probable attributes of each person, over the person's tracks, without guesses of gender and age."""
    row_of = {name: row for row, name in enumerate(labels.tracklet)}
    found = {}
    for person, rows in members.items():
        means = labels.probabilities[[row_of[tracklets[row]] for row in rows]].mean(axis=0)
        order = [place for place in np.argsort(-means, kind="stable") if means[place] > ATTRIBUTE]
        names = [labels.attributes[place] for place in order]
        found[person] = [readable(name) for name in names if not name.startswith("personal")][:MOST_TAGS]
    return found


def timelines(linked: Linked) -> list[dict[str, Any]]:
    """One per camera with times: bars (person, track's row, left and width in per cent, lane)."""
    gallery = linked.gallery
    rows = [row for row in range(len(gallery)) if not np.isnan(gallery.seconds[row]).any()]
    if not rows:
        return []
    end = max(float(gallery.seconds[rows, 1].max()), 1e-3) / (1 - LEAST_BAR)  # with room for the last bar
    found = []
    for camera in dict.fromkeys(gallery.cameras[row] for row in rows):
        ends: list[float] = []
        bars = []
        inside = [row for row in rows if gallery.cameras[row] == camera]
        for row in sorted(inside, key=lambda row: gallery.seconds[row, 0]):
            first, last = map(float, gallery.seconds[row])
            when = period(first, last)
            last = max(last, first + LEAST_BAR * end)
            lane = next((place for place, until in enumerate(ends) if until <= first), len(ends))
            ends[lane:] = [last, *ends[lane + 1 :]]
            place = {"left": round(100 * first / end, 2), "width": round(100 * (last - first) / end, 2)}
            about = {"person": int(linked.person[row]), "key": f"t{row}", "when": when}
            bars.append(about | place | {"lane": lane})
        found.append({"camera": camera, "bars": bars, "lanes": len(ends)})
    return [timeline | {"marks": marks(end)} for timeline in found]


def marks(end: float) -> list[dict[str, Any]]:
    """Up to seven round times along a timeline, none so near to its end that the text goes beyond."""
    step = next((step for step in STEPS if end <= 6 * step), 3600 * math.ceil(end / 6 / 3600))
    return [{"left": round(100 * at / end, 1), "text": clock(at)} for at in range(0, int(0.97 * end) + 1, step)]


def _images(folder: Path) -> list[Path]:
    return [folder / name for name in frames_in_order(list_folder(folder)[0])]


def _chosen(tracks: Sequence[Sequence[Path]]) -> list[list[Path]]:
    """The frames shown of each track: the more tracks, the fewer, so that the page stays small. Where one frame of each
    would be too many, the last tracks have none."""
    total = max(MOST_BYTES - BYTES_PER_TRACK * len(tracks), 0) // BYTES_PER_FRAME
    most = min(MOST_FRAMES, max(1, total // max(len(tracks), 1)))
    shown = total // most  # tracks with pictures
    return [evenly_spaced(frames, most) if row < shown else [] for row, frames in enumerate(tracks)]


def without_pictures(count: int) -> list[str]:
    """A fact about the tracks that the page has no pictures of, if there are some."""
    return [f"{counted(count, 'tracks')} without pictures"] if count else []


def _clip(key: str, name: str, camera: str, seconds: np.ndarray, frames: Sequence[Path], note: str) -> Clip:
    """A track with its frames side by side; `seconds` (2,) are NaN if unknown."""
    first, last = seconds.tolist()
    when, length = ("", None) if np.isnan(seconds).any() else (period(first, last), last - first)
    pictures = []
    for path in frames:
        with contextlib.suppress(BadData):  # the features are without it, too
            pictures.append(ImageOps.pad(open_rgb(path), FRAME, Image.Resampling.BILINEAR, color=GREY))
    if len(pictures) < len(frames):
        note = "; ".join(filter(None, [note, f"without {counted(len(frames) - len(pictures), 'damaged frames')}"]))
    if not pictures:
        return Clip(key, name, camera, when, length, 0, "", note)
    sheet = Image.fromarray(side_by_side(np.stack([*map(np.asarray, pictures)]), len(pictures), 0))
    return Clip(key, name, camera, when, length, len(pictures), webp(sheet, quality=55), note)
