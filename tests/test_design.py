"""The house rules that a program can check: what may import what, and what must not stand anywhere."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "amem_cli"
SOURCES = sorted(PACKAGE.rglob("*.py"))

GROUND = frozenset(
    {
        "__version__",
        "allocator",
        "attributes",
        "distributed",
        "errors",
        "images",
        "options",
        "paper",
        "person_ids",
        "progress",
        "randomness",
        "regular_file",
    }
)
SIBLINGS = frozenset({"data", "models", "losses", "metrics", "pictures"})  # they know the artifacts, not each other
BELOW_STAGES = GROUND | SIBLINGS | {"artifacts", "doctor", "engine", "training"}
MAY_IMPORT = {
    **dict.fromkeys(GROUND - {"__version__"}, GROUND),
    "artifacts": GROUND,
    "losses": GROUND,
    "metrics": GROUND,
    **dict.fromkeys(SIBLINGS - {"losses", "metrics"}, GROUND | {"artifacts"}),
    "training": GROUND | {"artifacts"},
    "engine": GROUND | {"artifacts", "data", "models"},
    "doctor": GROUND | {"artifacts", "data"},
    "stages": BELOW_STAGES,
    "api": BELOW_STAGES | {"stages"},
    "cli": BELOW_STAGES | {"stages"},
    "__init__": frozenset({"api"}),
    "__main__": frozenset({"allocator", "cli", "errors"}),
}


def floor_of(path: Path) -> str:
    """The folder or file right below the package: "data", "losses", ..."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floors_imported(source: str) -> set[str]:
    """What of the package a module imports, at its top or within functions, in whatever form."""
    modules = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}"
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            modules += [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    return {parts[1] for parts in (module.split(".") for module in modules) if parts[0] == "amem_cli" and parts[1:]}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_what_its_floor_may(path):
    own = floor_of(path)
    assert own in MAY_IMPORT, f"{own} has no place in the house yet: say what it may import"
    beyond = floors_imported(path.read_text("utf-8")) - MAY_IMPORT[own] - {own}
    assert not beyond, f"{own} must not import {', '.join(sorted(beyond))}"


@pytest.mark.parametrize(
    "source",
    [
        "from amem_cli.models.motion import Prediction",
        "from amem_cli.models import motion",
        "from amem_cli import models",
        "import amem_cli.models.motion",
        "import amem_cli.models as parts",
        "def late():\n    from amem_cli.models.motion import Prediction",
        "if TYPE_CHECKING:\n    from amem_cli.models.motion import Prediction",
        "importlib.import_module('amem_cli.models.motion')",
    ],
)
def test_no_form_of_an_import_goes_unseen(source):
    assert floors_imported(source) == {"models"}


def test_siblings_do_not_know_each_other():
    for floor in SIBLINGS:
        assert not MAY_IMPORT[floor] & SIBLINGS, floor
    assert not MAY_IMPORT["artifacts"] & (SIBLINGS | {"stages", "cli"})


def test_torch_load_never_unpickles():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), f"{path}: {ast.unparse(node)}"


def test_there_is_no_drawer_for_everything():
    assert not [path for path in SOURCES if path.stem in ("utils", "helpers", "common", "misc")]


def test_readme_has_a_line_for_everything_at_the_top_of_the_package():
    text = (PACKAGE.parent / "README.md").read_text("utf-8")
    tree = text[text.index("\namem_cli/\n") : text.index("\ndata_manifests/")]
    told = {line.split()[0] for line in tree.splitlines() if line.startswith("  ") and line[2] != " "}
    there = {path.name for path in PACKAGE.glob("*.py")} | {
        f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")
    }
    assert told == there - {"__init__.py", "__main__.py"}
