"""The command `drpo-index list`: prints the bundles of drpo, or which of them `default` means for a model."""

import argparse
import json
from pathlib import Path

from index.bundle.bundle import read_bundle
from index.bundle.shipped import choose_shipped, read_shipped
from index.cli.bundle_view import plain
from index.cli.shipped_view import list_notes, list_record, list_table
from index.standard_output import OutputConsole

_MIN_WIDTH = 140  # columns of a file or a pipe, which have no width


def add_list_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `drpo-index list`."""
    command.add_argument("--model", metavar="ID", help="say which bundle `default` means for the model of this name")
    command.add_argument("--json", action="store_true", help="print the list as JSON, with all figures")


def print_list(root: Path, model: str | None, *, as_json: bool) -> None:
    """Print the bundles of drpo with their figures, or which of them `default` means for a model.

    Args:
        root: The folder with the bundles of drpo.
        model: The name of a model. None prints the list.
        as_json: Whether to print JSON.

    Raises:
        BundleError: A bundle or its provenance is invalid.
    """
    shipped, page = read_shipped(root), OutputConsole()
    if model is not None:
        choice = choose_shipped([model], shipped)
        record = {"model": model, "bundle": choice.bundle.name, "reason": choice.reason}
        text = f"For {model}, `default` means {choice.bundle.name}, because {choice.reason}."
        page.out(json.dumps(record) if as_json else plain(text).plain, highlight=False)
        return
    listed = [(one, read_bundle(one.directory)) for one in shipped]
    if as_json:
        page.out(json.dumps(list_record(listed), indent=2), highlight=False)
        return
    if not page.is_terminal:
        page.width = max(page.width, _MIN_WIDTH)
    page.print(list_table(listed))
    for note in list_notes(listed):
        page.print(plain(note))
