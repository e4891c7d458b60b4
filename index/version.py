"""The version of drpo, as commands print it."""

import argparse
import sys
from typing import Any

# `version_line` imports the modules that it needs when it is called, because every command imports this module, but few
# commands print a version.


def version_line() -> str:
    """Return the versions of drpo and of Python, and the platform, as one line for bug reports."""
    import platform
    from importlib.metadata import version

    return f"drpo {version('drpo-proxy')}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"


def add_version_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag --version, which prints the version and ends the command."""
    nothing = argparse.SUPPRESS  # the flag adds no value to the namespace
    parser.add_argument(
        "--version", action=_PrintVersion, nargs=0, dest=nothing, default=nothing, help="print the version, and exit"
    )


class _PrintVersion(argparse.Action):
    """Prints the version. The version is looked up only if the flag is given, and not when the parser is made."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        sys.stdout.write(f"{version_line()}\n")
        parser.exit()
