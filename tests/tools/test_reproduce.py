"""`amem reproduce`: printed commands are those that run; our figures next to the paper's; finished work is reused."""

import dataclasses
import json
import shlex
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from amem_cli.cli.app import run as amem
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.options import BACKBONES
from amem_cli.runtime.progress import Silent
from amem_cli.tools import paper
from amem_cli.tools.reproduce.plan import plan
from amem_cli.tools.reproduce.run import add_run, as_markdown, new_table, write
from amem_cli.tools.reproduce.tables import TABLES, Request
from amem_cli.weights.names import PACKAGES

TINY = """
image-size = "32x32"
precision = "fp32"
device = "cpu"
epochs = 1
batch-size = 16
[train-tae]
batch-size = 6
[train-amem]
people-per-batch = 2
clips-per-person = 2
gradient-steps = 0
"""
RATES = {"rank-1": 0.5, "rank-5": 0.9, "rank-20": 1.0, "mAP": 0.25}
CHANCE = {"rank": {"1": 0.01}, "mAP": 0.02}


def train_options(what, **request):
    runs = plan(Request(what, seeds=1, **request)).runs
    return {run.row.name: run.commands[0].options for run in runs}


def filled(request):
    """The table of a request with `RATES` plus 0.01 per seed for every run."""
    planned = plan(request)
    table = new_table(planned, [])
    for run in planned.runs:
        rank = {k: RATES[f"rank-{k}"] + run.seed / 100 for k in ("1", "5", "20")}
        scores = {"rank": rank, "mAP": RATES["mAP"] + run.seed / 100, "chance": CHANCE}
        table = add_run(table, run, scores | {"queries": 12, "valid_queries": 11, "gallery": 40}, {})
    return table


