"""What the shell offers after an option whose values are names."""

from collections.abc import Callable, Iterable

from amem_cli.options import COMMANDS


def datasets(incomplete: str) -> list[str]:
    """The shipped data sets."""
    from amem_cli.data.manifest import SHIPPED

    return _starting_with(incomplete, SHIPPED)


def protocols(incomplete: str) -> list[str]:
    """The protocols of the shipped data sets."""
    from amem_cli.data.manifest import SHIPPED, load_manifest

    found = (load_manifest(name).protocol for name in SHIPPED)
    return _starting_with(incomplete, [protocol.name for protocol in found if protocol is not None])


def commands(incomplete: str) -> list[str]:
    """The commands that `amem config show` has tables of."""
    return _starting_with(incomplete, COMMANDS)


def pictures(incomplete: str) -> list[str]:
    """The kinds of `amem show`."""
    return _starting_with(incomplete, ("ranking", "frames", "attributes", "cmc", "attention"))


def split_numbers(incomplete: str) -> list[str]:
    """The ten splits of iLIDS-VID and PRID-2011."""
    return _starting_with(incomplete, map(str, range(10)))


def splits(incomplete: str) -> list[str]:
    """The ten splits, or all of them one after another."""
    return _starting_with(incomplete, [*map(str, range(10)), "all"])


def devices(incomplete: str) -> list[str]:
    """Devices without asking the driver, which would take seconds."""
    return _starting_with(incomplete, ("auto", "cpu", "cuda", "cuda:0", "cuda:1"))


def partitions(incomplete: str) -> list[str]:
    """What `train-arm` can hold out."""
    return _starting_with(incomplete, ("person", *(f"random-{number}" for number in range(1, 6)), "none"))


def resumes(incomplete: str) -> list[str]:
    """The words beside a path."""
    return _starting_with(incomplete, ("auto", "never"))


def image_sizes(incomplete: str) -> list[str]:
    """The sizes of the two presets."""
    return _starting_with(incomplete, ("256x128", "128x64"))


OF_OPTION: dict[str, Callable[[str], list[str]]] = {
    "dataset": datasets,
    "protocol": protocols,
    "split": splits,
    "device": devices,
    "partition": partitions,
    "resume": resumes,
    "image_size": image_sizes,
}


def _starting_with(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
