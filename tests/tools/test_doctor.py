"""`amem doctor`: findings, remedies, exit codes."""

import builtins
import json
import subprocess
import sys

import pytest

from amem_cli.cli.app import run
from amem_cli.data.manifest import SHIPPED
from amem_cli.runtime import memory
from amem_cli.tools import doctor


def by_topic(findings):
    return {finding.topic: finding for finding in findings}


def test_doctor_json(tmp_path, walkers, capsys):
    assert run(["doctor", "--json", "--data-root", str(walkers), "--workspace", str(tmp_path / "new" / "w")]) == 0
    document = json.loads(capsys.readouterr().out)
    found = {row["topic"]: row for row in document["findings"]}
    topics = {"python", "amem", *doctor.PACKAGES, *doctor.OPTIONAL, "device", "processors", "memory", "workspace"}
    assert topics | {"free disk"} <= set(found)
    assert all(found[f"data set {name}"]["state"] == "ok" for name in SHIPPED)
    assert found["free disk"]["value"] > 0
    assert all(bool(row["remedy"]) == (row["state"] != "ok") for row in found.values())
    assert document["problems"] == sum(row["state"] in ("problem", "impossible") for row in found.values())
    assert list(tmp_path.iterdir()) == []


def test_doctor_without_data(tmp_path, capsys):
    assert run(["doctor", "--data-root", str(tmp_path / "none"), "--workspace", str(tmp_path)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "amem works here" in text
    assert "amem data walkers" in text
    assert list(tmp_path.iterdir()) == []


def test_doctor_missing_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "PACKAGES", (*doctor.PACKAGES, "no-such-package"))
    assert run(["doctor", "--workspace", str(tmp_path)]) == 66
    assert "python -m pip install no-such-package" in capsys.readouterr().out


def test_check_devices_broken_torch(monkeypatch):
    original = builtins.__import__

    def broken(name, *rest):
        if name == "torch":
            raise OSError("libcudart.so.12: cannot open shared object file\nmore")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    (found,) = doctor.check_devices()
    assert (found.state, found.exit_code) == ("impossible", 66)
    assert "libcudart.so.12" in found.found
    assert "more" not in found.found


def test_check_workspace_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    found = doctor.examine(tmp_path, tmp_path / "file" / "workspace")
    assert by_topic(found)["workspace"].state == "impossible"
    assert doctor.exit_code(found) == 74


@pytest.mark.parametrize(("least", "state"), [(0, "ok"), (1e18, "problem")])
def test_check_workspace_free_disk(tmp_path, monkeypatch, least, state):
    monkeypatch.setattr(doctor, "LITTLE_DISK", least)
    assert [finding.state for finding in doctor.check_workspace(tmp_path)] == ["ok", state]


def test_check_data_sets_states(tmp_path):
    root = tmp_path / "my data"
    (root / "mars").mkdir(parents=True)
    (root / "peta").write_text("")
    found = by_topic(doctor.check_data_sets(root))
    states = {name: found[f"data set {name}"].state for name in ("mars", "peta", "prid2011")}
    assert states == {"mars": "problem", "peta": "problem", "prid2011": "note"}
    assert found["data set mars"].remedy == f"Run: amem data check mars --data-root '{root}'"
    assert "data sets" in found


def test_check_processors_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr(doctor, "available_cores", lambda: 1.5)
    for threads, state, remedy in (("8", "problem", "OMP_NUM_THREADS=1"), ("2", "ok", "")):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        (found,) = doctor.check_processors()
        assert found.state == state
        assert remedy in found.remedy


def test_check_memory_little(monkeypatch):
    monkeypatch.setattr(doctor, "free_memory", lambda: 1_000_000_000)
    monkeypatch.setattr(doctor, "LITTLE_SHARED_MEMORY", 1e18)
    assert {finding.state for finding in doctor.check_memory()} == {"problem"}


def test_limits_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert doctor.available_cores() >= 1
    for name, text in {"cpu.max": "50000 100000", "memory.max": "1000000", "memory.current": "400000"}.items():
        (tmp_path / name).write_text(text + "\n")
    assert doctor.available_cores() == 0.5
    assert doctor.total_memory() == 1_000_000
    assert doctor.free_memory() == 600_000
    (tmp_path / "memory.stat").write_text("anon 9\ninactive_file 100000\nactive_file 50000\n")
    assert doctor.free_memory() == 750_000  # cached files are given back


def test_import_nothing_heavy():
    code = "import sys, amem_cli.tools.doctor; assert not {'torch', 'numpy', 'h5py'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
