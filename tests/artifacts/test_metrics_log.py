"""metrics.jsonl: lines that a crash cut off, and runs that continue."""

import json

import pytest

from amem_cli.artifacts import metrics_log
from amem_cli.artifacts.paths import sample_path
from amem_cli.errors import DiskError


def test_append_metrics_after_a_torn_line(tmp_path):
    path = tmp_path / "amem" / "metrics.jsonl"
    metrics_log.append_metrics(path, {"step": 1})
    metrics_log.append_metrics(path, {"step": 2})
    path.write_bytes(path.read_bytes()[:-6])
    metrics_log.append_metrics(path, {"step": 3})
    lines = path.read_text().splitlines()
    assert [json.loads(lines[0]), lines[1], json.loads(lines[2])] == [{"step": 1}, '{"step', {"step": 3}]


def test_append_metrics_disk_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiskError):
        metrics_log.append_metrics(tmp_path / "file" / "metrics.jsonl", {})


@pytest.mark.parametrize("last", ["1e400", "NaN", '"x"', "{}", "null"])
def test_recorded_seconds_of_the_last_number(tmp_path, last):
    path = tmp_path / "metrics.jsonl"
    assert metrics_log.recorded_seconds(path) == 0
    path.write_text('{"seconds": 3}\n{"seconds": 7.5}\n[]\n{"seconds": ' + last + '}\n{"seco')
    assert metrics_log.recorded_seconds(path) == 7.5


def test_read_lines_of_a_folder(tmp_path):
    with pytest.raises(DiskError, match=r"metrics .*: is a directory"):
        metrics_log.recorded_seconds(tmp_path)


def test_keep_metrics_before_a_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics_log.keep_metrics(path, 2)
    assert not path.exists()
    path.write_text('{"step": 1}\n{"step": 2}\n{"epoch": 0}\n{"step": 0}\n{"ste')
    metrics_log.keep_metrics(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 0}\n'


def test_keep_samples_to_a_step(tmp_path):
    for step in (1, 2, 3):
        sample_path(tmp_path, step).parent.mkdir(exist_ok=True)
        sample_path(tmp_path, step).touch()
    sample_path(tmp_path, 0).with_name(".step-000003.png.abcd1234.amem-tmp").touch()
    metrics_log.keep_samples(tmp_path, 2)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["step-000001.png", "step-000002.png"]