# -- plans -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", TABLES)
def test_plan_printed_commands_resolve_to_the_options_that_run(what, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("AMEM_DATA", "elsewhere")  # printed commands do not depend on the environment
    config = tmp_path / "my options.toml"
    config.write_text(TINY + 'backbone = "r3d"\nmodules = "aem"\n')  # a row's own options win
    places = {"data_root": tmp_path / "my data", "workspace": tmp_path / "work space"}
    weights = ("r3d=of kinetics.pth",)
    planned = plan(Request(what, seeds=1, preset="small", weights=weights, config=config, **places))
    stop, *printed = [line for line in planned.script().splitlines() if line and not line.startswith("#")]
    document = planned.as_json()
    assert stop == "set -e"
    assert printed == document["commands"]
    assert printed == [*document["shared"], *(line for run in document["runs"] for line in run["commands"])]
    stages = [line for line in printed if not line.startswith("amem show frames ")]
    assert len(printed) - len(stages) == (len(planned.runs) if TABLES[what].drawn else 0)
    for line, command in [*zip(stages, planned.commands, strict=True)][-6:]:
        words = shlex.split(line)
        assert words[:2] == ["amem", command.name]
        assert amem([*words[1:], "--dry-run", "--json"]) == 0
        expected = json.loads(json.dumps(dataclasses.asdict(command.options), default=str))
        assert json.loads(capsys.readouterr().out) == {"command": command.name, "options": expected}


def test_plan_config_sets_what_rows_do_not(tmp_path):
    config = tmp_path / "own.toml"
    config.write_text('[train-amem]\nepochs = 7\nbackbone = "r3d"\nseed = 5\n[train-tae]\nepochs = 3\n')
    planned = plan(Request("table3", seeds=1, preset="small", config=config))
    trained = [run.commands[0].options for run in planned.runs]
    assert {(o.epochs, o.backbone, o.clip_frames, o.seed) for o in trained} == {(7, "r3d", 8, 0)}
    assert {o.modules for o in trained} == {"baseline", "aem", "mem", "after-enhancement", "amem"}
    assert [command.options.epochs for command in planned.shared if command.name == "train-tae"] == [3]


def test_plan_preset_of_the_config(tmp_path):
    config = tmp_path / "own.toml"
    config.write_text('preset = "small"\n')
    request = Request("table3", seeds=1, rows=("baseline",), config=config, workspace=tmp_path)
    (run,) = plan(request).runs
    assert run.commands[0].options.neck == "bn"
    assert "--preset" not in run.commands[0].line
    assert filled(request)["preset"] == "small"
    assert filled(replace(request, preset="paper"))["preset"] == "paper"


def test_plan_table3_rows():
    found = train_options("table3")
    assert [(name, o.modules, o.predict_frames) for name, o in found.items() if o.uses_mem] == [
        *((f"mem-c{c}", "mem", c) for c in (1, 2, 3, 4)),
        ("after-enhancement", "after-enhancement", 3),
        ("amem", "amem", 3),
    ]
    assert [name for name, o in found.items() if not o.uses_mem] == ["baseline", "aem"]
    assert (found["aem"].labels, found["aem"].tae) == ("workspace/labels/mars.h5", "")
    assert (found["mem-c1"].labels, found["mem-c1"].tae) == ("", "workspace/tae/tae.safetensors")


def test_plan_table4_backbones_weights_and_rows_of_table3():
    found = train_options("table4", weights=("i3d=a.pt", "p3d=b.pt"))
    modules, weights = ("baseline", "aem", "mem", "amem"), {"i3d": "a.pt", "p3d": "b.pt", "r3d": ""}
    expected = {(backbone, file, name) for backbone, file in weights.items() for name in modules}
    assert {(o.backbone, o.weights, o.modules) for o in found.values()} == expected
    table3 = train_options("table3", weights=("i3d=a.pt",))
    assert {name for name in found if name in table3} == {"baseline", "aem", "mem-c3", "amem"}
    assert all(table3[name] == options for name, options in found.items() if name in table3)


def test_plan_table5_splits_and_protocols():
    planned = plan(Request("table5", seeds=1))
    found = {run.dataset: (run.commands[0].options.split, run.commands[-1].options.protocol) for run in planned.runs}
    assert found == {"mars": ("", "mars"), "ilids-vid": ("all", "ilids-10split"), "prid2011": ("all", "prid-10split")}
    labelled = [command.options.dataset for command in planned.shared if command.name == "label-videos"]
    assert labelled == ["mars", "ilids-vid", "prid2011"]


def test_plan_losses_and_figure4_vary_one_term():
    losses = train_options("losses")
    changed = {"without-adversarial": {"adversarial_weight": 0.0}, "without-texture": {"texture_loss": "none"}}
    for name, options in changed.items():
        row = losses[f"amem-{name}"]
        assert row == dataclasses.replace(losses["amem"], workspace=row.workspace, **options)
    planned = plan(Request("figure4", datasets=("ilids-vid",), seeds=1))
    assert {command.name for command in planned.commands} == {"train-tae", "train-amem"}
    trained = [run.commands[0].options for run in planned.runs]
    assert {options.split for options in trained} == {"0"}
    rows = [(c, texture) for c in (1, 2, 3) for texture in ("standardised", "none")]
    assert [(options.predict_frames, options.texture_loss) for options in trained] == rows


def test_plan_shared_commands_of_each_row():
    arm, tae = ["train-arm", "label-videos"], ["train-tae"]
    for row, shared in {"baseline": [], "aem": arm, "mem-c2": tae, "amem": arm + tae}.items():
        assert [command.name for command in plan(Request("table3", rows=(row,))).shared] == shared


def test_plan_seeds():
    planned = plan(Request("table3", rows=("baseline", "amem"), seeds=2, workspace=Path("w")))
    found = [(str(run.workspace.root), run.commands[0].options.seed) for run in planned.runs]
    assert found == [(f"w/reproduce/{row}/seed{seed}", seed) for seed in (0, 1) for row in ("baseline", "amem")]
    chosen = plan(Request("table3", rows=("aem",), seeds=3))
    assert [(run.row.name, run.seed) for run in chosen.runs] == [("aem", seed) for seed in range(3)]
    assert chosen.file == "table3-aem"
    twice = plan(Request("table5", datasets=("mars", "mars"), rows=("amem", "amem"), seeds=1))
    assert (twice.file, len(twice.runs)) == ("table5-mars-amem", 1)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"what": "table7"}, "Available: table3"),
        ({"seeds": 0}, "--seeds 0: must be 1 or more"),
        ({"rows": ("amen",)}, "Did you mean"),
        ({"datasets": ("mars", "prid2011")}, "about one data set"),
        ({"datasets": ("market1501",)}, "no tracklets"),
        ({"weights": ("i3dd=rgb.pt",)}, "must be NAME=FILE"),
        ({"weights": ("arm=kinetics",)}, "no kinetics weights of arm"),
        ({"weights": ("i3d=imagenet",)}, "no imagenet weights of i3d"),
        ({"weights": ("i3d=a.pt", "i3d=b.pt")}, "each once"),
        ({"weights": ("i3d=a.pt", "r3d=none.pt")}, "no row of table3 starts r3d from weights. Use NAME=FILE with arm,"),
        ({"what": "figure4", "weights": ("arm=none.pth",)}, "arm=...: no row of figure4 starts arm from weights"),
        ({"preset": "small", "weights": ("tae=w.pth",)}, "tae=...: no row of table3 starts tae from weights"),
    ],
)
def test_plan_refuses(request_, message):
    with pytest.raises(UsageError) as caught:
        plan(Request(**{"what": "table3"} | request_))
    assert message in str(caught.value)


