"""Generated walking people ("walkers") for the demo, the benchmark and the tests: no image of a real person."""

from amem_cli.walkers.layouts import write_clips, write_walkers
from amem_cli.walkers.world import WalkerOptions

__all__ = ["WalkerOptions", "write_clips", "write_walkers"]
