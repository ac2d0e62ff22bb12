"""The house rules that a program can check: what may import what, and what must not stand anywhere."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "amem_cli"
SOURCES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN = {
    "data": ("models", "stages", "cli", "losses", "metrics"),
    "models": ("stages", "cli", "data", "losses", "metrics"),
    "metrics": ("stages", "cli", "models", "losses"),
    "artifacts": ("stages", "cli", "models", "losses", "metrics"),
    "pictures": ("stages", "cli", "models"),
    "stages": ("cli",),
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_floor_reaches_up(folder):
    for path in (PACKAGE / folder).rglob("*.py"):
        for module in imports(path):
            for other in FORBIDDEN[folder]:
                assert not module.startswith(f"amem_cli.{other}"), f"{path.name} imports {module}"


def test_torch_load_never_unpickles():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), f"{path}: {ast.unparse(node)}"


def test_there_is_no_drawer_for_everything():
    assert not [path for path in SOURCES if path.stem in ("utils", "helpers", "common", "misc")]
