"""Shell completion of option values."""

from collections.abc import Callable, Iterable

Completion = Callable[[str], list[str]]  # the text typed so far -> the values that continue it


def words(*known: str) -> Completion:
    """Completion from a fixed list."""
    return lambda incomplete: _continuing(incomplete, known)


def datasets(incomplete: str) -> list[str]:
    """The shipped data sets."""
    from amem_cli.data.manifest import SHIPPED

    return _continuing(incomplete, SHIPPED)


def protocols(incomplete: str) -> list[str]:
    """The protocols of the shipped data sets."""
    from amem_cli.data.manifest import SHIPPED, load_manifest

    known = (load_manifest(name).protocol for name in SHIPPED)
    return _continuing(incomplete, [protocol.name for protocol in known if protocol is not None])


def _continuing(incomplete: str, known: Iterable[str]) -> list[str]:
    return [word for word in known if word.startswith(incomplete)]


SPLITS = tuple(map(str, range(10)))
split_numbers = words(*SPLITS)
OF_OPTION: dict[str, Completion] = {
    "dataset": datasets,
    "protocol": protocols,
    "split": words(*SPLITS, "all"),
    "device": words("auto", "cpu", "cuda", "cuda:0", "cuda:1"),  # a query of the driver would be slow
    "partition": words("person", *(f"random-{number}" for number in range(1, 6)), "none"),
    "resume": words("auto", "never"),
    "image_size": words("256x128", "128x64"),
}
