"""`amem doctor`: what it finds, its remedies, and when it says that nothing can work."""

import builtins
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amem_cli.cli.app import run
from amem_cli.data.manifest import SHIPPED
from amem_cli.tools import doctor
from amem_cli.tools.doctor import Finding, available_cores, examine, exit_code, free_memory, total_memory


@pytest.fixture(autouse=True)
def small_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "WRITTEN", 2**20)


def by_topic(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.topic: finding for finding in findings}


def test_the_document_for_scripts(tmp_path: Path, walkers: Path, capsys: pytest.CaptureFixture) -> None:
    code = run(["doctor", "--json", "--data-root", str(walkers), "--workspace", str(tmp_path / "new" / "workspace")])
    document = json.loads(capsys.readouterr().out)
    found = {row["topic"]: row for row in document["findings"]}
    assert code == 0
    topics = {"python", "amem", "torch", "torchvision", "numpy", "h5py", "pillow", "typer", "device", "processors"}
    topics |= {"memory", "workspace", "free disk", "write speed", "tensorboard", "openvino", "text", "terminal"}
    assert topics | {f"data set {name}" for name in SHIPPED} <= set(found)
    assert found["write speed"]["value"] > 0
    assert found["free disk"]["value"] > 0
    assert found["processors"]["value"]["available"] > 0
    assert all(found[f"data set {name}"]["state"] == "ok" for name in SHIPPED)
    assert all(row["remedy"] or row["state"] == "ok" for row in found.values())
    assert document["problems"] == sum(row["state"] in ("problem", "impossible") for row in found.values())
    assert not (tmp_path / "new").exists()  # looking makes nothing


def test_a_machine_without_data_can_work(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["doctor", "--data-root", str(tmp_path / "none"), "--workspace", str(tmp_path)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "amem works here" in text
    assert "amem data walkers" in text
    assert "Ask the authors" in text
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_makes_work_impossible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", (*doctor.PACKAGES, "no-such-package"))
    assert run(["doctor", "--workspace", str(tmp_path)]) == 66
    text = capsys.readouterr().out
    assert "python -m pip install no-such-package" in text
    assert text.splitlines()[-1] == "amem cannot work here: see no-such-package"


def test_a_torch_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def broken(name: str, *rest: Any) -> Any:
        if name == "torch":
            raise OSError("libcudart.so.12: cannot open shared object file\nmore")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    (found,) = doctor.devices()
    assert found.state == "impossible"
    assert "libcudart.so.12" in found.found
    assert "more" not in found.found


def test_a_workspace_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = examine(tmp_path, tmp_path / "file" / "workspace")
    assert by_topic(found)["workspace"].state == "impossible"
    assert "--workspace" in by_topic(found)["workspace"].remedy
    assert exit_code(found) == 74


def test_a_full_or_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LITTLE_DISK", 1e18)
    monkeypatch.setattr(doctor, "SLOW_WRITE", 1e9)
    found = by_topic(doctor.disk(tmp_path))
    assert found["free disk"].state == found["write speed"].state == "problem"

    def full(folder: Path) -> float:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(doctor, "write_speed", full)
    (failed,) = doctor.disk(tmp_path)
    assert failed.state == "impossible"
    assert "no space left on device" in failed.found


def test_data_sets_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    (tmp_path / "mars").mkdir()
    (tmp_path / "peta").write_text("")
    found = by_topic(doctor.data_sets(tmp_path))
    assert found["data set mars"].state == "problem"
    assert found["data set mars"].remedy == "Run: amem data check mars"
    assert found["data set peta"].state == "problem"
    assert found["data set prid2011"].state == "note"
    assert "data sets" in found


def test_threads_beyond_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_cores", lambda: 1.5)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert doctor.processors().state == "problem"
    assert "OMP_NUM_THREADS=1" in doctor.processors().remedy
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert doctor.processors().state == "ok"


def test_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "free_memory", lambda: 1_000_000_000)
    assert doctor.memory().state == "problem"
    monkeypatch.setattr(doctor, "LITTLE_SHARED_MEMORY", 1e18)
    assert all("--workers 0" in finding.remedy for finding in doctor.shared_memory())


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_limits_of_a_container_version_2(tmp_path: Path) -> None:
    own = write(tmp_path / "own", "0::/batch/job\n")
    write(tmp_path / "batch" / "job" / "cpu.max", "max 100000\n")
    write(tmp_path / "batch" / "cpu.max", "50000 100000\n")  # a group above limits too
    write(tmp_path / "batch" / "job" / "memory.max", "max\n")
    write(tmp_path / "batch" / "memory.max", "1000000\n")
    write(tmp_path / "batch" / "memory.current", "400000\n")
    assert available_cores(tmp_path, own) == 0.5
    assert total_memory(tmp_path, own) == 1_000_000
    assert free_memory(tmp_path, own) == 600_000


def test_limits_of_a_container_version_1(tmp_path: Path) -> None:
    own = write(tmp_path / "own", "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n")
    write(tmp_path / "cpu" / "cpu.cfs_quota_us", "25000\n")
    write(tmp_path / "cpu" / "cpu.cfs_period_us", "100000\n")
    write(tmp_path / "memory" / "memory.limit_in_bytes", "2000000\n")
    assert available_cores(tmp_path, own) == 0.25
    assert total_memory(tmp_path, own) == 2_000_000
    write(tmp_path / "cpu" / "cpu.cfs_quota_us", "-1\n")
    assert available_cores(tmp_path, own) >= 1


def test_no_limits_and_a_group_outside_of_our_view(tmp_path: Path) -> None:
    for text in ("0::/\n", "0::/../../elsewhere\n", ""):
        own = write(tmp_path / "own", text)
        assert available_cores(tmp_path / "empty", own) >= 1
        assert total_memory(tmp_path / "empty", own)


def test_a_pipe_that_cannot_write_unicode(tmp_path: Path) -> None:
    code = (
        "import sys; from amem_cli import doctor; from amem_cli.cli.app import run; doctor.devices = list;"
        "sys.exit(run(['doctor', '--workspace', sys.argv[1]]))"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, env=environment, check=True)
    assert b"PYTHONUTF8=1" in done.stdout


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, amem_cli.tools.doctor; assert not {'torch', 'numpy', 'h5py'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
