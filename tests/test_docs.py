"""The documentation matches the program: commands parse, links and options exist, errors and Python blocks are real.

`docs/troubleshooting.md` has blocks of `$ amem ...` and the error line. `<!-- state: NAME -->` above a block names the
function below that creates the state of the working folder; "…" in a block matches any text.
"""

import contextlib
import json
import re
import shlex
import shutil
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
import typer

from amem_cli import __version__
from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.features import read as read_features
from amem_cli.artifacts.output import locked
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance
from amem_cli.cli.app import app, run
from amem_cli.data.manifest import SHIPPED, load_manifest
from amem_cli.models.config import TaeConfig
from amem_cli.options import BACKBONES, COMMANDS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
OTHER_OPTIONS = {
    "--nproc-per-node",
    "--shm-size",
    "--memory",
    "--help",
    "--debug",
    "--install-completion",
    "--show-completion",
}
SHELL_WORDS = {"do", "then", "until", "nohup"}
VARIABLES = {"SLURM_ARRAY_TASK_ID": "3", "split": "3", "USER": "me"}


def subcommands(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, below in sorted(getattr(command, "commands", {}).items()):
        yield from subcommands((*path, name), below)


EVERY = dict(subcommands((), typer.main.get_command(app)))
OPTIONS = {
    name
    for command in EVERY.values()
    for parameter in command.params
    for name in (*parameter.opts, *parameter.secondary_opts)
}


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(line number, content) of every fenced block of a language."""
    text = page.read_text("utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [(text[: match.start()].count("\n") + 1, match[1]) for match in found]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def amem_arguments(script: str) -> list[list[str]]:
    """The arguments of every call of amem in a shell script, with `VARIABLES` inserted."""
    calls = []
    for line in re.sub(r"\\\n", " ", script).splitlines():
        if line.startswith("#") or "amem" not in line:
            continue
        line = re.sub(r"\$\{?(\w+)\}?", lambda match: VARIABLES.get(match[1], "0"), line)
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("();<>|&"):
                words.append(word)
                continue
            while words and (words[0] in SHELL_WORDS or re.fullmatch(r"\w+=.*", words[0])):
                words.pop(0)
            if "-m" in words and words[words.index("-m") + 1 :][:1] == ["amem_cli"]:
                words = ["amem", *words[words.index("-m") + 2 :]]
            if word.startswith((">", "<")) and words[-1:] == ["2"]:
                words.pop()  # 2> names a stream
            if words[:1] == ["amem"]:
                calls.append(words[1:])
            if word.startswith((">", "<")):
                break  # a file name follows
            words = []
    return calls


CALLS = {
    tuple(arguments): f"{page.name}:{line}: amem {' '.join(arguments)}"
    for page in reversed(PAGES)
    for line, script in blocks(page, "sh")
    for arguments in amem_arguments(script)
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walkers: Path) -> Path:
    """A working folder with walkers in `data` and the manifest of the documentation."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(walkers)
    (tmp_path / "people").mkdir()
    (tmp_path / "people/people.toml").write_text('name = "people"\nlayout = "tracks"\nroot = "."\n')
    (tmp_path / "my-cameras.toml").write_text(blocks(DOCS / "data.md", "toml")[0][1])
    for name, (_, text) in zip(("quick.toml", "rows.toml"), blocks(DOCS / "results.md", "toml"), strict=True):
        (tmp_path / name).write_text(text)
    return tmp_path


# -- commands ----------------------------------------------------------------------------------------------------------


def test_amem_arguments() -> None:
    assert amem_arguments('amem status | head; for split in 0 1; do amem evaluate --split "$split"; done') == [
        ["status"],
        ["evaluate", "--split", "3"],
    ]
    script = "X=1 torchrun --nproc-per-node 2 -m amem_cli train-arm \\\n  --seed 1 2> log  # amem"
    assert amem_arguments(script) == [["train-arm", "--seed", "1"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path, folder: Path, capsys: pytest.CaptureFixture) -> None:
    for arguments, place in CALLS.items():
        if not place.startswith(f"{page.name}:"):
            continue
        print(place)  # shown on failure
        named: tuple[str, ...] = ()
        optional = {"wandb": "none", "mlflow": "none", "tensorboard": "none"}  # packages of --log-to
        rest = [optional.get(word, word) for word in arguments if word != "--tensorboard"]
        while rest and (*named, rest[0]) in EVERY:
            named = (*named, rest.pop(0))
        assert named or rest[0].startswith("-"), f"no command {rest[0]}"
        if named == ("reproduce",) and rest[0] != "sizes":
            assert run([*arguments, *([] if "--dry-run" in rest else ["--dry-run"])]) == 0
        elif named[-1:] and named[-1] in COMMANDS:
            EVERY[named].main([*rest, "--dry-run"], standalone_mode=False)  # raises what `amem` would print
        else:
            with contextlib.suppress(typer.Exit):  # --help and --version
                _check_names(EVERY[named].make_context("amem", rest).params)


def _check_names(values: dict[str, Any]) -> None:
    """Names that the parser accepts as any text."""
    named = values.get("dataset") or []
    for dataset in [named] if isinstance(named, str) else named:
        load_manifest(dataset)
    if values.get("name") and "/" not in values["name"]:
        load_manifest(values["name"])
    assert values.get("command") in {None, *COMMANDS}


def test_commands_found_and_all_documented() -> None:
    assert len(CALLS) > 60
    text = "".join(page.read_text("utf-8") for page in PAGES)
    missing = [" ".join(path) for path, command in EVERY.items() if path and f"amem {' '.join(path)}" not in text]
    assert missing == []


def test_options_in_text_exist() -> None:
    unknown = [
        f"{page.name}: {option}"
        for page in PAGES
        for span in re.findall(r"`([^`\n]+)`", prose(page))
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", span)
        if option not in OPTIONS | OTHER_OPTIONS
    ]
    assert unknown == []


# -- links and facts ---------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    titles = re.findall(r"^#+ +(.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", title).lower())) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        file = (page.parent / path).resolve() if path else page
        outside = page.parent == DOCS and not file.is_relative_to(DOCS)  # the site has only docs/
        missing = outside or not file.is_file() or (anchor and anchor not in anchors(file))
        if missing and not re.match(r"[a-z]+:", link):
            broken.append(link)
    assert broken == []


def test_every_page_is_in_the_navigation() -> None:
    named = re.findall(r"([\w-]+\.md)", (ROOT / "mkdocs.yml").read_text("utf-8"))
    assert sorted(named) == sorted(page.name for page in DOCS.glob("*.md"))


@pytest.mark.parametrize("name", SHIPPED)
def test_counts_of_manifests_in_data_page(name: str) -> None:
    manifest = load_manifest(name)
    text = (DOCS / "data.md").read_text("utf-8")
    section = text.partition(f"\n## {manifest.title}\n")[2].partition("\n## ")[0].replace(",", "")
    assert [key for key, count in manifest.counts.items() if not re.search(rf"(?<!\d){count}(?!\d)", section)] == []
    assert re.findall(r"https?://\S+", manifest.request)[0].rstrip(",") in section


def test_citation_has_version_and_paper() -> None:
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {__version__}\n" in text
    assert "10.1609/aaai.v34i07.6802" in text


# -- errors ------------------------------------------------------------------------------------------------------------


def _copy(folder: Path, dataset: str) -> Path:
    """Replace a data set by a copy that a test may damage."""
    shared = (folder / "data").resolve()
    (folder / "data").unlink()
    (folder / "data").mkdir()
    return Path(shutil.copytree(shared / dataset, folder / "data" / dataset))


def _main_model(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """An untrained baseline with a tiny backbone."""
    patch.setitem(BACKBONES, "i3d", "tiny3d:Tiny3D")
    return toys.write_main(folder / "workspace/amem/mars/amem-main.safetensors")


def _extract(folder: Path, patch: pytest.MonkeyPatch) -> None:
    _main_model(folder, patch)
    assert run(["extract-features", "--quiet", "--device", "cpu"]) == 0


def _empty_data(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "data").unlink()
    (folder / "data/mars").mkdir(parents=True)


def _half_a_tracklet(folder: Path, patch: pytest.MonkeyPatch) -> None:
    for image in sorted(sorted((_copy(folder, "mars") / "bbox_train").iterdir())[0].iterdir())[1:3]:
        image.unlink()


def _truncated_image(folder: Path, patch: pytest.MonkeyPatch) -> None:
    _main_model(folder, patch)
    image = sorted((_copy(folder, "mars") / "bbox_test").rglob("*.jpg"))[0]
    image.write_bytes(image.read_bytes()[:200])


def _flipped_bit(folder: Path, patch: pytest.MonkeyPatch) -> None:
    file = _main_model(folder, patch)
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


def _tae_of_another_size(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(BACKBONES, "i3d", "tiny3d:Tiny3D")
    path, config = folder / "workspace/tae/tae.safetensors", TaeConfig(image_size="256x128")
    checkpoint.save(path, "amem-tae", {}, Provenance("train-tae", {}), model=config.as_json())


def _eight_splits(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "workspace/features").mkdir(parents=True)
    for split in range(8):
        (folder / f"workspace/features/prid2011-split{split}.h5").touch()


DISK = types.SimpleNamespace(disk_usage=lambda path: types.SimpleNamespace(free=100_000_000))
STATES: dict[str, Callable[[Path, pytest.MonkeyPatch], object]] = {
    "no-data": lambda folder, patch: (folder / "data").unlink(),
    "empty-data": _empty_data,
    "half-a-tracklet": _half_a_tracklet,
    "truncated-image": _truncated_image,
    "mistyped-config": lambda folder, patch: (folder / "amem.toml").write_text("[train-amem]\nlearning-rat = 1\n"),
    "web-page": lambda folder, patch: (folder / "rgb_imagenet.pt").write_text("<!DOCTYPE html>\n<html>Sign in</html>"),
    "pickled-code": lambda folder, patch: torch.save(torch.nn.Linear(2, 2), folder / "rgb_imagenet.pt"),
    "other-network": lambda folder, patch: torch.save({"a.weight": torch.zeros(2)}, folder / "rgb_imagenet.pt"),
    "tae-of-another-size": _tae_of_another_size,
    "eight-splits": _eight_splits,
    "flipped-bit": _flipped_bit,
    "extracted": _extract,
    "full-disk": lambda folder, patch: patch.setattr("amem_cli.artifacts.atomic.shutil", DISK),
    "locked-output": lambda folder, patch: locked(Workspace(Path("workspace")).tae),
    "nan-loss": lambda folder, patch: patch.setattr(
        "amem_cli.stages.train_arm.arm_loss", lambda logits, *_, **__: logits.sum() * float("nan")
    ),
    "no-cuda": lambda folder, patch: patch.setattr("torch.cuda.is_available", lambda: False),
}

NOTEBOOK = json.loads((DOCS / "notebook.ipynb").read_text("utf-8"))
TROUBLES = (DOCS / "troubleshooting.md").read_text("utf-8")
ERROR = r"(?:<!-- state: ([\w-]+) -->\n+)?```console\n\$ amem ([^\n]*)\n(error: [^\n]*)\n```\n+Exit code (\d+)\."
TRAINS = re.compile("--backbone|--preset")  # these errors come after a model is built
ERRORS = [(match[1], match[2], match[3], int(match[4])) for match in re.finditer(ERROR, TROUBLES)]


def test_errors_found() -> None:
    assert len(ERRORS) == TROUBLES.count("\nerror: ") >= 20
    assert {name for name, *_ in ERRORS if name} == set(STATES)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "command", "line", "code"),
    [pytest.param(*error, id=error[1], marks=pytest.mark.slow if TRAINS.search(error[1]) else ()) for error in ERRORS],
)
def test_errors_are_printed(name, command, line, code, folder, monkeypatch, capsys) -> None:
    made = STATES[name](folder, monkeypatch) if name else None
    with made if isinstance(made, AbstractContextManager) else contextlib.nullcontext():
        capsys.readouterr()
        exit_code = run(shlex.split(command))
    found = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(found) == 1
    assert re.fullmatch(".*".join(map(re.escape, line.split("…"))), found[0]), f"\npage  {line}\nfound {found[0]}"
    assert exit_code == code


# -- Python ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_python_blocks_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    _extract(folder, monkeypatch)
    toys.write_labels(folder / "workspace/labels/mars.h5", ["0001C1T0001", "0001C2T0001"])
    names: dict[str, Any] = {}
    for line, code in blocks(DOCS / "python.md", "python"):
        exec(compile(code, f"python.md line {line}", "exec"), names)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_notebook_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    import matplotlib.pyplot as plt

    from amem_cli.tools.demo import CLIP_FRAMES

    monkeypatch.setenv("MPLBACKEND", "Agg")
    _extract(folder, monkeypatch)
    tracklets = read_features(folder / "workspace/features/mars.h5").tracklet
    toys.write_labels(folder / "workspace/labels/mars.h5", list(tracklets))
    (folder / "demo").mkdir()
    for name in ("data", "workspace"):
        (folder / "demo" / name).symlink_to(folder / name)
    shown: list[int] = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(len(plt.gcf().axes)))
    names: dict[str, Any] = {}
    for number, cell in enumerate(NOTEBOOK["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"notebook.ipynb cell {number}", "exec"), names)
    plt.close("all")
    assert names["clip"].shape[0] == CLIP_FRAMES  # the demo's model takes no others
    assert shown == [8, 7, 7, 1]  # frames, answers by picture and by words, the curve
    assert names["features"].features[names["row"]] @ names["seen"] > 0.95  # the query and its own features
    assert {hit.fits for hit in names["hits"]} == {1.0}
    printed = capsys.readouterr().out
    stored = [line for cell in NOTEBOOK["cells"] for out in cell.get("outputs", []) for line in out.get("text", [])]
    assert re.sub(r"\d+", "0", printed) == re.sub(r"\d+", "0", "".join(stored))


def test_notebook_is_small_and_its_links_lead_somewhere() -> None:
    assert (DOCS / "notebook.ipynb").stat().st_size < 200_000
    pictures = [out for cell in NOTEBOOK["cells"] for out in cell.get("outputs", []) if "data" in out]
    assert len(pictures) == 4
    text = "".join(line for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown" for line in cell["source"])
    links = re.findall(r"\]\((.*?)\)", text)
    assert len(links) == 5
    assert all((DOCS / link).is_file() for link in links)
    commands = [amem_arguments(block) for block in re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)]
    assert [words[0] for block in commands for words in block] == ["demo", "search", "search"]


def test_backbone_of_contributing() -> None:
    ((_, code),) = blocks(ROOT / "CONTRIBUTING.md", "python")
    names: dict[str, Any] = {"__name__": "documentation"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    assert names["Tiny3D"]()(torch.rand(1, 3, 8, 64, 32)).shape[3:] == (4, 2)
