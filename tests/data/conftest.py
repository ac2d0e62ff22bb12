"""Files for the tests of the readers, which read names alone."""

from pathlib import Path

import pytest


@pytest.fixture
def tree(tmp_path: Path):
    """Makes empty files below `tmp_path`, which it returns."""

    def make(*names: str, below: str = ".") -> Path:
        for name in names:
            path = tmp_path / below / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make
