"""Converts the names of bundles on a bench's command line to directories."""

import argparse
from pathlib import Path

from index.bundle.shipped import find_bundle
from index.errors import BundleError


def bundle_directory(text: str) -> Path:
    """Return the directory of a bundle: a path, or a name of `drpo-index list`. `default` is the hand-written bundle.

    Raises:
        ArgumentTypeError: There is no such bundle.
    """
    try:
        return find_bundle(text)
    except BundleError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def named_bundle(text: str) -> tuple[str, Path]:
    """Return the name and the directory of a bundle that the flag --bundle names as NAME=DIR.

    Raises:
        ArgumentTypeError: The text has another form, or there is no such bundle.
    """
    name, equals, directory = text.partition("=")
    if not (name and equals and directory):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=DIR")
    return name, bundle_directory(directory)
