"""From preset, environment variables, `--config` file and flags to the options of one run."""

import dataclasses
import os
import shlex
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from amem_cli.errors import InputMissing, UsageError, did_you_mean, require_known
from amem_cli.options import COMMANDS, COMMON, NETWORKS_WITH, PRESETS, DataOptions, flag_of, preset_value
from amem_cli.text import decode_text

OTHER_NAMES = {  # words of other tools without dashes -> our flags; the first that the command has is suggested
    word: ours for ours, words in {
        "learning-rate": "lr", "weight-decay": "wd", "people-per-batch": "batchsize trainbatch",
        "batch-size people-per-batch": "bs batch", "device": "gpu gpus gpuid gpuids cuda cpu nocuda",
        "workers": "j threads", "out workspace": "o out output outdir outputdir savedir logdir logsdir expdir",
        "data-root": "data datadir datapath root", "dataset": "d source", "split": "fold", "top": "k topk",
        "image-size": "size imgsize height width", "backbone features": "model", "backbone": "a arch net",
        "weights": "pretrained", "model weights features": "checkpoint ckpt modelpath", "model features": "weights",
        "precision": "fp16 bf16 half amp dtype", "clip-frames": "seqlen numframes", "clips-per-person": "numinstances",
        "lr-factor": "gamma", "lr-step": "stepsize", "validate-epochs": "evalstep evalfreq", "force": "overwrite",
        "log-to": "wandb tensorboard tracker", "gallery": "features",
    }.items() for word in words.split()
}  # fmt: skip
OTHER_COMMANDS = {
    word: ours for ours, words in {
        "evaluate": "test", "evaluate --rerank": "rerank", "label-videos": "label pseudo-label",
        "extract-features": "predict infer inference embed extract", "tracklets": "detect", "status": "ls list",
        "data check": "check download", "data walkers": "walkers", "show": "visualize visualise plot draw",
        "doctor": "info", "train-amem": "finetune", "--version": "version", "--help": "help",
    }.items() for word in words.split()
}  # fmt: skip


def resolve(cls: type[Any], flags: dict[str, Any], *, preset: str = "", config: Path | None = None) -> Any:
    """The options of one run: flags override the config file, the environment and the preset, in this order.

    A flag that is None was not given; without `preset` it is that of the file, else the paper's. Raises `UsageError`
    for an unknown preset, name or value.
    """
    document = _read_toml(config) if config else {}  # once: it can be a pipe
    named = str(document.get("preset", PRESETS[0]))
    require_known(f"--config {config}: preset", [named], PRESETS)
    preset = preset or named
    require_known("--preset", [preset], PRESETS)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        values[field.name] = preset_value(field, preset)
        if field.metadata["env"] and os.environ.get(field.metadata["env"]):
            values[field.name] = Path(os.environ[field.metadata["env"]])
    given = read_config(cls, config, document) if config else {}
    given |= {name: value for name, value in flags.items() if value is not None}
    values |= given
    by_name = {network for networks in NETWORKS_WITH.values() for network in networks}
    if {"weights", "backbone"} <= values.keys() and "weights" not in given and values["backbone"] not in by_name:
        values["weights"] = ""  # the preset's are found by name, and there are none of this network
    return cls(**values)


def preset_of(config: Path | None) -> str:
    """The preset that a `--config` file names, by default the paper's."""
    return str(_read_toml(config).get("preset", PRESETS[0])) if config else PRESETS[0]


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib  # not at module top: the help does not need it

    try:
        return tomllib.loads(decode_text(Path(path).read_bytes()))
    except FileNotFoundError as error:
        remedy = "amem config show prints one"
        raise InputMissing("--config", path, why="not found", remedy=remedy) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        remedy = "Save it in UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise UsageError("--config", path, why=f"not a readable TOML file ({error})", remedy=remedy) from error


