"""Options: the paper's defaults, precedence of flags, config, environment and preset, messages for wrong values."""

import dataclasses
import json
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amem_cli import options as module
from amem_cli import resolve as resolving
from amem_cli.errors import InputMissing, UsageError
from amem_cli.option_values import RANGES
from amem_cli.options import BACKBONES, COMMANDS, PRESETS, TrainAmemOptions, TrainArmOptions, TrainTaeOptions
from amem_cli.resolve import resolve

ALL = sorted(COMMANDS)


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "options.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_defaults_are_the_papers():
    """Section "Implementation details" and Table 2, as far as the paper states them."""
    found = resolve(TrainAmemOptions, {})
    stated = {
        "dataset": "mars",
        "image_size": "256x128",
        "clip_frames": 8,
        "predict_frames": 3,
        "backbone": "i3d",
        "modules": "amem",
        "learning_rate": 1e-3,
        "lr_step": 60,
        "lr_factor": 0.2,
        "weight_decay": 5e-4,
        "margin": 0.2,
        "lambda_a": 0.1,
        "lambda_m": 10.0,
    }
    assert {name: getattr(found, name) for name in stated} == stated
    assert found.height_width == (256, 128)
    assert resolve(COMMANDS["label-videos"], {}).threshold == 0.5
    assert resolve(TrainArmOptions, {}).dataset == "peta"
    assert resolve(TrainArmOptions, {}).backbone == "resnet50"
    assert resolve(TrainTaeOptions, {}).dataset == "market1501"


def test_tae_initial_weights() -> None:
    small = {"weights": "auto"}
    assert resolve(TrainTaeOptions, small | {"tae_encoder": "patches"}).initial_weights == ""
    assert resolve(TrainTaeOptions, small | {"tae_encoder": "mobilenet_v2"}).initial_weights == "imagenet"
    assert resolve(TrainTaeOptions, {"weights": "w.pth"}).initial_weights == "w.pth"
    with pytest.raises(UsageError, match="there are no pretrained weights of --tae-encoder patches"):
        resolve(TrainTaeOptions, {"weights": "imagenet", "tae_encoder": "patches"})


@pytest.mark.parametrize("preset", ["small", "strong"])
def test_preset_weights_are_found_by_name(preset):
    for backbone in BACKBONES:
        wanted = "" if backbone in ("r3d", "p3d") else "auto"  # of these there are none
        assert resolve(TrainAmemOptions, {"backbone": backbone}, preset=preset).weights == wanted
    assert resolve(TrainAmemOptions, {"backbone": "r3d", "weights": "r.pth"}, preset=preset).weights == "r.pth"


@pytest.mark.parametrize("command", ALL)
def test_resolve_presets(command):
    cls = COMMANDS[command]
    assert resolve(cls, {}) == cls()
    for field in dataclasses.fields(cls):
        for preset in PRESETS:
            wanted = field.metadata["presets"].get(preset, field.default)
            assert getattr(resolve(cls, {}, preset=preset), field.name) == wanted
        assert field.metadata["help"]
        assert not field.metadata["help"].endswith(".")


@pytest.mark.parametrize("command", ALL)
def test_fingerprint_has_only_what_affects_the_result(command):
    found = resolve(COMMANDS[command], {}).fingerprint()
    assert json.loads(json.dumps(found)) == found
    assert not {"workspace", "device", "data_root", "workers", "force", "resume", "log_steps"} & found.keys()
    assert ("seed" in found) == (command not in ("label-videos", "extract-features"))


# -- who wins ----------------------------------------------------------------------------------------------------------


def test_resolve_precedence(config, monkeypatch):
    path = config('data-root = "from config"\nepochs = 5\n')
    monkeypatch.setenv("AMEM_DATA", "from environment")
    monkeypatch.setenv("AMEM_WORKSPACE", "environment")
    found = resolve(TrainArmOptions, {"epochs": 7, "seed": None}, preset="small", config=path)
    assert (found.epochs, found.data_root, found.workspace) == (7, Path("from config"), Path("environment"))
    assert found.batch_size == 32  # of the preset
    assert resolve(TrainArmOptions, {"data_root": Path("flag")}, config=path).data_root == Path("flag")
    monkeypatch.setenv("AMEM_WORKSPACE", "")
    assert resolve(TrainArmOptions, {}).workspace == Path("workspace")


def test_resolve_flag_zero_or_false(config):
    path = config("seed = 5\nforce = true\n")
    found = resolve(TrainArmOptions, {"seed": 0, "force": False}, config=path)
    assert (found.seed, found.force) == (0, False)


def test_read_config_tables_override_top_level(config):
    path = config('seed = 1\nmargin = 0.3\n[train-amem]\nseed = 2\nlr-factor = 1\n[evaluate]\nprotocol = "mars"\n')
    amem = resolve(TrainAmemOptions, {}, config=path)
    assert (amem.seed, amem.margin, amem.lr_factor) == (2, 0.3, 1.0)
    assert type(amem.lr_factor) is float
    assert resolve(TrainArmOptions, {}, config=path).seed == 1


