"""Rank-1 of real people from PETA: the rows of Table 3 on TownCentre and CAVIAR.

    python benchmarks/real_people.py FOLDER --peta PETA [--rows baseline aem mem amem] [--seeds 3] [--preset small]
        [--config options.toml] [--name small] [--people 50]

PETA is the folder of its original layout. The archives of TownCentre (one camera) and CAVIAR (two cameras) number the
frames of each person. The first and the last 45 % of a walk in TownCentre are two tracklets, and so are the ten frames
of each camera of CAVIAR. The people are halved: each half is trained on and tests the other. The recogniser is trained
on PETA without the people of the test. `--people` trains on fewer, in the same proportion of both archives. Every
tracklet is a query, and its gallery is the other camera of its archive (in TownCentre: the other part of each walk).
Finished work is kept, so the command continues; the figures are in FOLDER/results.json.
"""

import argparse
import json
import re
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts import features
from amem_cli.metrics.ranking import evaluate_ranking
from amem_cli.options import COMMANDS, TrainAmemOptions, TrainArmOptions
from amem_cli.resolve import resolve
from amem_cli.runtime.progress import Progress
from amem_cli.stages.extract_features import extract_features
from amem_cli.stages.label_videos import label_videos
from amem_cli.stages.train_amem import train_amem
from amem_cli.stages.train_arm import train_arm
from amem_cli.stages.train_tae import train_tae

ROWS = ("baseline", "aem", "mem", "amem")
ARCHIVES = {"TownCentre": 1000, "CAVIAR": 2000}  # added to the number of a person: person ids of both in one data set
FOLDERS = {"TownCentre": "TownCentre", "CAVIAR": "CAVIAR4REID"}
PART = 0.45  # of a walk in TownCentre, at its start and at its end
MANIFEST = 'name = "people"\nlayout = "folder"\nroot = "people"\nfolders = "split/person/camera"\n'


def tracklets_of(peta: Path, archive: str) -> dict[int, tuple[list[Path], list[Path]]]:
    """The frames of each person's two tracklets, by person id."""
    numbered = defaultdict(list)
    for path in (peta / FOLDERS[archive] / "archive").iterdir():
        if match := re.fullmatch(r"(\d+)_(\d+)\.(jpg|bmp|png)", path.name):
            numbered[ARCHIVES[archive] + int(match[1])].append((int(match[2]), path))
    tracklets = {}
    for person, frames in sorted(numbered.items()):
        paths = [path for _, path in sorted(frames)]
        part = 10 if archive == "CAVIAR" else int(PART * len(paths))
        if part >= 8 and (archive != "CAVIAR" or len(paths) == 2 * part):
            tracklets[person] = (paths[:part], paths[-part:])
    return tracklets


def write_half(peta: Path, folder: Path, half: int) -> None:
    """`people`, with the people of one half to train on, and `peta` without the others."""
    tests = set()
    for archive in ARCHIVES:
        for place, (person, cameras) in enumerate(tracklets_of(peta, archive).items()):
            split = "train" if place % 2 == half else "test"
            tests |= {person} if split == "test" else set()
            for camera, frames in enumerate(cameras, 1):
                target = folder / "people" / split / str(person) / str(camera)
                target.mkdir(parents=True, exist_ok=True)
                for number, frame in enumerate(frames):
                    shutil.copyfile(frame, target / f"{number:05d}{frame.suffix}")
    base = {folder_name: ARCHIVES[archive] for archive, folder_name in FOLDERS.items()}
    for path in sorted(peta.rglob("*")):
        part = path.relative_to(peta)
        person = path.name.partition("_")[0]
        held_out = part.parts[0] in base and person.isdigit() and base[part.parts[0]] + int(person) in tests
        if path.is_file() and not held_out:
            target = folder / "peta" / "PETA dataset" / part
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    (folder / "people.toml").write_text(MANIFEST)