def read_config(cls: type, path: Path, document: dict[str, Any] | None = None) -> dict[str, Any]:
    """The values of a `--config` TOML file, whose content can be given, for the command of `cls`.

    Names are those of the command line, at the top level or in a table named like the command. Top-level names of
    other commands' options are ignored, and `preset`, which `preset_of` reads; any other unknown name, also in the
    table of another command, is a `UsageError`.
    """
    document = _read_toml(path) if document is None else document
    command = next(command for command, options in COMMANDS.items() if options is cls)
    tables = {name: value for name, value in document.items() if isinstance(value, dict)}
    require_known(f"--config {path}: table", tables, COMMANDS)
    own = tables.get(command, {})
    entries = {name: value for name, value in document.items() if name not in {*tables, "preset"}} | own
    fields_of = {name: {field.name for field in dataclasses.fields(options)} for name, options in COMMANDS.items()}
    elsewhere, known = set().union(*fields_of.values()), fields_of[command]
    values: dict[str, Any] = {}
    unknown = [(name, key) for name in tables for key in tables[name] if not _is_option(key, fields_of[name])]
    for key, value in entries.items():
        name = key.replace("-", "_")
        if name in known:
            values[name] = convert(cls, name, value, f"--config {path}: {key}")
        elif name not in COMMON and name not in elsewhere:
            unknown.append((command, key))
    if unknown := list(dict.fromkeys(unknown)):
        meant = "".join(suggestion(key, [flag_of(one)[2:] for one in fields_of[name]]) for name, key in unknown)
        meant += "The preset stands at the top of the file. " * ("preset" in [key for _, key in unknown])
        why = f"unknown {'options' if len(unknown) > 1 else 'option'} {', '.join(repr(key) for _, key in unknown)}"
        raise UsageError("--config", path, why=why, remedy=f"{meant}See: amem config show {unknown[0][0]}")
    return values


def _is_option(key: str, fields: set[str]) -> bool:
    return key.replace("-", "_") in {*fields, *COMMON}


def suggestion(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`Did you mean X? ` for an option of another tool or a mistyped one; `known` have dashes.

    >>> suggestion("lr", ["learning-rate", "lr-step"], "--"), suggestion("batch_size", ["people-per-batch"])
    ('Did you mean --learning-rate? ', 'Did you mean people-per-batch? ')
    >>> suggestion("no-adapt-camera", ["adapt-cameras", "no-adapt-cameras"])
    'Did you mean no-adapt-cameras? '
    """
    word, known = word.lower().replace("_", "-"), list(known)
    ours = [name for name in OTHER_NAMES.get(word.replace("-", ""), "").split() if name in known]
    parts = {part.rstrip("s") for part in word.split("-")}  # of "max-epoch"
    of_parts = [name for name in known if {part.rstrip("s") for part in name.split("-")} <= parts]
    ours += sorted(of_parts, key=lambda name: -name.count("-"))
    if ours or len(word) == 1:
        return f"Did you mean {prefix}{ours[0]}? " if ours else ""
    return did_you_mean(word, known, prefix, 0.75)


def convert(cls: type, name: str, value: Any, where: str) -> Any:
    """`value` as the type of option `name`. Raises `UsageError` at `where`."""
    import msgspec  # not at module top: the help does not need it

    kind = typing.get_type_hints(cls)[name]
    if name == "split" and type(value) is int:
        value = str(value)
    try:
        return msgspec.convert(value, kind, dec_hook=lambda to, given: to(given))
    except (msgspec.ValidationError, TypeError) as error:
        choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
        remedy = f"{did_you_mean(str(value), choices)}Available: {', '.join(choices)}" if choices else ""
        why = f"{value!r} is not available" if choices else f"{str(error).lower()}: {value!r}"
        raise UsageError(where, why=why, remedy=remedy) from error


def folder_flags(**folders: Path | None) -> str:
    """The flags for those folders (`workspace`, `data_root`) that are not the defaults of a command, nor None."""
    words = ""
    for field in dataclasses.fields(DataOptions):
        usual = os.environ.get(field.metadata["env"]) or str(field.default)
        if folders.get(field.name) is not None and str(folders[field.name]) != usual:
            words += f" {flag_of(field.name)} {shlex.quote(str(folders[field.name]))}"
    return words
