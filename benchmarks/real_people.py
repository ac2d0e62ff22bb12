"""Rank-1 of real people from PETA: the rows of Table 3 on TownCentre and CAVIAR.

    python benchmarks/real_people.py FOLDER --peta PETA [--rows baseline aem mem amem] [--seeds 3] [--preset small]
        [--config options.toml] [--name small] [--people 50] [--new-cameras] [--no-adapt-cameras] [--parts 4]
        [--large-galleries] [--minus adapted-small/baseline]

PETA is the folder of its original layout. The archives of TownCentre (one camera) and CAVIAR (two cameras) number the
frames of each person. The first and the last 45 % of a walk in TownCentre are two tracklets, and so are the ten frames
of each camera of CAVIAR. The people are halved: each half is trained on and tests the other. The recogniser is trained
on PETA without the people of the test. `--people` trains on fewer, in the same proportion of both archives. Every
tracklet is a query, and its gallery is the other camera of its archive (in TownCentre: the other part of each walk).

With `--new-cameras` all these people are trained on, and others are tested, in cameras that nothing was trained on: the
first and the last image of each person of VIPeR, GRID, PRID and i-LID, one archive at a time. The recogniser is trained
without these archives.

`--no-adapt-cameras` and `--parts` score the same trainings by the features of `extract-features` with these options,
`--large-galleries` with the training people of the test's archives in the galleries, too. `--minus ROW` prints all
results minus those of a row, with 95 % bootstrap intervals over people (means over the seeds).

The rows `pixels` (average pixels of a tracklet at 16 x 8, centred and normalised) and `recogniser` (its features) are
not trained for identity. Finished work is kept, so the command continues; the figures are in FOLDER/results.json.
"""

import argparse
import json
import re
import shutil
from collections import ChainMap, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts import atomic, features
from amem_cli.data.datasets import read_videos
from amem_cli.data.loading import read_frames
from amem_cli.data.manifest import load_manifest
from amem_cli.metrics.intervals import bootstrap_interval
from amem_cli.metrics.ranking import evaluate_ranking
from amem_cli.options import COMMANDS, ExtractFeaturesOptions, TrainAmemOptions, TrainArmOptions
from amem_cli.resolve import resolve
from amem_cli.runtime.memory import keep_freed_memory
from amem_cli.runtime.progress import Progress
from amem_cli.stages.extract_features import extract_features
from amem_cli.stages.label_videos import label_videos
from amem_cli.stages.train_amem import train_amem
from amem_cli.stages.train_arm import train_arm
from amem_cli.stages.train_tae import train_tae

ROWS = ("baseline", "aem", "mem", "amem")
UNTRAINED = ("pixels", "recogniser")
VIDEOS = {"TownCentre": 1000, "CAVIAR": 2000}  # added to the number of a person: person ids of all in one data set
IMAGES = {"VIPeR": 3000, "GRID": 4000, "PRID": 5000, "i-LID": 6000}
ARCHIVES = VIDEOS | IMAGES
FOLDERS = {archive: archive for archive in ARCHIVES} | {"CAVIAR": "CAVIAR4REID"}
PART = 0.45  # of a walk in TownCentre, at its start and at its end
Hits = dict[str, dict[str, list[int]]]  # by archive and person: 1 for each query that is found, else 0
MANIFEST = 'name = "people"\nlayout = "folder"\nroot = "people"\nfolders = "split/person/camera"\n'


def tracklets_of(peta: Path, archive: str) -> dict[int, tuple[list[Path], list[Path]]]:
    """The frames of each person's two tracklets, by person id."""
    numbered = defaultdict(list)
    for path in (peta / FOLDERS[archive] / "archive").iterdir():
        if match := re.fullmatch(r"(\d+)_(\w+)\.(jpe?g|bmp|png)", path.name):
            frame = int(match[2]) if archive in VIDEOS else match[2]
            numbered[ARCHIVES[archive] + int(match[1])].append((frame, path))
    tracklets = {}
    for person, frames in sorted(numbered.items()):
        paths = [path for _, path in sorted(frames)]
        part = {"TownCentre": int(PART * len(paths)), "CAVIAR": 10}.get(archive, 1)
        enough = {"TownCentre": part >= 8, "CAVIAR": len(paths) == 20}.get(archive, len(paths) >= 2)
        if enough:
            tracklets[person] = (paths[:part], paths[-part:])
    return tracklets