def few_people(here: Path, count: int) -> Path:
    """The manifest of a half with `count` of its training people, evenly spaced, and all test people."""
    ids = sorted(int(path.name) for path in (here / "people/train").iterdir())
    kept = np.array(ids)[np.arange(count) * len(ids) // count]
    for part in ("test", *(f"train/{person}" for person in kept)):
        link = here / f"people{count}" / part
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(here / "people" / part)
    manifest = here / f"people{count}.toml"
    manifest.write_text(MANIFEST.replace('"people"', f'"people{count}"'))
    return manifest


def rank1_of(values: np.ndarray, people: np.ndarray, cameras: np.ndarray) -> dict[str, tuple[int, int]]:
    """By archive: the queries whose nearest tracklet in the other camera is of the same person, and all queries.

    `values` (N, D) are the features of the test tracklets. Both cameras are queries, one after the other.
    """
    rates = {}
    for archive, first in ARCHIVES.items():
        found = queries = 0
        for camera in (1, 2):
            own = (people >= first) & (people < first + 1000)
            query, gallery = own & (cameras == camera), own & (cameras != camera)
            pairs = [(each[query], each[gallery]) for each in (values, people, cameras)]
            ranking = evaluate_ranking(*pairs[0], *pairs[1], *pairs[2])
            found += round(ranking.cmc[0] * ranking.valid_queries)
            queries += ranking.valid_queries
        rates[archive] = found, queries
    return rates


def main(arguments: argparse.Namespace) -> None:
    folder, progress = arguments.folder.resolve(), Progress()
    results = folder / "results.json"
    figures: dict[str, Any] = json.loads(results.read_text()) if results.is_file() else {}
    for half in (0, 1):
        here = folder / f"half{half}"
        if not (here / "people.toml").is_file():
            write_half(arguments.peta, here, half)
    for seed in range(arguments.seeds):
        for row in arguments.rows:
            people = f"-{arguments.people}" if arguments.people else ""
            name = f"{arguments.name}{people}/{row}/seed{seed}"
            if name not in figures:
                halves = [scores_of(folder / f"half{half}", row, name, seed, arguments, progress) for half in (0, 1)]
                figures[name] = {
                    archive: np.sum([one[archive] for one in halves], axis=0).tolist() for archive in ARCHIVES
                }
                results.write_text(json.dumps(figures, indent=1))
            print(name, figures[name], flush=True)
    print_table(figures)


def scores_of(
    here: Path, row: str, name: str, seed: int, arguments: argparse.Namespace, progress: Progress
) -> dict[str, tuple[int, int]]:
    """Train a row on one half, after the recogniser, labels and TAE that all rows share, and score the other half."""

    def options(command: str, **values: Any) -> Any:
        flags = {"workspace": here / "workspace", "data_root": here} | values
        return resolve(COMMANDS[command], flags, preset=arguments.preset, config=arguments.config)

    manifest = few_people(here, arguments.people) if arguments.people else here / "people.toml"
    video = {"dataset": str(manifest)}
    shared = video | {"workspace": here / manifest.stem.replace("people", "workspace")}
    given: TrainAmemOptions = options("train-amem", modules=row, **video)
    recogniser: TrainArmOptions = options("train-arm", partition="none")
    from_recogniser = given.weights == "auto" and given.backbone == recogniser.backbone
    parts = {}
    if given.uses_aem or from_recogniser:
        arm = train_arm(recogniser, progress).artifact
        parts |= {"weights": str(arm)} if from_recogniser else {}
    if given.uses_aem:
        parts["labels"] = str(label_videos(options("label-videos", arm=str(arm), **shared), progress).artifact)
    if given.uses_mem:
        parts["tae"] = str(train_tae(options("train-tae", **shared), progress).artifact)
    own = video | {"workspace": here / name}
    train_amem(options("train-amem", modules=row, seed=seed, **parts, **own), progress)
    (extracted,) = extract_features(options("extract-features", **own), progress)
    found = features.read(extracted.artifact)
    return rank1_of(found.features, found.person_id, found.camera_id)


def print_table(figures: dict[str, Any]) -> None:
    """Rank-1 of each row in per cent: the seeds and their mean."""
    rows: dict[str, list[dict[str, list[int]]]] = defaultdict(list)
    for name, found in figures.items():
        rows[name.rpartition("/")[0]].append(found)
    for row, seeds in rows.items():
        cells = []
        for archive in ARCHIVES:
            rates = [100 * found / queries for found, queries in (one[archive] for one in seeds)]
            cells.append(f"{archive} {np.mean(rates):.1f} ({', '.join(f'{rate:.1f}' for rate in rates)})")
        print(f"{row}: {'; '.join(cells)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Rank-1 of real people from PETA.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peta", type=Path, required=True, help="the folder with TownCentre, CAVIAR4REID, ...")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--config", type=Path, help="options as amem config show prints them")
    parser.add_argument("--name", default="small", help="of these options, in the results")
    parser.add_argument("--people", type=int, help="to train on, of the 50 of a half")
    main(parser.parse_args())
