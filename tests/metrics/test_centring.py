"""Features without the mean of their camera."""

import numpy as np
import pytest

from amem_cli.metrics.centring import centre_cameras, lengths


def test_centre_cameras_by_hand() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(7, 5)).astype(np.float32)
    before = rows.copy()
    cameras = ["hall", "door", "hall", "yard", "door", "hall", "hall"]
    found = centre_cameras(rows, cameras)
    for row, camera in enumerate(cameras):
        own = [rows[other] for other in range(7) if cameras[other] == camera]
        expected = rows[row] - np.mean([*own, rows.mean(axis=0)], axis=0)
        np.testing.assert_allclose(found[row], expected / np.linalg.norm(expected), atol=1e-6)
    assert found.dtype == np.float32
    assert np.array_equal(rows, before)
    assert np.array_equal(centre_cameras(rows, np.array([3, 1, 3, 9, 1, 3, 3])), found)


def test_centre_cameras_one_tracklet_of_a_camera_keeps_its_difference_from_the_mean() -> None:
    rows = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    expected = rows[3] - rows.mean(axis=0)
    np.testing.assert_allclose(centre_cameras(rows, [1, 1, 1, 2])[3], expected / np.linalg.norm(expected), atol=1e-5)


def test_centre_cameras_of_equal_rows_are_zeros() -> None:
    assert np.allclose(centre_cameras(np.ones((4, 3)), [1, 1, 2, 2]), 0)


@pytest.mark.parametrize("people", [3, 40])
def test_centre_cameras_finds_people_in_another_light(people: int) -> None:
    """Each camera adds a vector of its own, longer than what tells people apart."""
    draw = np.random.default_rng(2)
    person, light = draw.normal(size=(people, 16)), 3 * draw.normal(size=(2, 16))
    rows = np.concatenate([person + light[0], person + light[1]]).astype(np.float32)
    rows /= lengths(rows)

    def rank1(values: np.ndarray) -> float:
        return float(np.mean((values[:people] @ values[people:].T).argmax(axis=1) == np.arange(people)))

    assert rank1(centre_cameras(rows, [1] * people + [2] * people)) == 1 > rank1(rows)
