"""Structural rules: allowed imports of each package, and forbidden names."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "amem_cli"
SOURCES = sorted(PACKAGE.rglob("*.py"))

GROUND = frozenset(
    {
        "__version__",
        "attributes",
        "errors",
        "option_values",
        "options",
        "person_ids",
        "processes",
        "randomness",
        "resolve",
        "text",
    }
)
MODELS = frozenset({"weights", "models", "losses", "metrics"})
STAGES = GROUND | MODELS | {"artifacts", "data", "runtime"}
TOOLS = STAGES | {"stages", "tools", "pictures", "walkers", "video"}
MAY_IMPORT = {
    **dict.fromkeys(GROUND - {"__version__"}, GROUND),
    "artifacts": GROUND,
    "losses": GROUND,
    "metrics": GROUND,
    "walkers": GROUND | {"artifacts"},
    "weights": GROUND | {"artifacts"},
    "models": GROUND | {"weights", "artifacts"},
    "runtime": GROUND | {"artifacts", "models", "weights"},
    "data": GROUND | {"artifacts", "runtime", "weights"},
    "stages": STAGES,
    "pictures": GROUND | {"artifacts", "data", "metrics"},
    "video": STAGES | {"stages", "pictures"},
    "tools": TOOLS,
    "api": STAGES | {"stages"},
    "cli": TOOLS,
    "__init__": frozenset({"api"}),
    "__main__": frozenset({"runtime", "cli", "errors"}),
}


def part_of(path: Path) -> str:
    """The folder or file directly below the package: "data", "losses", ..."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(source: str) -> set[str]:
    """The parts of the package that a module imports, at its top or within functions, in any form."""
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
def test_imports_allowed(path):
    part = part_of(path)
    assert part in MAY_IMPORT, f"{part} is new: add it to MAY_IMPORT"
    beyond = imported_parts(path.read_text("utf-8")) - MAY_IMPORT[part] - {part}
    assert not beyond, f"{part} must not import {', '.join(sorted(beyond))}"


@pytest.mark.parametrize(
    "source",
    [
        "from amem_cli.models.mem import Prediction",
        "from amem_cli import models",
        "import amem_cli.models as parts",
        "def late():\n    from amem_cli.models.mem import Prediction",
        "importlib.import_module('amem_cli.models.mem')",
    ],
)
def test_imported_parts_every_form(source):
    assert imported_parts(source) == {"models"}


def test_torch_load_weights_only():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), f"{path}: {ast.unparse(node)}"


def test_no_utils_module():
    assert not [path for path in SOURCES if path.stem in ("utils", "helpers", "common", "misc", "result")]


def test_limits_of_files_functions_and_parameters():
    """400 lines per file and 60 per function; 8 parameters in the package, but a command has one per flag."""
    tests = sorted(Path(__file__).parent.rglob("*.py"))
    beyond = []
    limited = [path for path in SOURCES if path.parent.name != "cli"]
    for path in [*SOURCES, *tests]:
        text = path.read_text("utf-8")
        beyond += [f"{path}: {lines} lines"] if (lines := len(text.splitlines())) > 400 else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                beyond += [f"{path}: {node.name} has {lines} lines"] if lines > 60 else []
                names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                count = len([name for name in names if name not in ("self", "cls")])
                beyond += [f"{path}: {node.name} has {count} parameters"] if count > 8 and path in limited else []
    assert not beyond