def test_read_config_lists_and_hyphens(config):
    path = config('[evaluate]\nfeatures = ["a.h5", "b.h5"]\n')
    assert resolve(COMMANDS["evaluate"], {}, config=path).features == (Path("a.h5"), Path("b.h5"))
    for name in ("learning-rate", "learning_rate"):
        assert resolve(TrainArmOptions, {}, config=config(f"{name} = 0.5")).learning_rate == 0.5


# -- what is wrong in a file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", r"unknown option 'epoch'\. Did you mean epochs\?"),
        ("[train-amem]\npredict-frame = 3", r"'predict-frame'\. Did you mean predict-frames\?"),
        ("[train-amem]\nhold-out = 0.2", "unknown option 'hold-out'"),  # another command's, in this one's table
        ("[train_amem]\nseed = 3", r"table train_amem: not found\. Did you mean train-amem\?"),
        ("[trainer]\nx = 3", r"table trainer: not found"),
        ("[train-amem.more]\nx = 3", "unknown option 'more'"),
        ("seed = 1.5", "seed: expected `int`, got `float`: 1.5"),
        ("seed = true", "seed: expected `int`, got `bool`: True"),
        ('seed = "1"', "seed: expected `int`, got `str`"),
        ("force = 1", "force: expected `bool`, got `int`: 1"),
        ("data-root = 3", "data-root: .*: 3"),
        ('modules = "alm"', r"modules: 'alm' is not available\. Did you mean aem\?"),
        ("modules = []", r"modules: \[\] is not available"),
        ("seed = ", "not a readable TOML file"),
    ],
)
def test_read_config_wrong_entry(config, text, message):
    path = config(text)
    with pytest.raises(UsageError, match=message) as raised:
        resolve(TrainAmemOptions, {}, config=path)
    assert str(path) in str(raised.value)


def test_read_config_unreadable(tmp_path):
    with pytest.raises(InputMissing, match="--config"):
        resolve(TrainAmemOptions, {}, config=tmp_path / "none.toml")
    with pytest.raises(UsageError, match="not a readable TOML file"):
        resolve(TrainAmemOptions, {}, config=tmp_path)
    (tmp_path / "bytes").write_bytes(b"seed = '\xff'")
    with pytest.raises(UsageError, match="not a readable TOML file"):
        resolve(TrainAmemOptions, {}, config=tmp_path / "bytes")


def test_read_config_other_commands_option(config):
    assert resolve(TrainArmOptions, {}, config=config("margin = 0.3")) == TrainArmOptions()