def test_plan_takes_weights_of_rows_that_are_not_chosen():
    """An array job gives all weights to each row."""
    weights = ("arm=a.pth", "tae=t.pth", "i3d=i.pt", "r3d=r.pth")
    planned = plan(Request("table4", rows=("baseline",), seeds=1, weights=weights))
    assert planned.trainings == {("i3d", "i3d"): "i.pt"}


def test_plan_refuses_a_config_with_places(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('workspace = "theirs"\ndata-root = "d"\n')
    with pytest.raises(UsageError, match=r"it sets workspace and data-root.*Give them as flags"):
        plan(Request("table3", config=config))


def test_plan_of_another_backbone(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('backbone = "mobilenet_v2"\n')
    request = Request("table3", seeds=1, preset="small", config=config, rows=("baseline", "aem"))
    planned = plan(request)
    starts = [command.options.weights for command in planned.commands if command.name == "train-amem"]
    assert starts == ["imagenet", "imagenet"]  # and not the ARM, which the second row makes
    assert planned.runs[0].title == "Baseline (I3D), mobilenet_v2 for I3D"
    assert "# Baseline (I3D), mobilenet_v2 for I3D on mars" in planned.script()
    assert "mobilenet_v2=imagenet" in new_table(planned, [])["weights"]
    with pytest.raises(
        UsageError, match=r"--weights i3d=\.\.\.: no row of table3 starts i3d .* with arm, mobilenet_v2\.$"
    ):
        plan(dataclasses.replace(request, weights=("i3d=rgb.pt",)))
    given = plan(dataclasses.replace(request, weights=("mobilenet_v2=own.pt",)))
    assert [command.options.weights for command in given.commands if command.name == "train-amem"] == ["own.pt"] * 2


def test_plan_refuses_a_config_with_a_split(tmp_path):
    (tmp_path / "c.toml").write_text('split = "0"\n')
    with pytest.raises(UsageError, match="it sets split"):
        plan(Request("table3", config=tmp_path / "c.toml"))


def test_plan_from_scratch():
    planned = plan(Request("table4", seeds=1, weights=("i3d=rgb.pt", "arm=imagenet")))
    assert planned.from_scratch == ["tae", "r3d", "p3d"]
    assert "Trained from scratch: tae, r3d, p3d." in planned.advice()
    for start in ("rgb.pt", "kinetics"):
        assert plan(Request("table3", rows=("baseline",), weights=(f"i3d={start}",))).advice() == ""
    small = plan(Request("table3", seeds=1, preset="small", weights=("i3d=rgb.pt",)))
    assert ("tae", "patches") in small.trainings
    assert (small.from_scratch, small.advice()) == ([], "")


def test_dry_run_without_torch(tmp_path):
    words = ["reproduce", "table3", "--row", "amem", "--seeds", "1", "--preset", "small", "--dry-run"]
    heavy = "[name for name in ('torch', 'torchvision', 'matplotlib') if name in sys.modules]"
    code = f"import sys; from amem_cli.cli.app import run; assert run({words}) == 0; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"
    assert list(tmp_path.iterdir()) == []


# -- tables ------------------------------------------------------------------------------------------------------------


def test_table_mean_std_and_paper(tmp_path):
    table = filled(Request("table3", rows=("baseline",), seeds=3, workspace=tmp_path))
    row = table["rows"][0]
    assert (table["complete"], table["runs_done"], table["runs"]) == (True, 3, 3)
    assert row["paper"] == {"rank-1": 0.833, "rank-5": 0.933, "rank-20": 0.964, "mAP": 0.751}
    std = pytest.approx(statistics.stdev([0.5, 0.51, 0.52]))
    values = [0.5, 0.51, 0.52]
    assert row["ours"]["rank-1"] == {"mean": pytest.approx(0.51), "standard_deviation": std, "values": values}
    assert filled(Request("table3", seeds=1))["rows"][0]["ours"]["mAP"]["standard_deviation"] is None
    text = write(tmp_path, table).read_text()
    assert json.loads((tmp_path / "reproduce" / "table3-baseline.json").read_text()) == table
    assert "| Baseline (I3D) | 51.0 ± 1.0 | 91.0 ± 1.0 | 101.0 ± 1.0 | 26.0 ± 1.0 |" in text
    assert "|   paper | 83.3 | 93.3 | 96.4 | 75.1 |" in text
    assert "3 of 3 runs" in text
    assert "Chance on mars: rank-1 1.0, mAP 2.0." in text
    assert "Our rates on mars are over 11 queries with a match, of 12, gallery 40." in text


def test_table_differences_over_pairs_of_seeds():
    planned = plan(Request("table3", seeds=3))
    table = new_table(planned, [])
    values = {"baseline": [0.5, 0.6, 0.7], "amem": [0.51, 0.62, 0.73], "aem": [0.45]}
    for run in planned.runs:
        if run.seed < len(values.get(run.row.name, [])):
            table = add_run(table, run, None, {"mAP": values[run.row.name][run.seed]})
    found = {row["configuration"]: row["difference"].get("mAP") for row in table["rows"]}
    assert found["baseline"] is None
    assert found["aem"] == {"mean": pytest.approx(-0.05), "interval": None, "pairs": 1}
    # t(0.975, 2) is 4.3027, the standard deviation 0.01: 0.02 +- 4.3027 * 0.01 / sqrt(3)
    assert found["amem"]["interval"] == pytest.approx([0.02 - 0.024842, 0.02 + 0.024842], abs=1e-5)
    assert found["amem"]["mean"] == pytest.approx(0.02)
    text = as_markdown(table, Path())
    assert "| Baseline + AEM + MEM (AMEM) | Baseline (I3D) | - | - | +2.0 | -0.5 to +4.5 |" in text
    assert "| Baseline + AEM | Baseline (I3D) | - | - | -5.0 | - |" in text
    assert "Not complete: 7 of 24 runs" in text


def test_table_predicted_frames_next_to_copies(tmp_path):
    frames = {"psnr": 20.44, "psnr_copied": 20.2, "ssim": 0.493, "ssim_copied": 0.555, "mse_ratio": 0.95, "clips": 48}
    planned = plan(Request("figure4", rows=("mem-c1",), seeds=1, workspace=tmp_path))
    text = as_markdown(add_run(new_table(planned, []), planned.runs[0], None, frames), tmp_path)
    assert "| Baseline + MEM (c=1) | 20.4 | 0.49 | 0.95 | - |\n|   copy | 20.2 | 0.56 | 1 | - |" in text
    assert "Predicted frames: means over 48 clips." in text
    assert "](reproduce/mem-c1/seed0/predicted-frames-mars.png)" in text
    assert "rank-1" not in text.partition("## Commands")[0]


def test_table_file_and_cited_methods_of_chosen_data_sets(tmp_path):
    files = [plan(Request("table3", datasets=datasets)).file for datasets in ((), ("mars",), ("ilids-vid",))]
    assert files == ["table3", "table3", "table3-ilids-vid"]
    table = filled(Request("table5", datasets=("ilids-vid",), seeds=1))
    assert table["file"] == "table5-ilids-vid"
    assert [row["paper"]["rank-1"] for row in table["rows"]] == [0.826, 0.872]
    assert "| M3D (Li, Zhang, and Huang 2019) | 74.0 | 94.3 | - | - |" in as_markdown(table, tmp_path)


def test_tables_agree_with_the_paper():
    rows = {row.name: row for table in TABLES.values() for row in table.rows}
    assert {name for rates in paper.RESULTS.values() for name in rates} <= rows.keys()
    for row in rows.values():
        assert rows[row.compared_with].backbone == row.backbone
    rates = [rate for results in (*paper.RESULTS.values(), *paper.CITED.values()) for rate in results.values()]
    assert len(rates) == 20 + 27
    for rate in rates:
        ranks = [rank for rank in rate[:3] if rank is not None]
        assert ranks == sorted(ranks)
        assert all(0 < value <= 100 for value in rate if value is not None)


@pytest.mark.slow
def test_sizes_match_the_paper(tmp_path, capsys):
    assert amem(["reproduce", "sizes", "--workspace", str(tmp_path), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    by_name = {row["name"]: row for row in table["rows"]}
    assert {row["name"] for row in table["rows"] if row["group"] == "backbone"} == set(BACKBONES)
    assert by_name["i3d"]["values"] == 12_301_824
    assert by_name["i3d"]["gflop"] == pytest.approx(24.5, abs=0.05)  # by hand over all convolutions
    baseline, final = (next(r for r in table["rows"] if r["paper_MB"] == mb) for mb in (50.2, 67.7))
    assert baseline["values"] == 12_301_824 + 1024 * 512 + 512 + 512 * 625 + 625
    assert baseline["MiB"] == pytest.approx(50.2, abs=0.06)
    assert final["values"] == by_name["i3d"]["values"] + 3072 * 512 + 512 + 2 * by_name["inception 3x3x3"]["values"]
    assert by_name["conv3d on 1024 channels"]["parameters"] == 27 * 1024 * 1024 + 2 * 1024
    assert by_name["conv2d on 1024 channels"]["parameters"] == 9 * 1024 * 512 * 2 + 2 * (512 + 1024)
    assert by_name["conv3d on 832 channels"]["MiB"] == pytest.approx(87.75, abs=0.05)
    assert by_name["conv2d on 832 channels"]["MiB"] == pytest.approx(32.6, abs=0.05)
    assert json.loads((tmp_path / "reproduce" / "sizes.json").read_text()) == table
    assert "| model: baseline" in (tmp_path / "reproduce" / "sizes.md").read_text()


# -- runs --------------------------------------------------------------------------------------------------------------


def test_run_checks_weights_first(walkers, tmp_path, monkeypatch):
    from amem_cli.tools.reproduce import run as module

    monkeypatch.setattr(module, "run_command", lambda *_: pytest.fail("a command ran"))
    page = tmp_path / "p3d.pt"
    page.write_bytes(b"<html>")
    request = Request("table4", rows=("p3d-mem-c3",), seeds=1, data_root=walkers, workspace=tmp_path)
    for file, error in ((page, BadData), (tmp_path / "none.pt", InputMissing)):
        with pytest.raises(error, match=file.name):
            module.run(plan(dataclasses.replace(request, weights=(f"p3d={file}",))), Silent())


def test_run_finds_weights_by_name_first(walkers, tmp_path, monkeypatch):
    from amem_cli.tools.reproduce import run as module

    monkeypatch.setattr(module, "run_command", lambda *_: pytest.fail("a command ran"))
    monkeypatch.setitem(PACKAGES, ("kinetics", "i3d"), PACKAGES["kinetics", "i3d"]._replace(name="not-installed"))
    request = Request("table3", rows=("baseline",), seeds=1, preset="small", data_root=walkers, workspace=tmp_path)
    with pytest.raises(InputMissing, match="the package with weights of i3d is not installed"):
        module.run(plan(request), Silent())


@pytest.mark.parametrize(("reused", "written"), [(True, [3]), (False, [1, 2, 3])])
def test_run_keeps_the_table_until_something_is_new(reused, written, walkers, tmp_path, monkeypatch):
    from amem_cli.tools.reproduce import run as module

    scores = {"rank": {"1": 0.5, "5": 0.5, "20": 0.5}, "mAP": 0.5, "chance": CHANCE, "gallery": 40}
    scores |= {"queries": 12, "valid_queries": 11}
    stages = {"evaluate": SimpleNamespace(reused=True, metrics=scores)}
    trained = [SimpleNamespace(reused=reused)]  # of one split
    monkeypatch.setattr(module, "run_command", lambda command, progress: stages.get(command.name, trained))
    counts = []
    monkeypatch.setattr(module, "write", lambda workspace, table: counts.append(table["runs_done"]))
    module.run(plan(Request("table3", rows=("baseline",), data_root=walkers, workspace=tmp_path)), Silent())
    assert counts == written


@pytest.mark.slow
def test_run_losses_then_reuse(walkers, tmp_path, tiny_backbone, capsys, monkeypatch):
    from amem_cli.tools.reproduce.run import run

    monkeypatch.setattr("amem_cli.tools.show.CLIPS_DRAWN", 2)
    places = {"data_root": walkers, "workspace": tmp_path}
    config = tmp_path / "tiny.toml"
    config.write_text(f'{TINY}weights = ""\n')  # I3D is the tiny one
    planned = plan(Request("losses", rows=("amem",), seeds=1, preset="small", config=config, **places))
    table = run(planned, Silent())
    assert (table["runs_done"], table["runs"], table["complete"]) == (1, 1, True)
    row, own = table["rows"][0], planned.runs[0].workspace
    frames = {"psnr", "psnr_copied", "ssim", "ssim_copied", "mse_ratio", "other_motion_ratio", "clips"}
    assert row["ours"].keys() == RATES.keys() | frames
    assert Path(row["pictures"][0]).is_file()
    assert json.loads(own.results("mars").read_text())["rank"]["1"] == row["ours"]["rank-1"]["mean"]
    assert any("not the complete data set" in note for note in table["notes"])
    assert amem(["status", "--workspace", str(own.root), "--verify", "--json"]) == 0
    assert [link["state"] for link in json.loads(capsys.readouterr().out)["chain"]] == ["ready"] * 6
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert run(planned, Silent()) == table
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
