"""Walkers' videos in a small size, for tests."""

from pathlib import Path

import pytest


def write_small_videos(folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two people in two cameras, in pictures of 200 x 112."""
    from amem_cli.walkers import videos

    monkeypatch.setattr(videos, "HEIGHT", 112)
    monkeypatch.setattr(videos, "WIDTH", 200)
    videos.write_videos(folder, seed=seed, people=2)
    return folder
