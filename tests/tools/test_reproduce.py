"""The paper's tables as commands: what is printed is what runs, and what was run stands beside the paper's figures."""

import dataclasses
import json
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from amem_cli.artifacts.paths import Workspace
from amem_cli.cli import console
from amem_cli.cli.app import run as amem
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.options import BACKBONES, TrainAmemOptions
from amem_cli.runtime.progress import Silent
from amem_cli.stages.output import weights_parent
from amem_cli.tools import paper
from amem_cli.tools.reproduce.plan import TABLES, plan
from amem_cli.tools.reproduce.run import run, run_command
from amem_cli.tools.reproduce.settings import parse_settings
from amem_cli.tools.reproduce.table import Measured, columns_and_rows, document, write

TINY = (
    "image-size=64x32",
    "precision=fp32",
    "device=cpu",
    "epochs=1",
    "people-per-batch=2",
    "clips-per-person=2",
    "gradient-steps=0",
    "train-arm.epochs=1",
    "train-arm.batch-size=16",
    "train-tae.epochs=1",
    "train-tae.batch-size=6",
)


# ---- the plan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["table3", "table4", "table5", "losses", "figure4"])
def test_every_printed_command_resolves_to_the_options_that_would_run(what, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("AMEM_DATA", "elsewhere")  # printed commands must not depend on the environment
    made = plan(
        what,
        seeds=2,
        preset="small",
        data_root=tmp_path / "my data",
        workspace=tmp_path / "work space",
        weights=("i3d=rgb imagenet.pt", "r3d=r3d.pth"),
        settings=(*TINY, "learning-rate=3e-4", "resume=never", "train-tae.seed=7"),
    )
    stop, *printed = [line for line in made.script().splitlines() if line and not line.startswith("#")]
    assert stop == "set -e"  # a failed command must not be followed by those that need it
    assert printed == made.lines == made.as_json()["commands"]
    parts = made.as_json()
    assert printed == [*parts["shared"], *(line for one in parts["runs"] for line in one["commands"])]
    drawn = [line for line in printed if line.startswith("amem show frames ")]
    assert len(drawn) == (len(made.runs) if TABLES[what].drawn else 0)
    for line in drawn[:1]:
        assert shlex.split(line)[-1].endswith("predicted-frames-mars.png")
    printed = [line for line in printed if line not in drawn]
    for line, command in list(zip(printed, made.commands, strict=True)):
        words = shlex.split(line)
        assert words[:2] == ["amem", command.name]
        assert amem([*words[1:], "--dry-run", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        expected = json.loads(json.dumps(dataclasses.asdict(command.options), default=str))
        assert shown == {"command": command.name, "options": expected}


def rows(what, **options):
    found = {}
    for one in plan(what, seeds=1, **options).runs:
        found[one.configuration.name] = next(c.options for c in one.commands if c.name == "train-amem")
    return found


def test_table_3_has_the_papers_eight_rows():
    found = rows("table3")
    assert {name: (o.modules, o.predict_frames) for name, o in found.items() if o.uses_mem} == {
        "mem-c1": ("mem", 1),
        "mem-c2": ("mem", 2),
        "mem-c3": ("mem", 3),
        "mem-c4": ("mem", 4),
        "after-enhancement": ("after-enhancement", 3),
        "amem": ("amem", 3),
    }
    assert [name for name, o in found.items() if not o.uses_mem] == ["baseline", "aem"]
    assert {o.backbone for o in found.values()} == {"i3d"}
    assert found["aem"].labels == "workspace/labels/mars.h5"
    assert found["mem-c1"].tae == "workspace/tae/tae.safetensors"
    assert (found["baseline"].labels, found["baseline"].tae) == ("", "")


def test_table_4_crosses_backbones_with_modules_and_shares_the_rows_of_table_3():
    found = rows("table4")
    assert {(o.backbone, o.modules) for o in found.values()} == {
        (backbone, modules) for backbone in ("i3d", "r3d", "p3d") for modules in ("baseline", "aem", "mem", "amem")
    }
    assert {o.predict_frames for o in found.values()} == {3}
    shared = found.keys() & rows("table3").keys()
    assert shared == {"baseline", "aem", "mem-c3", "amem"}
    assert all(found[name] == rows("table3")[name] for name in shared)


def test_each_backbone_gets_its_own_weights():
    found = rows("table4", weights=("i3d=a.pt", "p3d=b.pt"))
    assert {(o.backbone, o.weights) for o in found.values()} == {("i3d", "a.pt"), ("p3d", "b.pt"), ("r3d", "")}


def test_table_5_runs_all_splits_of_the_sets_that_have_several():
    made = plan("table5", seeds=1)
    splits = {one.dataset: one.commands[0].options.split for one in made.runs}
    assert splits == {"mars": "", "ilids-vid": "all", "prid2011": "all"}
    protocols = {one.dataset: one.commands[-1].options.protocol for one in made.runs}
    assert protocols == {"mars": "mars", "ilids-vid": "ilids-10split", "prid2011": "prid-10split"}
    labelled = [command.options.dataset for command in made.shared if command.name == "label-videos"]
    assert labelled == ["mars", "ilids-vid", "prid2011"]


def test_losses_leave_out_one_term_each():
    found = rows("losses")
    assert found["amem-without-adversarial"] == dataclasses.replace(
        found["amem"], adversarial_weight=0.0, workspace=found["amem-without-adversarial"].workspace
    )
    assert found["amem-without-texture"] == dataclasses.replace(
        found["amem"], texture_loss="none", workspace=found["amem-without-texture"].workspace
    )


def test_figure_4_varies_rounds_and_texture_loss_and_needs_no_ranking():
    found = rows("figure4")
    assert {(o.predict_frames, o.texture_loss) for o in found.values()} == {
        (c, texture) for c in (1, 2, 3) for texture in ("standardised", "none")
    }
    assert {command.name for command in plan("figure4").commands} == {"train-tae", "train-amem"}


@pytest.mark.parametrize(
    ("what", "row", "shared"),
    [
        ("table3", "baseline", []),
        ("table3", "aem", ["train-arm", "label-videos"]),
        ("table3", "mem-c2", ["train-tae"]),
        ("table3", "amem", ["train-arm", "label-videos", "train-tae"]),
    ],
)
def test_only_what_the_rows_need_is_made(what, row, shared):
    assert [command.name for command in plan(what, rows=(row,)).shared] == shared


def test_seeds_have_folders_of_their_own_and_come_one_after_another():
    made = plan("table3", rows=("baseline", "amem"), seeds=2, workspace=Path("w"))
    assert [str(one.workspace.root) for one in made.runs] == [
        "w/reproduce/baseline/seed0",
        "w/reproduce/amem/seed0",
        "w/reproduce/baseline/seed1",
        "w/reproduce/amem/seed1",
    ]
    assert [one.commands[0].options.seed for one in made.runs] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"what": "table7"}, "Choose one of table3"),
        ({"seeds": 0}, "--seeds 0: must be 1 or more"),
        ({"rows": ("amen",)}, "Did you mean amem?"),
        ({"datasets": ("mars", "prid2011")}, "about one data set"),
        ({"datasets": ("market1501",)}, "no tracklets"),
        ({"settings": ("epochs",)}, "must be NAME=VALUE"),
        ({"settings": ("epoch=3",)}, "Did you mean epochs?"),
        ({"settings": ("epochs=many",)}, "not of type int"),
        ({"settings": ("epochs=0",)}, "--epochs 0: must be positive"),
        ({"settings": ("branch=conv4d",)}, "none of inception, conv3d, conv2d"),
        ({"settings": ("force=1",)}, "neither true nor false"),
        ({"settings": ("modules=aem",)}, "the table itself decides modules"),
        ({"settings": ("weights=a.pt",)}, "Use --weights NAME=FILE"),
        ({"settings": ("train-tea.epochs=3",)}, "Did you mean train-tae?"),
        ({"settings": ("clip-frames=5",)}, "--predict-frames 4"),
        ({"weights": ("rgb.pt",)}, "must be NAME=FILE"),
        ({"weights": ("i3dd=rgb.pt",)}, "must be NAME=FILE"),
        ({"weights": ("s3d=kinetics",)}, "must be NAME=FILE"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_runs(options, told):
    with pytest.raises(UsageError) as caught:
        plan(**{"what": "table3"} | options)
    assert told in str(caught.value)


def test_common_settings_reach_every_command_that_has_them():
    assert parse_settings(("device=cpu", "image-size=64x32", "workers=2", "train-arm.epochs=2")) == {
        "train-arm": {"device": "cpu", "image_size": "64x32", "workers": 2, "epochs": 2},
        "label-videos": {"device": "cpu", "workers": 2},
        "train-tae": {"device": "cpu", "image_size": "64x32", "workers": 2},
        "train-amem": {"device": "cpu", "image_size": "64x32", "workers": 2},
        "extract-features": {"device": "cpu", "workers": 2},
        "evaluate": {"device": "cpu"},
    }


def test_missing_weights_are_found_before_the_first_training(tmp_path):
    made = plan("table3", workspace=tmp_path, weights=("i3d=" + str(tmp_path / "none.pt"),))
    with pytest.raises(InputMissing, match=r"none\.pt"):
        run(made, Silent())
    assert not list(tmp_path.iterdir())


def test_torchvisions_own_weights_are_no_missing_file():
    assert weights_parent("kinetics") == {"weights": {"name": "torchvision Kinetics", "sha256": ""}}


def test_the_command_line_prints_the_plan_without_torch(tmp_path):
    words = ["reproduce", "table3", "--row", "amem", "--seeds", "1", "--set", "epochs=2", "--dry-run"]
    code = (
        "import sys; from amem_cli.cli.app import run\n"
        f"assert run({words}) == 0\n"
        "print([name for name in ('torch', 'torchvision', 'matplotlib') if name in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    *lines, imported = shown.splitlines()
    assert imported == "[]"
    assert [line.split()[1] for line in lines if line.startswith("amem ")] == [
        "train-arm",
        "label-videos",
        "train-tae",
        "train-amem",
        "extract-features",
        "evaluate",
    ]
    assert "# Baseline + AEM + MEM (AMEM), seed 0" in lines
    assert not list(tmp_path.iterdir())


# ---- the table -------------------------------------------------------------------------------------------------------


def measured(made, values):
    found = {(row.name, dataset): Measured() for dataset in made.datasets for row in made.rows}
    for one in made.runs:
        row = found[one.configuration.name, one.dataset]
        row.workspaces.append(str(one.workspace.root))
        for figure, by_seed in values.items():
            row.values[figure] = by_seed
    return found


def test_a_table_has_mean_and_deviation_over_seeds_beside_the_papers_figures(tmp_path):
    made = plan("table3", rows=("baseline",), seeds=3, workspace=tmp_path)
    rates = {"rank-1": [0.5, 0.6, 0.8], "rank-5": [0.9] * 3, "rank-20": [1.0] * 3, "mAP": [0.25, 0.5, 0.75]}
    table = document(made, measured(made, rates), ["a note"])
    row = table["rows"][0]
    assert not table["complete"]
    assert row["paper"] == {"rank-1": 0.833, "rank-5": 0.933, "rank-20": 0.964, "mAP": 0.751}
    assert row["ours"]["rank-1"]["mean"] == pytest.approx(1.9 / 3)
    assert row["ours"]["rank-1"]["standard_deviation"] == pytest.approx(statistics.stdev([0.5, 0.6, 0.8]))
    assert columns_and_rows(table)[1][:1] == [
        ["Baseline (I3D)", "83.3", "63.3 ± 15.3", "93.3", "90.0 ± 0.0", "96.4", "100.0 ± 0.0", "75.1", "50.0 ± 25.0"]
    ]
    written, markdown = write(Workspace(tmp_path), table)
    assert json.loads(written.read_text()) == table
    text = markdown.read_text()
    assert "| Baseline (I3D) | 83.3 | 63.3 ± 15.3 |" in text
    assert "a note" in text
    assert "Not complete: 3 of 24 rows with their seeds" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {10}


def test_rows_are_compared_seed_by_seed_with_the_row_they_stand_beside(tmp_path):
    made = plan("table3", seeds=3, workspace=tmp_path)
    found = measured(made, {"rank-1": [0.4, 0.5, 0.6], "mAP": [0.5, 0.6, 0.7]})
    # t(0.975, 2) is 4.3027: 0.02 more on average, deviation 0.01, so 0.02 +- 4.3027 * 0.01 / sqrt(3)
    found["amem", "mars"] = Measured({"rank-1": [0.4, 0.5], "mAP": [0.51, 0.62, 0.73]})
    found["aem", "mars"] = Measured({"rank-1": [0.5], "mAP": [0.45]})
    table = document(made, found, [])
    by_name = {row["configuration"]: row["difference"] for row in table["rows"]}
    assert by_name["baseline"] == {}
    assert by_name["amem"]["mAP"]["mean"] == pytest.approx(0.02)
    assert by_name["amem"]["mAP"]["interval"] == pytest.approx([0.02 - 0.024842, 0.02 + 0.024842], abs=1e-5)
    assert by_name["amem"]["rank-1"]["pairs"] == 2
    assert by_name["aem"]["mAP"] == {"mean": pytest.approx(-0.05), "interval": None, "pairs": 1}
    text = write(Workspace(tmp_path), table)[1].read_text()
    title = "Baseline + AEM + MEM (AMEM)"
    assert f"| {title} | Baseline (I3D) | +0.0 | +0.0 to +0.0 | +2.0 | -0.5 to +4.5 |" in text
    assert "| Baseline + AEM | Baseline (I3D) | +10.0 | - | -5.0 | - |" in text


@pytest.mark.parametrize("what", ["table3", "table4", "table5", "losses", "figure4"])
def test_every_row_stands_beside_a_row_of_its_table(what):
    table = TABLES[what]
    by_name = {row.name: row for row in table.configurations}
    alone = [row.name for row in table.configurations if row.beside == row.name or row.beside not in by_name]
    if table.scored:
        assert alone == {"table4": ["r3d-baseline", "p3d-baseline", "baseline"], "losses": ["amem"]}.get(
            what, ["baseline"]
        )
    for row in table.configurations if table.scored else ():
        other = by_name.get(row.beside, row)
        assert other.options.get("backbone") == row.options.get("backbone")


def test_a_table_fits_into_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    frames = {"psnr": 20.4, "psnr_copied": 20.2, "ssim": 0.493, "ssim_copied": 0.555, "mse_ratio": 0.95}
    frames["other_motion_ratio"] = 0.97
    values = {name: [value, value + 0.01] for name, value in frames.items()}
    for what, rates in (("losses", {"rank-1": [0.5, 0.6], "mAP": [0.5, 0.7]}), ("figure4", {})):
        made = plan(what, seeds=2, workspace=tmp_path)
        console.print_reproduction(document(made, measured(made, rates | values), []), Path("table.md"))
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= 80
        assert re.search(r"20.4 ± 0.0.* 20.2 ± 0.0.* 0.50 ± 0.01.* 0.56 ± 0.01.* 0.9. ± 0.01", out)
        assert ("per cent" in out) == bool(rates)


@pytest.mark.parametrize(
    "given", [["--dataset", "mars"], ["--row", "amem"], ["--set", "epochs=2"], ["--seeds", "2"], ["--preset", "small"]]
)
def test_sizes_refuses_what_it_would_ignore(given, capsys, tmp_path):
    assert amem(["reproduce", "sizes", "--workspace", str(tmp_path), *given]) == 2
    assert f"{given[0]} would change nothing" in capsys.readouterr().err


def test_an_unfinished_table_says_so_and_one_seed_has_no_deviation(tmp_path):
    made = plan("table3", seeds=1, workspace=tmp_path)
    found = measured(made, {"rank-1": [0.5], "rank-5": [0.9], "rank-20": [1.0], "mAP": [0.25]})
    found["amem", "mars"] = Measured()
    table = document(made, found, [])
    assert (table["complete"], table["runs_done"]) == (False, 7)
    text = write(Workspace(tmp_path), table)[1].read_text()
    assert "Not complete: 7 of 8" in text
    assert "| Baseline + AEM + MEM (AMEM) | 86.7 | - | 94.0 | - |" in text
    assert "| Baseline (I3D) | 83.3 | 50.0 | 93.3 | 90.0 |" in text


RATES = {"rank-1": [0.5], "rank-5": [0.9], "rank-20": [1.0], "mAP": [0.25]}


def write_rows(tmp_path, what, *names, **options):
    made = plan(what, **({"rows": names, "seeds": 1, "workspace": tmp_path} | options))
    write(Workspace(tmp_path), table := document(made, measured(made, RATES), []))
    return table


def test_rows_of_an_earlier_run_stay_where_their_commands_are_the_same(tmp_path):
    everybody = [row.name for row in TABLES["table3"].configurations]
    write_rows(tmp_path, "table3", *everybody[:3], settings=("epochs=9", "lr-step=4"))
    table = write_rows(tmp_path, "table3", *everybody[3:], settings=("lr-step=4", "device=cpu", "epochs=9"))
    assert (table["complete"], table["runs_done"], table["runs"]) == (True, 8, 8)
    assert all(row["ours"]["mAP"]["mean"] == 0.25 for row in table["rows"])
    assert table["from_scratch"] == ["arm", "tae", "i3d"]
    assert sum("train-amem" in line for line in table["commands"]) == 8
    assert write_rows(tmp_path, "table3", "amem", settings=("epochs=1",))["runs_done"] == 1


def test_table_4_comes_together_backbone_by_backbone(tmp_path):
    write_rows(tmp_path, "table4", "r3d-baseline", "r3d-aem", weights=("r3d=r.pth", "arm=imagenet"))
    table = write_rows(tmp_path, "table4", "p3d-baseline", weights=("arm=imagenet", "p3d=p.pth", "r3d=r.pth"))
    assert [row["configuration"] for row in table["rows"] if row["ours"]] == ["r3d-baseline", "r3d-aem", "p3d-baseline"]
    table = write_rows(tmp_path, "table4", "p3d-baseline", weights=("p3d=p.pth", "r3d=r.pth"))
    assert [row["configuration"] for row in table["rows"] if row["ours"]] == [
        "r3d-baseline",
        "p3d-baseline",
    ]  # AEM's ARM
    table = write_rows(tmp_path, "table4", "p3d-baseline", weights=("p3d=p.pth", "r3d=other.pth"))
    assert [row["configuration"] for row in table["rows"] if row["ours"]] == ["p3d-baseline"]


def test_each_choice_of_data_sets_has_a_table_of_its_own(tmp_path):
    write_rows(tmp_path, "table3", "baseline")
    assert write_rows(tmp_path, "table3", "baseline", datasets=("ilids-vid",))["file"] == "table3-ilids-vid"
    write_rows(tmp_path, "table5", "baseline", datasets=("mars",))
    write_rows(tmp_path, "table5", "baseline", datasets=("ilids-vid",))
    made = sorted(path.stem for path in (tmp_path / "reproduce").glob("*.md"))
    assert made == ["table3", "table3-ilids-vid", "table5-ilids-vid", "table5-mars"]


def test_rows_with_different_numbers_of_seeds_say_so(tmp_path):
    write_rows(tmp_path, "table3", "baseline", seeds=2)
    table = write_rows(tmp_path, "table3", "aem", seeds=1)
    assert (table["runs_done"], table["runs"]) == (2, 8)
    assert "over the seeds that are done" in (tmp_path / "reproduce" / "table3.md").read_text()


def test_a_batch_job_runs_one_row_with_one_seed(tmp_path, capsys):
    made = plan("table3", rows=("aem",), seeds=3, chosen_seeds=(1,), workspace=tmp_path)
    assert [(one.configuration.name, one.seed) for one in made.runs] == [("aem", 1)]
    assert made.with_rows("aem").chosen_seeds == ()
    with pytest.raises(UsageError, match=r"--seed 3: --seeds 3 are 0 to 2"):
        plan("table3", seeds=3, chosen_seeds=(3,))
    assert amem(["reproduce", "table3", "--row", "aem", "--seed", "2", "--dry-run", "--json"]) == 0
    chain = json.loads(capsys.readouterr().out)
    assert [(one["row"], one["dataset"], one["seed"]) for one in chain["runs"]] == [("aem", "mars", 2)]
    assert [line.split()[1] for line in chain["shared"]] == ["train-arm", "label-videos"]


@pytest.mark.parametrize(
    ("what", "options", "told"),
    [
        ("losses", {"settings": ("texture-loss=none",)}, "the rows of losses differ in it"),
        ("losses", {"settings": ("adversarial-weight=0.5",)}, "the rows of losses differ in it"),
        ("figure4", {"settings": ("texture-loss=literal",)}, "the rows of figure4 differ in it"),
        ("table3", {"settings": ("epochs=5", "epochs=6")}, "epochs is given twice"),
        ("table3", {"weights": ("i3d=kinetics",)}, "torchvision keeps no kinetics weights of i3d"),
        ("table3", {"weights": ("i3d=imagenet",)}, "torchvision keeps no imagenet weights of i3d"),
        ("table3", {"weights": ("arm=kinetics",)}, "torchvision keeps no kinetics weights of arm"),
        ("table3", {"weights": ("i3d=a.pt", "i3d=b.pt")}, "i3d is given twice"),
    ],
)
def test_what_would_make_a_row_another_or_fail_later_is_refused_now(what, options, told):
    with pytest.raises(UsageError, match=told):
        plan(what, **options)


def test_what_is_only_drawn_is_trained_on_one_split():
    made = plan("figure4", datasets=("ilids-vid",), rows=("mem-c1",), seeds=1)
    assert [(one.trainings, one.commands[0].options.split) for one in made.runs] == [(1, "0")]


def test_the_terminal_tells_what_the_page_tells(tmp_path, capsys):
    table = write_rows(tmp_path, "table3", "baseline")
    table["rows"][0]["chance"] = {"rank-1": 0.01, "mAP": 0.02}
    console.print_reproduction(table, tmp_path / "table3.md")
    out = capsys.readouterr().out
    assert "not complete: 1 of 8 rows with their seeds are done" in out
    assert "Chance on mars: rank-1 1.0, mAP 2.0." in out
    assert "Weights to start from: i3d from scratch." in out


def test_trainings_from_scratch_are_told_with_the_way_to_weights(tmp_path):
    made = plan("table4", seeds=1, workspace=tmp_path, weights=("i3d=rgb.pt", "arm=imagenet"))
    assert made.from_scratch() == ["tae", "r3d", "p3d"]
    script = " ".join(line.removeprefix("# ") for line in made.script().splitlines())
    assert "from scratch, where the paper starts from ImageNet or Kinetics weights: tae, r3d, p3d." in script
    assert "--weights tae=imagenet --weights r3d=FILE --weights p3d=FILE gives them" in script
    arm = next(command for command in made.shared if command.name == "train-arm")
    assert arm.options.weights == "imagenet"
    table = document(made, measured(made, {"rank-1": [0.5], "mAP": [0.4]}), [])
    text = write(Workspace(tmp_path), table)[1].read_text()
    assert "Weights to start from: i3d=rgb.pt; arm=imagenet; tae, r3d, p3d from scratch." in text
    assert plan("table3", rows=("baseline",), weights=("i3d=rgb.pt",)).advice() == ""


def test_trainings_are_counted_split_by_split(tmp_path):
    assert ": 126 trainings of train-amem." in plan("table5", workspace=tmp_path).script()
    assert ": 1 training of train-amem." in plan("table3", rows=("aem",), seeds=1, workspace=tmp_path).script()


def test_weights_that_do_not_fit_are_told_before_anything_runs(walkers, tmp_path, monkeypatch):
    page = tmp_path / "p3d.pt"
    page.write_bytes(b"<html>")
    monkeypatch.setattr("amem_cli.tools.reproduce.run.run_command", lambda *_: pytest.fail("something ran"))
    made = plan(
        "table4", rows=("p3d-mem-c3",), seeds=1, data_root=walkers, workspace=tmp_path, weights=(f"p3d={page}",)
    )
    with pytest.raises(BadData, match="it is a web page"):
        run(made, Silent())


def test_table_5_carries_the_methods_that_the_paper_cites(tmp_path):
    made = plan("table5", datasets=("ilids-vid",), seeds=1, workspace=tmp_path)
    table = document(made, measured(made, {"rank-1": [0.5], "mAP": [0.4]}), [])
    assert [row["paper"]["rank-1"] for row in table["rows"]] == [0.826, 0.872]
    assert [row["paper"]["mAP"] for row in table["rows"]] == [None, None]
    assert len(table["cited"]) == 9
    assert "| M3D (Li, Zhang, and Huang 2019) | 74.0 | 94.3 | - |" in write(Workspace(tmp_path), table)[1].read_text()


def test_the_papers_own_tables_agree_with_each_other():
    mars = paper.RESULTS["mars"]
    assert (mars["baseline"].rank_1, mars["amem"].mAP) == (83.3, 79.3)
    for row in (printed for rows in paper.RESULTS.values() for printed in rows.values()):
        ranks = [rank for rank in row[:3] if rank is not None]
        assert ranks == sorted(ranks)
        assert all(0 < rate <= 100 for rate in row if rate is not None)
    configured = {row.name for table in TABLES.values() for row in table.configurations}
    assert {name for rows in paper.RESULTS.values() for name in rows} <= configured


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_sizes_stand_beside_the_papers(tmp_path, capsys):
    assert amem(["reproduce", "sizes", "--workspace", str(tmp_path), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    by_name = {row["name"]: row for row in table["rows"]}
    assert {row["name"] for row in table["rows"] if row["group"] == "backbone"} == set(BACKBONES)
    assert by_name["i3d"]["values"] == 12_301_824
    # convolutions at 24.5 GFLOP a clip, as counted by hand for the whole network
    assert by_name["i3d"]["gflop"] == pytest.approx(24.5, abs=0.05)
    baseline, final = (next(r for r in table["rows"] if r["paper_MB"] == mb) for mb in (50.2, 67.7))
    assert baseline["values"] == 12_301_824 + 1024 * 512 + 512 + 512 * 625 + 625
    assert baseline["MiB"] == pytest.approx(50.2, abs=0.06)
    assert final["values"] == by_name["i3d"]["values"] + 3072 * 512 + 512 + 2 * by_name["inception 3x3x3"]["values"]
    fitted = next(r for r in table["rows"] if r["name"].endswith("attribute heads"))
    assert fitted["MiB"] == pytest.approx(67.7, abs=0.06)
    assert by_name["one 3-D convolution"]["parameters"] == 27 * 1024 * 1024 + 2 * 1024
    assert by_name["two 2-D convolutions"]["parameters"] == 9 * 1024 * 512 * 2 + 2 * (512 + 1024)
    assert by_name["one 3-D convolution on 832 channels"]["MiB"] == pytest.approx(87.75, abs=0.05)
    assert by_name["two 2-D convolutions on 832 channels"]["MiB"] == pytest.approx(32.6, abs=0.05)
    assert [r["paper_MB"] for r in table["rows"] if r["group"] == "one branch"] == [None, None, 90.0, 90.0, 32.6, 32.6]
    assert all(row["reading"] for row in table["rows"])
    assert json.loads((tmp_path / "reproduce" / "sizes.json").read_text()) == table
    assert "| model: baseline" in (tmp_path / "reproduce" / "sizes.md").read_text()


# ---- really run ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_rows_of_table_3_run_on_walkers_and_are_not_run_again(walkers, tmp_path, capsys):
    made = plan(
        "table3",
        rows=("baseline", "amem"),
        seeds=2,
        preset="small",
        data_root=walkers,
        workspace=tmp_path,
        settings=TINY,
    )
    table = run(made, Silent())
    assert (table["runs_done"], table["runs"], table["complete"]) == (4, 16, False)
    done = [row for row in table["rows"] if row["ours"]]
    assert [row["configuration"] for row in done] == ["baseline", "amem"]
    for row in done:
        for figure in row["ours"].values():
            assert len(figure["values"]) == 2
            assert 0 <= figure["mean"] <= 1
            assert figure["standard_deviation"] == pytest.approx(statistics.stdev(figure["values"]))
    assert any("no yardstick" in note for note in table["notes"])  # walkers are not MARS

    one = made.runs[1].workspace
    result = json.loads(one.results("mars").read_text())
    assert result["rank"]["1"] == done[1]["ours"]["rank-1"]["values"][0]
    capsys.readouterr()
    assert amem(["status", "--workspace", str(one.root), "--verify", "--json"]) == 0
    chain = json.loads(capsys.readouterr().out)
    assert [link["state"] for link in chain["chain"]] == ["ready"] * 6

    trained = sorted(tmp_path.rglob("*.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in trained}
    assert run(made, Silent()) == table
    assert {path: path.stat().st_mtime_ns for path in trained} == before


@pytest.mark.slow
def test_figure_4_draws_strips_and_measures_them_beside_copying(walkers, tmp_path):
    made = plan(
        "figure4",
        rows=("mem-c2", "mem-c2-without-texture"),
        seeds=1,
        preset="small",
        data_root=walkers,
        workspace=tmp_path,
        settings=TINY,
    )
    done = [row for row in run(made, Silent())["rows"] if row["ours"]]
    assert [row["configuration"] for row in done] == ["mem-c2", "mem-c2-without-texture"]
    for row in done:
        assert row["ours"].keys() == {
            "psnr", "psnr_copied", "ssim", "ssim_copied", "mse_ratio", "other_motion_ratio"
        }  # fmt: skip
        assert row["ours"]["mse_ratio"]["mean"] > 0
        assert Path(row["pictures"][0]).is_file()
    with_texture, without = (
        json.loads((one.workspace.amem("mars", None).parent / "metrics.jsonl").read_text().splitlines()[-1])
        for one in made.runs
    )
    assert "texture" in with_texture
    assert "texture" not in without
    text = (tmp_path / "reproduce" / "figure4.md").read_text()
    links = [line.partition("](")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert len(links) == 2
    assert all((tmp_path / "reproduce" / link).is_file() for link in links)


@pytest.fixture(scope="module")
def shared(walkers, tmp_path_factory):
    """A workspace with tiny ARM, labels and TAE."""
    workspace = tmp_path_factory.mktemp("shared")
    made = plan("table3", preset="small", data_root=walkers, workspace=workspace, settings=TINY)
    for command in made.shared:
        run_command(command, Silent())
    return workspace


def train_and_extract(walkers, shared, tmp_path, **options):
    from amem_cli.options import ExtractFeaturesOptions
    from amem_cli.stages.extract_features import extract_features
    from amem_cli.stages.train_amem import train_amem

    places = {"data_root": walkers, "workspace": tmp_path, "device": "cpu", "precision": "fp32"}
    small = {"image_size": "64x32", "epochs": 1, "people_per_batch": 2, "clips_per_person": 2, "gradient_steps": 1}
    made_before = {"labels": str(Workspace(shared).labels("mars")), "tae": str(Workspace(shared).tae)}
    (trained,) = train_amem(TrainAmemOptions(**places, **small, **made_before, **options), Silent())
    (extracted,) = extract_features(ExtractFeaturesOptions(**places), Silent())
    return trained, extracted


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_trains_with_both_modules_and_gives_features(backbone, walkers, shared, tmp_path):
    trained, extracted = train_and_extract(walkers, shared, tmp_path, backbone=backbone)
    assert trained.metrics["steps"] >= 1
    assert extracted.metrics["dimensions"] == 512
    logged = [json.loads(line) for line in (trained.artifact.parent / "metrics.jsonl").read_text().splitlines()]
    norms = next(line["gradient_norms"] for line in logged if "gradient_norms" in line)
    assert all(norms[term] > 0 for term in ("id", "aem", "image"))  # each module reaches the backbone


@pytest.mark.slow
@pytest.mark.parametrize("branch", [("conv3d", "3x3x3"), ("conv2d", "3x3x3"), ("inception", "1x3x3")])
def test_every_branch_design_runs_end_to_end(branch, walkers, shared, tmp_path):
    design, kernel = branch
    trained, extracted = train_and_extract(walkers, shared, tmp_path, branch=design, branch_kernel=kernel)
    assert trained.metrics["steps"] >= 1
    assert extracted.metrics["dimensions"] == 512
