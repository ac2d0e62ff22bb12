"""What the documentation says is so: its commands parse, its links lead somewhere, its errors are those of the CLI.

`docs/troubleshooting.md` has blocks of `$ amem ...` and the one line that follows. An HTML comment
`<!-- state: NAME -->` above a block names the function below that brings the working folder into the state in which the
command fails so; "…" in a block stands for any text (a number, a host).
"""

import contextlib
import importlib
import os
import re
import shlex
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from amem_cli import __version__
from amem_cli.cli.app import app, run
from amem_cli.data.manifest import SHIPPED, load_manifest
from amem_cli.options import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOREIGN_OPTIONS = {"--nproc-per-node", "--shm-size"}  # not ours
SHELL_WORDS = {"do", "then", "until", "srun", "nohup"}
VARIABLES = {"SLURM_ARRAY_TASK_ID": "3", "split": "3", "seed": "1", "USER": "me"}


def commands_below(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, below in sorted(getattr(command, "commands", {}).items()):
        yield from commands_below((*path, name), below)


EVERY = dict(commands_below((), typer.main.get_command(app)))
OPTIONS = {name for command in EVERY.values() for parameter in command.params for name in parameter.opts} | {
    "--help",
    "--debug",
    "--install-completion",
    "--show-completion",
}


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(line number, content) of every fenced block of a language."""
    found, lines = [], page.read_text("utf-8").splitlines()
    start: int | None = None
    opened = ""
    for number, line in enumerate(lines, start=1):
        if start is None and (match := re.fullmatch(r"\s*```(\w*).*", line)):
            start, opened = number, match[1]
        elif start is not None and line.strip() == "```":
            if opened == language:
                found.append((start, "\n".join(lines[start : number - 1])))
            start = None
    assert start is None, f"{page.name} line {start}: a block without an end"
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^\s*```.*?^\s*```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def amem_arguments(script: str) -> list[list[str]]:
    """The arguments of every call of amem in a shell script, with variables put in."""

    def value(match: re.Match) -> str:
        return VARIABLES[match[1] or match[2]]

    calls = []
    script = re.sub(r"\\\n", " ", script)
    for line in script.splitlines():
        if line.lstrip().startswith("#"):
            continue
        lexer = shlex.shlex(
            re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, line) if "amem" in line else "", posix=True, punctuation_chars=True
        )
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word and not set(word) <= set("();<>|&"):
                words.append(word)
                continue
            while words and (words[0] in SHELL_WORDS or re.fullmatch(r"[A-Z_]+=.*", words[0])):
                words.pop(0)
            if "-m" in words and words[words.index("-m") + 1 :][:1] == ["amem_cli"]:
                words = ["amem", *words[words.index("-m") + 2 :]]
            if word.startswith((">", "<")) and words[-1:] == ["2"]:
                words.pop()  # 2> names a stream
            if words[:1] == ["amem"]:
                calls.append(words[1:])
            if word.startswith((">", "<")):
                break  # a file's name follows
            words = []
    return calls


def all_calls() -> dict[tuple[str, ...], str]:
    """Every documented call once, with the place where it stands first."""
    calls: dict[tuple[str, ...], str] = {}
    for page in PAGES:
        for line, script in blocks(page, "sh"):
            for arguments in amem_arguments(script):
                calls.setdefault(tuple(arguments), f"{page.name}:{line}: amem {' '.join(arguments)}")
    return calls


CALLS = all_calls()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walkers: Path) -> Path:
    """A working folder with walkers in `data`, README's own manifest, a config file and a file of weights."""
    for name in ("AMEM_DATA", "AMEM_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(walkers)
    manifest = next(text for _, text in blocks(ROOT / "README.md", "toml") if "layout" in text)
    (tmp_path / "my-cameras.toml").write_text(manifest)
    return tmp_path


# -- commands ----------------------------------------------------------------------------------------------------------


def test_there_are_commands_to_test() -> None:
    assert len(CALLS) > 70
    written = {word for call in CALLS for word in call[:1]}
    assert {"demo", "status", "report", "show", "doctor", "reproduce", "weights", "config", "data"} <= written


@pytest.mark.parametrize("arguments", CALLS, ids=CALLS.values())
def test_every_command_parses(arguments: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture) -> None:
    named: tuple[str, ...] = ()
    rest = list(arguments)
    while rest and (*named, rest[0]) in EVERY:
        named = (*named, rest.pop(0))
    assert named or rest[0].startswith("-"), f"there is no command {rest[0]}"
    if "--config" in rest:
        assert run(["config", "show"]) == 0
        Path(rest[rest.index("--config") + 1]).write_text(capsys.readouterr().out)
    if "--tensorboard" in rest:
        pytest.importorskip("tensorboard")
    if named[-1:] and named[-1] in COMMANDS:
        EVERY[named].main([*rest, "--dry-run"], standalone_mode=False)  # raises what `amem` would print
        return
    try:
        context = EVERY[named].make_context("amem", rest)
    except typer.Exit:  # --help and --version
        return
    _check_values(named, context.params)


def _check_values(named: tuple[str, ...], values: dict[str, Any]) -> None:
    """Names that the parser takes as any text."""
    from amem_cli.tools.reproduce.plan import plan
    from amem_cli.tools.show import KINDS

    for dataset in [values["dataset"]] if isinstance(values.get("dataset"), str) else values.get("dataset") or []:
        load_manifest(dataset)
    if named == ("show",):
        assert values["kind"] in KINDS
    if named == ("data", "check"):
        load_manifest(values["name"])
    if named == ("config", "show"):
        assert values["command"] is None or values["command"] in COMMANDS
    if named == ("reproduce",) and values["what"] != "sizes":
        names = ("row", "weights", "settings")
        rows, weights, settings = (tuple(values[name] or ()) for name in names)
        more = {"seeds": values["seeds"], "preset": values["preset"]}
        datasets = tuple(values["dataset"] or ())
        plan(values["what"], datasets=datasets, rows=rows, weights=weights, settings=settings, **more)


MARS_ALONE = {"--dataset", "--split", "--features", "--config", "my-cameras.toml", "ilids-10split", "prid-10split"}
LOOKING = {
    call: name
    for call, name in CALLS.items()
    if (call[:1] in {("status",), ("doctor",), ("show",), ("report",), ("config",), ("evaluate",)})
    and not MARS_ALONE & set(call)
    and "--flip" not in call  # wants features that were extracted with it
}


@pytest.fixture(scope="module")
def six_stages(walkers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace after the six stages, by their commands, as small as they go."""
    workspace = tmp_path_factory.mktemp("six") / "workspace"
    everywhere = ["--workspace", str(workspace), "--data-root", str(walkers), "--device", "cpu", "--quiet"]
    small = ["--preset", "small", "--image-size", "32x32", "--epochs", "1", *everywhere]
    clips = ["--clip-frames", "6", "--people-per-batch", "2", "--clips-per-person", "2", "--branch", "conv2d"]
    for command in (
        ["train-arm", *small],
        ["label-videos", *everywhere],
        ["train-tae", *small],
        ["train-amem", *small, *clips],
        ["extract-features", *everywhere],
        ["evaluate", "--bootstrap", "20", *everywhere],
    ):
        assert run(command) == 0, command
    return workspace


@pytest.mark.parametrize("arguments", LOOKING, ids=LOOKING.values())
def test_every_command_that_looks_at_results_runs(
    arguments: tuple[str, ...], folder: Path, six_stages: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(six_stages, folder / "workspace", copy_function=os.link)  # artifacts are replaced, never changed
    shutil.copy(folder / "workspace" / "features" / "mars.h5", folder / "theirs.h5")
    (folder / "demo").mkdir()
    (folder / "demo" / "workspace").symlink_to(folder / "workspace")
    (folder / "demo" / "data").symlink_to(folder / "data")
    for name in ("baseline.json", "amem.json"):
        shutil.copy(folder / "workspace" / "results" / "mars.json", folder / name)
    before = {path for path in folder.rglob("*") if path.is_file()}
    assert run(list(arguments)) == 0
    printed = capsys.readouterr()
    assert "error:" not in printed.err
    made = {path for path in folder.rglob("*") if path.is_file()} - before
    if arguments[0] in ("show", "report"):
        wanted = Path(arguments[arguments.index("--out") + 1]).name if "--out" in arguments else None
        default = "report.html" if arguments[0] == "report" else f"{arguments[1]}.png"
        assert [path.name for path in made if path.parent == folder] == [wanted or default]
    else:
        assert printed.out


def test_every_chain_of_commands_is_printed(folder: Path, capsys: pytest.CaptureFixture) -> None:
    chains = [call for call in CALLS if call[:1] == ("reproduce",) and call[1] != "sizes"]
    assert len(chains) >= 6
    for call in chains:
        assert run([*call, *([] if "--dry-run" in call else ["--dry-run"])]) == 0, call
        assert "amem train-amem" in capsys.readouterr().out


def test_a_rotten_command_is_found() -> None:
    assert amem_arguments('amem status | head; for split in 0 1; do amem evaluate --split "$split"; done') == [
        ["status"],
        ["evaluate", "--split", "3"],
    ]
    assert amem_arguments("X=1 torchrun --nproc-per-node 2 -m amem_cli train-arm \\\n  --seed 1 > log  # amem") == [
        ["train-arm", "--seed", "1"]
    ]
    assert amem_arguments("nohup amem train-tae --quiet 2> train.log &") == [["train-tae", "--quiet"]]


def test_every_option_in_the_text_exists() -> None:
    strange = [
        f"{page.name}: {option}"
        for page in PAGES
        for span in re.findall(r"`([^`\n]+)`", prose(page))
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)
        if option not in OPTIONS | FOREIGN_OPTIONS
    ]
    assert strange == []


def test_every_command_is_documented() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    missing = [" ".join(path) for path, command in EVERY.items() if path and f"amem {' '.join(path)}" not in text]
    assert missing == []


# -- links -------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs both make them."""
    found = set()
    for title in re.findall(r"^#+ +(.*)$", prose(page), flags=re.MULTILINE):
        plain = re.sub(r"[`*]", "", title).lower()
        found.add(re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain)))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.is_file() or (anchor and anchor not in anchors(file)):
            broken.append(target)
        if page.parent.name == "docs" and path and file.parent != page.parent:
            broken.append(f"{target}: the site holds docs/ alone")
    assert broken == []


def test_every_page_is_in_the_site_and_in_its_navigation() -> None:
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    named = set(re.findall(r"([\w-]+\.md)", site))
    assert named == {page.name for page in PAGES if page.parent.name == "docs"}


@pytest.mark.parametrize("name", SHIPPED)
def test_data_sets_are_described_with_the_counts_of_their_manifests(name: str) -> None:
    manifest = load_manifest(name)
    text = (ROOT / "docs" / "data.md").read_text("utf-8")
    section = text.partition(f"\n## {manifest.title}\n")[2].partition("\n## ")[0].replace(",", "")
    missing = [key for key, count in manifest.counts.items() if not re.search(rf"(?<!\d){count}(?!\d)", section)]
    assert missing == []
    assert manifest.request.partition("https" if "https" in manifest.request else "http")[2].split()[0] in section


def test_citation_names_this_version_and_the_paper() -> None:
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {__version__}\n" in text
    assert "10.1609/aaai.v34i07.6802" in text


# -- errors ------------------------------------------------------------------------------------------------------------

State = Callable[[Path, pytest.MonkeyPatch, contextlib.ExitStack], None]
STATES: dict[str, State] = {}


def state(function: State) -> State:
    STATES[function.__name__.replace("_", "-")] = function
    return function


def _own_data(folder: Path, dataset: str) -> Path:
    """A copy of a data set, so that it can be damaged."""
    shared = (folder / "data").resolve()
    (folder / "data").unlink()
    (folder / "data").mkdir()
    for name in sorted(path.name for path in shared.iterdir()):
        if name == dataset:
            shutil.copytree(shared / name, folder / "data" / name)
        else:
            (folder / "data" / name).symlink_to(shared / name)
    return folder / "data" / dataset


def _main_model(path: Path) -> None:
    """An untrained baseline for small images."""
    import torch

    from amem_cli.artifacts import checkpoint
    from amem_cli.artifacts.provenance import Provenance
    from amem_cli.models.amem import build_main_model
    from amem_cli.options import TrainAmemOptions
    from amem_cli.stages.train_amem import describe

    torch.manual_seed(0)
    described = describe(TrainAmemOptions(modules="baseline", image_size="32x32", clip_frames=4, predict_frames=2), 4)
    model = build_main_model(described)
    checkpoint.save(path, "amem-main", model.state_dict(), Provenance("train-amem", {}), model=described)


def _features(path: Path, scale: float = 1.0) -> None:
    import h5py
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update(
            {"kind": "amem-features", "schema": 1, "dataset": "mars", "created_by": "", "provenance": "{}"}
        )
        file["tracklet"] = ["a", "b", "c"]
        file["person_id"], file["camera_id"] = np.array([1, 1, 2]), np.array([1, 2, 2])
        file["is_query"], file["features"] = np.array([True, False, False]), scale * np.eye(3, dtype=np.float32)


@state
def no_data(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    (folder / "data").unlink()


@state
def empty_data(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    (folder / "data").unlink()
    (folder / "data" / "mars").mkdir(parents=True)


@state
def half_a_person(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    root = _own_data(folder, "mars")
    first = sorted((root / "bbox_train").iterdir())[0]
    for image in sorted(first.iterdir())[1:3]:
        image.unlink()


@state
def part_of_ilids(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    root = _own_data(folder, "ilids-vid")
    for camera in ("cam1", "cam2"):
        people = next(path for path in sorted(root.rglob(camera)) if path.is_dir())
        shutil.rmtree(sorted(people.iterdir())[0])


@state
def strange_label(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    file = sorted(_own_data(folder, "peta").rglob("Label.txt"))[0]
    file.write_text(file.read_text().replace("personalMale", "personalMan"))


@state
def broken_image(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    _main_model(folder / "workspace/amem/mars/amem-main.safetensors")
    image = sorted((_own_data(folder, "mars") / "bbox_test").rglob("*.jpg"))[0]
    image.write_bytes(image.read_bytes()[:200])


@state
def empty_split_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    for person in ("anna", "ben"):
        (folder / "my-cameras" / person / "hall").mkdir(parents=True)
        (folder / "my-cameras" / person / "hall" / "1.jpg").write_bytes(b"")


@state
def own_typo(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    (folder / "my-cameras.toml").write_text('name = "my-cameras"\nlayout = "floder"\n')


@state
def config_typo(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    (folder / "amem.toml").write_text("[train-amem]\nlearning-rat = 0.001\n")


@state
def web_page(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    (folder / "rgb_imagenet.pt").write_text("<!DOCTYPE html>\n<html><body>Sign in</body></html>\n")


@state
def lfs_pointer(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 50000000\n"
    (folder / "rgb_imagenet.pt").write_text(pointer)


@state
def cut_short(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    import torch

    torch.save({"weight": torch.zeros(1000)}, folder / "whole.pt")
    (folder / "rgb_imagenet.pt").write_bytes((folder / "whole.pt").read_bytes()[:2000])


@state
def with_code(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    import torch

    torch.save(torch.nn.Linear(2, 2), folder / "rgb_imagenet.pt")


@state
def other_network(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    import torch

    from amem_cli.models.resnet3d import ResNet3D50

    weights = {f"module.{name}": tensor for name, tensor in ResNet3D50().state_dict().items()}
    torch.save({"state_dict": weights}, folder / "resnet-50-kinetics.pth")


@state
def tae_of_another_size(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    from amem_cli.artifacts import checkpoint
    from amem_cli.artifacts.provenance import Provenance

    path = folder / "workspace/tae/tae.safetensors"
    checkpoint.save(path, "amem-tae", {}, Provenance("train-tae", {}), model={"image_size": "256x128"})


@state
def features_without_flip(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    _features(folder / "workspace/features/mars.h5")


@state
def long_features(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    _features(folder / "theirs.h5", scale=20.0)


@state
def three_splits(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    for split in range(8):
        _features(folder / f"workspace/features/prid2011-split{split}.h5")


@state
def flipped_bit(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    file = folder / "workspace/amem/mars/amem-main.safetensors"
    _main_model(file)
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


@state
def made_otherwise(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    _main_model(folder / "workspace/amem/mars/amem-main.safetensors")
    assert run(["extract-features", "--quiet", "--device", "cpu"]) == 0


@state
def two_results(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    from amem_cli.artifacts import results
    from amem_cli.artifacts.provenance import Provenance

    for protocol in ("mars", "prid-10split"):
        content = {"protocol": protocol, "choices": {}, "queries": 89, "gallery": 89}
        results.write(folder / f"{protocol}.json", content, Provenance("evaluate", {}))


@state
def full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    from amem_cli.artifacts import atomic

    usage = types.SimpleNamespace(free=100_000_000)
    monkeypatch.setattr(atomic, "shutil", types.SimpleNamespace(disk_usage=lambda path: usage))


@state
def workspace_is_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    (folder / "workspace").write_text("")


@state
def held_by_another(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    from amem_cli.artifacts.lock import locked
    from amem_cli.artifacts.paths import Workspace

    stack.enter_context(locked(Workspace(Path("workspace")).tae))


@state
def not_a_number(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    from amem_cli.stages import train_arm

    monkeypatch.setattr(train_arm, "attribute_loss", lambda logits, labels: logits.sum() * float("nan"))


@state
def no_cuda(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@state
def no_tensorboard(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name))


def told_errors() -> Iterator[Any]:
    """(state, arguments, told, exit code) of every block in the troubleshooting page."""
    page = ROOT / "docs" / "troubleshooting.md"
    if not page.is_file():
        return
    text = page.read_text("utf-8")
    pattern = r"(?:<!-- state: ([\w-]+) -->\n+)?```console\n\$ amem ([^\n]*)\n(error: [^\n]*)\n```\n+Exit code (\d+)\."
    found = list(re.finditer(pattern, text))
    assert len(found) == text.count("\nerror: "), "a block of another form"
    for match in found:
        yield pytest.param(match[1], shlex.split(match[2]), match[3], int(match[4]), id=f"amem {match[2]}")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("name", "arguments", "told", "code"), list(told_errors()))
def test_errors_read_as_the_page_says(
    name: str | None,
    arguments: list[str],
    told: str,
    code: int,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    with contextlib.ExitStack() as stack:
        if name:
            STATES[name](folder, monkeypatch, stack)
        capsys.readouterr()
        found = run(arguments)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    pattern = ".*".join(re.escape(part) for part in told.split("…"))
    assert len(lines) == 1
    assert re.fullmatch(pattern, lines[0]), f"\ntold  {told}\nfound {lines[0]}"
    assert found == code


# -- Python ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(walkers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with walkers in `data` and a workspace with an untrained model, its features and some labels."""
    import numpy as np

    from amem_cli.artifacts import pseudo_labels
    from amem_cli.artifacts.provenance import Provenance
    from amem_cli.attributes import ATTRIBUTES

    folder = tmp_path_factory.mktemp("finished")
    (folder / "data").symlink_to(walkers)
    workspace = folder / "workspace"
    _main_model(workspace / "amem/mars/amem-main.safetensors")
    where = ["--data-root", str(walkers), "--workspace", str(workspace), "--device", "cpu", "--quiet"]
    assert run(["extract-features", *where]) == 0
    probabilities = np.linspace(0, 1, 210, dtype=np.float32).reshape(2, 105)
    labels = pseudo_labels.PseudoLabels(
        "mars", ["0001C1T0001", "0001C2T0001"], np.array([1, 1]), np.array([1, 2]), np.array([8, 8]), probabilities,
        (probabilities > 0.5).astype(np.uint8), ATTRIBUTES, 0.5, {},
    )  # fmt: skip
    pseudo_labels.write(workspace / "labels/mars.h5", labels, Provenance("label-videos", {}))
    return folder


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_blocks_run(page: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, Any] = {"__name__": "documentation"}
    for line, code in blocks(page, "python"):
        exec(compile(code, f"{page.name} line {line}", "exec"), names)


@pytest.mark.usefixtures("one_thread")
def test_the_ten_lines_of_a_backbone_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from amem_cli.models.amem import build_main_model
    from amem_cli.options import BACKBONES, TrainAmemOptions
    from amem_cli.stages.train_amem import describe

    code = next(text for _, text in blocks(ROOT / "README.md", "python") if "torch import nn" in text)
    module = types.ModuleType("documentation")
    exec(compile(code, "README.md", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, "documentation", module)
    monkeypatch.setitem(BACKBONES, "new", "documentation:Tiny3D")
    model = build_main_model(describe(TrainAmemOptions(), 4) | {"backbone": "new"})
    maps = model.feature_maps(torch.rand(1, 3, 8, 256, 128))
    assert maps.backbone_maps.shape[3:] == (16, 8)
    assert model.similarity_feature(maps).shape == (1, 512)