def write_half(peta: Path, folder: Path, half: int) -> None:
    """`people`, with the people of one half to train on, and `peta` without the others."""
    tests = set()
    for archive in VIDEOS:
        for place, (person, cameras) in enumerate(tracklets_of(peta, archive).items()):
            tests |= {person} if place % 2 != half else set()
            write_person(folder, "train" if place % 2 == half else "test", person, cameras)
    base = {FOLDERS[archive]: VIDEOS[archive] for archive in VIDEOS}

    def held_out(part: Path) -> bool:
        person = part.name.partition("_")[0]
        return part.parts[0] in base and person.isdigit() and base[part.parts[0]] + int(person) in tests

    write_peta(peta, folder, held_out)


def write_new_cameras(peta: Path, folder: Path) -> None:
    """`people`, with those of the videos to train on and those of the images to test, and `peta` without the images."""
    for archive in ARCHIVES:
        for person, cameras in tracklets_of(peta, archive).items():
            write_person(folder, "train" if archive in VIDEOS else "test", person, cameras)
    write_peta(peta, folder, lambda part: part.parts[0] in IMAGES)


def write_person(folder: Path, split: str, person: int, cameras: tuple[list[Path], list[Path]]) -> None:
    """The cameras of the first archive are 1 and 2, of the second 3 and 4, ..."""
    for camera, frames in enumerate(cameras, 2 * (person // 1000) - 1):
        target = folder / "people" / split / str(person) / str(camera)
        target.mkdir(parents=True, exist_ok=True)
        for number, frame in enumerate(frames):
            shutil.copyfile(frame, target / f"{number:05d}{frame.suffix}")


def write_peta(peta: Path, folder: Path, held_out: Callable[[Path], bool]) -> None:
    """`peta` without the files that are held out, given as paths below PETA's folder; then the manifest of `people`."""
    for path in sorted(peta.rglob("*")):
        part = path.relative_to(peta)
        if path.is_file() and not held_out(part):
            target = folder / "peta" / "PETA dataset" / part
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    (folder / "people.toml").write_text(MANIFEST)


def large_galleries(manifest: Path) -> Path:
    """The manifest of a data set whose test people are the training and the test people of another. A data set needs
    training people, and nobody may be both, so one of them is also there as person 9000, who is not used."""
    name = f"large-{manifest.stem}"
    people = manifest.parent / manifest.stem
    links = {manifest.parent / name / "test" / path.name: path for path in people.glob("*/*")}
    links |= {manifest.parent / name / "train/9000": next((people / "train").iterdir())}
    for link, path in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(path.resolve())
    large = manifest.with_name(f"{name}.toml")
    large.write_text(MANIFEST.replace('"people"', f'"{name}"'))
    return large


def few_people(here: Path, count: int) -> Path:
    """The manifest of a half with `count` of its training people, evenly spaced, and all test people."""
    ids = sorted(int(path.name) for path in (here / "people/train").iterdir())
    if not 2 <= count <= len(ids):
        raise SystemExit(f"--people {count}: must be from 2 to {len(ids)}")
    kept = np.array(ids)[np.arange(count) * len(ids) // count]
    for part in ("test", *(f"train/{person}" for person in kept)):
        link = here / f"people{count}" / part
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(here / "people" / part)
    manifest = here / f"people{count}.toml"
    manifest.write_text(MANIFEST.replace('"people"', f'"people{count}"'))
    return manifest


def hits_of(values: np.ndarray, people: np.ndarray, cameras: np.ndarray) -> Hits:
    """By archive and person: for each query, whether its nearest tracklet in the other camera is of the same person.

    `values` (N, D) are the features of the test tracklets; the cameras of an archive are an odd number and the next.
    Both are queries, one after the other.
    """
    hits: Hits = defaultdict(lambda: defaultdict(list))
    for archive, first in ARCHIVES.items():
        own = people // 1000 == first // 1000
        for camera in (1, 2):
            query, gallery = own & (cameras % 2 == camera % 2), own & (cameras % 2 != camera % 2)
            if not query.any():
                continue
            pairs = [(each[query], each[gallery]) for each in (values, people, cameras)]
            ranks = evaluate_ranking(*pairs[0], *pairs[1], *pairs[2]).first_match_rank
            for person, rank in zip(people[query], ranks, strict=True):
                hits[archive][str(person)] += [int(rank == 1)]
    return hits


def main(arguments: argparse.Namespace) -> None:
    folder, progress = arguments.folder.resolve(), Progress()
    if arguments.adapt_cameras is None:
        usual = resolve(ExtractFeaturesOptions, {}, preset=arguments.preset, config=arguments.config)
        arguments.adapt_cameras = usual.adapt_cameras
    figures = read_results(folder)
    parts = ["new-cameras"] if arguments.new_cameras else ["half0", "half1"]
    for half, part in enumerate(parts):
        if not (folder / part / "people.toml").is_file():
            write = write_new_cameras if arguments.new_cameras else partial(write_half, half=half)
            write(arguments.peta, folder / part)
    where = "new-cameras-" if arguments.new_cameras else ""
    people = f"-{arguments.people}" if arguments.people else ""
    for seed in range(arguments.seeds):
        for row in arguments.rows:
            name = f"{where}{arguments.name}{people}/{row}/seed{seed}"
            key = scored_as(arguments) + name
            if key not in figures and (seed == 0 or row not in UNTRAINED):
                scores = [scores_of(folder / part, row, name, seed, arguments, progress) for part in parts]
                own = {archive: dict(ChainMap(*(one[archive] for one in scores))) for archive in scores[0]}
                figures = add_results(folder, {key: own})
                print(key, {archive: rate(hits) for archive, hits in figures[key].items()}, flush=True)
    print_table(figures)
    if arguments.minus:
        print_differences(figures, arguments.minus)


def read_results(folder: Path) -> dict[str, Hits]:
    """The hits by row and seed. Those of an earlier version, which kept only their numbers, are left out."""
    path = folder / "results.json"
    figures = json.loads(path.read_text()) if path.is_file() else {}
    return {name: hits for name, hits in figures.items() if all(isinstance(one, dict) for one in hits.values())}


def add_results(folder: Path, new: dict[str, Hits]) -> dict[str, Hits]:
    """All hits, after adding some; another run may have added others since they were read."""
    figures = read_results(folder) | new
    atomic.write_text(folder / "results.json", json.dumps(figures))
    return figures


def scored_as(arguments: argparse.Namespace) -> str:
    """What stands before the name of a row: how its features were extracted."""
    how = "adapted-" * arguments.adapt_cameras + f"parts{arguments.parts}-" * (arguments.parts > 1)
    return "large-" * arguments.large_galleries + how


def scores_of(here: Path, row: str, name: str, seed: int, arguments: argparse.Namespace, progress: Progress) -> Hits:
    """Train a row on one part, after the recogniser, labels and TAE that all rows share, and score its test people."""

    def options(command: str, **values: Any) -> Any:
        flags = {"workspace": here / "workspace", "data_root": here} | values
        return resolve(COMMANDS[command], flags, preset=arguments.preset, config=arguments.config)

    manifest = few_people(here, arguments.people) if arguments.people else here / "people.toml"
    tested = large_galleries(manifest) if arguments.large_galleries else manifest
    test_people = {path.name for path in (here / "people/test").iterdir()}

    def score(values: np.ndarray, people: np.ndarray, cameras: np.ndarray) -> Hits:
        hits = hits_of(values, people, cameras)
        return {archive: {one: by[one] for one in by if one in test_people} for archive, by in hits.items()}

    if row == "pixels":
        return score(*average_pixels(tested))
    video = {"dataset": str(manifest)}
    shared = video | {"workspace": here / manifest.stem.replace("people", "workspace")}
    own = video | {"workspace": here / name}
    scored = {"dataset": str(tested), "workspace": here / f"{scored_as(arguments)}{name}"}
    scored |= {"adapt_cameras": arguments.adapt_cameras, "parts": arguments.parts}
    recogniser: TrainArmOptions = options("train-arm", partition="none")
    if row == "recogniser":
        arm = train_arm(recogniser, progress).artifact
        return score(*extracted(options("extract-features", model=str(arm), **scored), progress))
    given: TrainAmemOptions = options("train-amem", modules=row, **video)
    from_recogniser = given.weights == "auto" and given.backbone == recogniser.backbone
    parts = {}
    if given.uses_aem or from_recogniser:
        arm = train_arm(recogniser, progress).artifact
        parts |= {"weights": str(arm)} if from_recogniser else {}
    if given.uses_aem:
        parts["labels"] = str(label_videos(options("label-videos", arm=str(arm), **shared), progress).artifact)
    if given.uses_mem:
        parts["tae"] = str(train_tae(options("train-tae", **shared), progress).artifact)
    (trained,) = train_amem(options("train-amem", modules=row, seed=seed, **parts, **own), progress)
    model = str(trained.artifact.with_name("amem-main.safetensors"))
    return score(*extracted(options("extract-features", model=model, **scored), progress))


def extracted(options: ExtractFeaturesOptions, progress: Progress) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The features that these options compute, person ids and cameras."""
    (result,) = extract_features(options, progress)
    found = features.read(result.artifact)
    return found.features, found.person_id, found.camera_id


def average_pixels(manifest: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (N, 384) without any training, person ids and cameras: the mean image, centred and normalised."""
    (split,) = read_videos(load_manifest(str(manifest)), manifest.parent).splits
    images = np.stack(
        [read_frames(tracklet, np.arange(len(tracklet)), (16, 8)).mean(axis=0).ravel() for tracklet in split.test]
    )
    centred = images - images.mean(axis=1, keepdims=True)
    ids, cameras = (np.array([getattr(one, name) for one in split.test]) for name in ("person_id", "camera_id"))
    return centred / np.linalg.norm(centred, axis=1, keepdims=True), ids, cameras


def rate(hits: dict[str, list[int]]) -> str:
    """Rank-1 of some people."""
    found = [hit for person in hits.values() for hit in person]
    return f"{sum(found)} of {len(found)} ({100 * np.mean(found):.1f} %)"


def rows_of(figures: dict[str, Hits]) -> dict[str, list[Hits]]:
    """The seeds of each row."""
    rows: dict[str, list[Hits]] = defaultdict(list)
    for name, hits in figures.items():
        rows[name.rpartition("/")[0]].append(hits)
    return dict(rows)


def print_table(figures: dict[str, Hits]) -> None:
    """The queries that each row finds, by archive and seed."""
    for row, seeds in rows_of(figures).items():
        print(row)
        for archive in seeds[0]:
            print(f"    {archive}: {', '.join(rate(one[archive]) for one in seeds)}")


def print_differences(figures: dict[str, Hits], minus: str) -> None:
    """Points of rank-1 of each row minus those of row `minus`, with 95 % intervals over the people of an archive."""
    rows = rows_of(figures)
    if minus not in rows:
        raise SystemExit(f"--minus {minus}: not among the results: {', '.join(rows)}")
    for row, seeds in rows.items():
        cells = []
        for archive, people in seeds[0].items():
            if row != minus and people.keys() == rows[minus][0].get(archive, {}).keys():
                rates = [
                    np.mean([[np.mean(one[archive][person]) for person in people] for one in each], axis=0)
                    for each in (seeds, rows[minus])
                ]
                low, high = bootstrap_interval(100 * (rates[0] - rates[1]), seed=0, resamples=10000)
                cells.append(f"{archive} {100 * np.mean(rates[0] - rates[1]):+.1f} ({low:.1f} to {high:.1f})")
        if cells:
            print(f"{row} minus {minus}: {'; '.join(cells)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Rank-1 of real people from PETA.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peta", type=Path, required=True, help="the folder with TownCentre, CAVIAR4REID, ...")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS + UNTRAINED)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--config", type=Path, help="options as amem config show prints them")
    parser.add_argument("--name", default="small", help="of these options, in the results")
    parser.add_argument("--people", type=int, help="to train on, of the 50 of a half or all 100")
    parser.add_argument("--new-cameras", action="store_true", help="test on archives that nothing was trained on")
    parser.add_argument("--adapt-cameras", action=argparse.BooleanOptionalAction, help="default: as the preset says")
    parser.add_argument("--parts", type=int, default=1, help="score features of extract-features with it")
    parser.add_argument("--large-galleries", action="store_true", help="training people in the galleries, too")
    parser.add_argument("--minus", default="", help="a row of the results, as small/baseline or adapted-small/baseline")
    keep_freed_memory()  # as the commands do
    main(parser.parse_args())