@given(text=st.text(max_size=60))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_read_config_random_text(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "hypothesis.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = resolving.read_config(TrainAmemOptions, path)
    except UsageError:
        return
    assert isinstance(found, dict)


# -- what is wrong in a value ------------------------------------------------------------------------------------------

WRONG = [
    ("train-arm", "epochs", 0, "--epochs 0: must be positive"),
    ("train-arm", "accumulate", 0, "--accumulate 0: must be positive"),
    ("train-arm", "learning_rate", float("nan"), "--learning-rate nan: must be positive"),
    ("train-arm", "learning_rate", 1.0, "--learning-rate 1.0: must be below 1"),
    ("train-arm", "weight_decay", -1e-4, "--weight-decay -0.0001: must not be negative"),
    ("train-arm", "validate", 1.0, "--validate 1.0"),
    ("train-arm", "workers", -2, "--workers -2: must be -1 or more"),
    ("train-arm", "device", "mps", "--device mps: GPUs of Apple are not supported. Use auto, cpu, cuda or cuda:N"),
    ("train-arm", "batch_size", 1, "--batch-size 1: must be at least 2"),
    ("train-arm", "hold_out", 1.0, "--hold-out 1.0"),
    ("train-arm", "time_limit", "50", "--time-limit 50: not a duration"),
    ("train-arm", "image_size", "250x128", "--image-size 250x128"),
    ("train-arm", "image_size", "16x16", "--image-size 16x16"),
    ("train-arm", "image_size", "20000x64", "--image-size 20000x64"),
    ("label-videos", "threshold", 1.0, "--threshold 1.0: must be between 0 and 1"),
    ("label-videos", "resume", "state", "--resume state: this command has no state files"),
    ("evaluate", "resume", "state", "--resume state: this command has no state files"),
    ("train-tae", "batch_size", 1, "--batch-size 1: must be at least 2"),
    ("train-tae", "adversarial_weight", -0.1, "--adversarial-weight -0.1: must not be negative"),
    ("train-tae", "discriminator_learning_rate", 0.0, "--discriminator-learning-rate 0.0: must be positive"),
    ("train-amem", "split", "-1", "--split -1: not a split"),
    ("train-amem", "clip_frames", 3, "--clip-frames 3: must be from 4 to 1000"),
    ("train-amem", "clip_frames", 1001, "--clip-frames 1001: must be from 4 to 1000"),
    ("train-amem", "people_per_batch", 1, "--people-per-batch 1: must be at least 2"),
    ("train-amem", "clips_per_person", 1, "--clips-per-person 1: must be at least 2"),
    ("train-amem", "mem_lr_factor", 0.0, "--mem-lr-factor 0.0: must be positive"),
    ("train-amem", "margin", -0.1, "--margin -0.1: must not be negative"),
    ("train-amem", "flip", 1.5, "--flip 1.5: must be from 0 to 1"),
    ("train-amem", "predict_frames", 0, "--predict-frames 0: a start frame 0 < t < T - c needs 1 <= c <= T - 2 = 6"),
    ("train-amem", "predict_frames", 7, "--predict-frames 7"),
    ("train-amem", "predict_stride", 0, "--predict-stride 0: must be at least 1"),
    (
        "train-amem",
        "predict_stride",
        3,
        "--predict-frames 3: a start frame 0 < t < T - 3c needs 1 <= c <= (T - 2) / 3 = 2",
    ),
    ("extract-features", "image_size", "1x1", "--image-size 1x1"),
    ("extract-features", "batch_size", 0, "--batch-size 0: must be positive"),
    ("extract-features", "parts", 0, "--parts 0: must be from 1 to 128"),
    ("extract-features", "parts", 129, "--parts 129: must be from 1 to 128"),
    ("evaluate", "calibrate", 1.0, "--calibrate 1.0"),
    ("evaluate", "bootstrap", -1, "--bootstrap -1"),
]


@pytest.mark.parametrize(("command", "name", "value", "message"), WRONG)
def test_wrong_value(command, name, value, message):
    with pytest.raises(UsageError) as raised:
        resolve(COMMANDS[command], {name: value})
    assert str(raised.value).startswith(message)
    assert raised.value.exit_code == 2


def test_ranges_name_options():
    known = {field.name for cls in COMMANDS.values() for field in dataclasses.fields(cls)}
    named = [name for _, names in RANGES.values() for name in names.split()]
    assert set(named) <= known
    numbers = {name for cls in COMMANDS.values() for name, kind in get_type_hints(cls).items() if kind in (int, float)}
    # any seed; the limit of c depends on T; `check_parts` has that of the parts
    assert numbers - set(named) == {"seed", "predict_frames", "parts"}


def test_predict_frames_limit():
    assert TrainAmemOptions(predict_frames=6).predict_frames == 6
    assert TrainAmemOptions(predict_frames=2, clip_frames=4).predict_frames == 2
    assert TrainAmemOptions(predict_frames=2, predict_stride=3).predict_stride == 3
    assert TrainAmemOptions(modules="baseline", predict_frames=99).uses_mem is False  # nothing is predicted


def test_modules():
    used = {"baseline": (False, False), "aem": (True, False), "mem": (False, True)}
    for modules, expected in (used | dict.fromkeys(("amem", "after-enhancement"), (True, True))).items():
        found = TrainAmemOptions(modules=modules)
        assert (found.uses_aem, found.uses_mem) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", None), ("3h50m", 13800), ("45m", 2700), ("90s", 90), ("1h2m3s", 3723), ("2h5s", 7205), ("100h", 360000)],
)
def test_parse_duration(text, seconds):
    assert module.parse_duration(text) == seconds


def test_read_config_typo_in_the_table_of_another_command(config):
    with pytest.raises(
        UsageError, match=r"unknown option 'epoch'. Did you mean epochs\? See: amem config show train-arm"
    ):
        resolve(TrainAmemOptions, {}, config=config("[train-arm]\nepoch = 3"))


def test_preset_of_a_file(config):
    assert resolving.preset_of(None) == resolving.preset_of(config("seed = 1")) == "paper"
    assert resolve(TrainArmOptions, {}, config=config('preset = "small"')).backbone == "mobilenet_v2"
    with pytest.raises(UsageError, match=r"preset tiny: not found\. .*Available: paper, small"):
        resolve(TrainArmOptions, {}, config=config('preset = "tiny"'))
    with pytest.raises(UsageError, match=r"unknown option 'preset'. .*The preset stands at the top of the file"):
        resolve(TrainArmOptions, {}, config=config('[train-arm]\npreset = "small"'))


def test_resolve_reads_the_file_once(config, monkeypatch):
    """It can be a pipe, as of `--config <(grep -v epochs amem.toml)`."""
    contents = [{"preset": "small", "train-arm": {"seed": 3}}]
    monkeypatch.setattr(resolving, "_read_toml", lambda path: contents.pop())
    found = resolve(TrainArmOptions, {}, config=config(""))
    assert (found.backbone, found.seed) == ("mobilenet_v2", 3)


def test_resolve_unknown_preset():
    with pytest.raises(UsageError, match=r"--preset large: not found\. .*Available: paper, small"):
        resolve(TrainArmOptions, {}, preset="large")
