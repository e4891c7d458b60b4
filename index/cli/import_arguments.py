"""Defines the arguments and the help text of `drpo-index import`. This module opens no files."""

import argparse
from pathlib import Path
from typing import Final

from index.cli.argument_types import json_pair
from index.embedders.registry import DEFAULT_EMBEDDER, embedder_forms

URIAL: Final = "urial"
DRPO: Final = "drpo"
IMPORT_HELP: Final = """PATH is what you have of the authors' work, for example:
  --from urial URIAL/urial_prompts/inst_1k_v4.txt   a text of URIAL (github.com/Re-Align/URIAL)
  --from drpo DRPO                                  a clone of DRPO (github.com/Singla17/DRPO), or its folder data:
                                                    --model chooses the prompt, by data/model_mapping.json
  --from drpo data/llama3-8b/output.txt             a prompt of DRPO; ICL_examples.json is found beside it or above

The bundle gives a base model the text that the authors' code gives it: byte for byte where a layout of drpo can write
it. The command prints what is lost. URIAL's examples are all pinned, in their order. Of DRPO's examples, the three
nearest to a query are retrieved, the nearest first. A chat model gets the same prompt and examples as messages.

DRPO's repository has its prompts as pickles. Reading a pickle can run code, so drpo reads no pickle. Instead, the
command prints how to export the prompt on your own machine.

examples:
  drpo-index import --from urial URIAL/urial_prompts/inst_1k_v4.txt --model mistralai/Mistral-7B-v0.1 --out urial
  drpo-index import --from drpo DRPO --model meta-llama/Meta-Llama-3-8B --out drpo-llama-3
  drpo-index search urial "How do I boil an egg?"
  drpo-proxy --backend http://127.0.0.1:8000/v1 --bundle urial
"""


def add_import_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `drpo-index import` to its parser."""
    command.add_argument(
        "--from", dest="origin", choices=(URIAL, DRPO), required=True, help="the authors, whose format PATH has"
    )
    command.add_argument("path", type=Path, metavar="PATH", help="the published file, or a folder with it: see below")
    command.add_argument(
        "--model", required=True, metavar="ID", help="the model that will be served, as its server names it"
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new bundle; must not exist yet")
    command.add_argument(
        "--examples", type=Path, metavar="FILE", help="the examples of DRPO (ICL_examples.json, found near PATH)"
    )
    command.add_argument("--embedder", default=DEFAULT_EMBEDDER, help=f"{embedder_forms()} (%(default)s)")
    command.add_argument("--name", help="name of the bundle (the name of DIR)")
    command.add_argument(
        "--sampling",
        type=json_pair,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a request field for requests that do not set it; repeatable (temperature=0, as in the authors' runs)",
    )
