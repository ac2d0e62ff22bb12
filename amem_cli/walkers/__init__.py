"""Generated walking people ("walkers") for the demo, the benchmark and the tests: no image of a real person."""

from typing import TYPE_CHECKING, Any

from amem_cli.walkers.options import WalkerOptions

if TYPE_CHECKING:
    from amem_cli.walkers.layouts import write_clips, write_walkers

__all__ = ["WalkerOptions", "write_clips", "write_walkers"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # imported on first use, because numpy and SciPy are slow to import
        from amem_cli.walkers import layouts

        return getattr(layouts, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
