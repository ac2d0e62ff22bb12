"""`amem` and `python -m amem_cli` (what torchrun starts)."""

import sys


def main() -> None:
    """Run the command line; the one place where errors become a line and an exit code."""
    from amem_cli.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
