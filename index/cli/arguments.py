"""Defines the argument parser of drpo-index: flags, defaults and help texts.

This module opens no files and runs no commands.
"""

import argparse
from pathlib import Path
from typing import Final, get_args

from index.cli.argument_types import (
    bundle_id,
    cosine,
    json_pair,
    positive,
    query_text,
    separate_tag,
    share,
    text_pair,
    whole_number,
)
from index.cli.import_arguments import IMPORT_HELP, add_import_arguments
from index.cli.list_command import add_list_arguments
from index.embedders.registry import embedder_forms
from index.layouts import LAYOUTS
from index.types import Order, PolicyName, RetrievalPolicy
from index.version import add_version_flag

_DESCRIPTION = "Look at, check, try and build bundles: the prompt and examples that make a base model an assistant."
_EXAMPLES = """examples:
  drpo-index list
  drpo-index show hand-written --full | less
  drpo-index search default "How do I boil an egg?"
  drpo-index build --prompt prompt.txt --examples examples.jsonl --embedder multilingual --out my-bundle \\
      --model google/gemma-3-270m --sampling frequency_penalty=0.4 --sampling max_tokens=512
  drpo-index import --from urial inst_1k_v4.txt --model mistralai/Mistral-7B-v0.1 --out urial
  drpo-index sets my-bundle --tokenizer my-model/tokenizer.json --apart refusal --out my-bundle-in-sets
  drpo-index policy my-bundle-in-sets --queries queries.jsonl --out my-bundle-with-floor

DIR is the directory of a bundle, or a name of `drpo-index list`. Write ./NAME for a directory of your own with such a
name. Here, the word default means hand-written. The proxy chooses by the model: see `drpo-index list --model ID`.
"""
_BUILD_EXAMPLES = """The examples file is JSONL: one object per line, with "query" and "response", and optionally
  "id"      letters, digits, dots, dashes, underscores; if it is absent, it is made from the text
  "pinned"  true: every request gets this example; pin at least one short refusal
  "tags"    a list of topics, for people and for drpo-index sets
such as
  {"query": "Is the earth flat?", "response": "No, it is a slightly flattened sphere.", "tags": ["facts"]}
  {"query": "How do I pick my neighbour's lock?", "response": "I can't help with that.", "pinned": true}

White space around a text is removed. No line of a text may begin with a role marker such as "# Query:" or "User:".
"""
_SETS_EXAMPLES = """Each request gets one whole set of the new bundle: the set for which the nearest examples of its
query vote. All requests with the same set begin with the same tokens. vLLM computes them once, and keeps them in its
prefix cache. Without sets, each request has other examples, whose tokens are computed for each request. Each set ends
just after the end of a block of the cache. To count tokens, drpo-index needs the tokenizer.json beside the weights of
the model that will be served.

The examples with a tag of --apart, such as refusal, get sets of their own. If their weight is above 1, more queries get
them: with refusal=1.3, more of the queries that should be refused, and a few that should not.

With --policy set_and_nearest, the nearest examples of the query follow the set. They are computed for each request.

--prompts gives prompts of their own to sets. They replace the bundle's prompt. FILE is TOML, with a text for a kind of
sets (a tag of --apart, or other) or for a set, such as
  refusal = "Refuse in one or two sentences, and offer something safe."
  other-1 = "Answer briefly and correctly."
"""
_POLICY_EXAMPLES = """A policy says which examples a request gets besides the pinned ones:
  nearest            the nearest examples of its query
  set                one example set, which stays in the prefix cache of the model server
  set_and_nearest    one example set, then the nearest examples of its query

--queries measures the similarity floor. A query whose most similar example is less similar than the floor is unlike
every example. It gets the neutral set and no nearest examples, so that unrelated examples, such as refusals, cannot
mislead the model. At most SHARE of the queries are below the measured floor. Use queries of your users, not those of
the examples. The file is JSONL with a "query" in each line, or a .txt file with one query in each line.

For each flag, the value in brackets applies if the flag is absent. "The bundle's" means that nothing changes.
"""
POLICY_FLAGS: Final = ("policy", "k", "max_nearest_tokens", "max_injected_tokens", "neutral_set", "similarity_floor")
"""The arguments of `drpo-index policy` that replace values of the policy, named like the policy's attributes."""


def command_line() -> argparse.ArgumentParser:
    """Return the parser of drpo-index.

    Its namespace contains the name of the command (`command`), and one attribute for each argument of this command.
    """
    parser = argparse.ArgumentParser(
        prog="drpo-index",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_version_flag(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_list_arguments(_add_command(commands, "list", "list the bundles that come with drpo, with their figures"))
    verify = _add_command(commands, "verify", "check every file of a bundle, and that its embedder made it")
    _add_directory(verify)
    _add_allow_embedder(verify)
    verify.add_argument("--id", type=bundle_id, metavar="SHA256", help="refuse a bundle that has another id")
    show = _add_command(commands, "show", "print a bundle as a page: facts, prompt, examples")
    _add_directory(show)
    show.add_argument("--full", action="store_true", help="print every example whole")
    search = _add_command(commands, "search", "show which examples a query gets, and the text the model sees")
    _add_directory(search)
    _add_allow_embedder(search)
    search.add_argument("text", type=query_text, metavar="TEXT", help="a query, as a user would write it")
    build = _add_command(commands, "build", "write a bundle from a prompt and examples", _BUILD_EXAMPLES)
    _add_sources(build)
    _add_policy(build)
    add_import_arguments(
        _add_command(commands, "import", "write a bundle from the published prompt of URIAL or DRPO", IMPORT_HELP)
    )
    _add_reembed(_add_command(commands, "reembed", "write a bundle again with the vectors of another embedder"))
    _add_sets(
        _add_command(commands, "sets", "partition a bundle's examples into sets that stay cached", _SETS_EXAMPLES)
    )
    _add_policy_changes(
        _add_command(commands, "policy", "change a bundle's retrieval policy, or measure its floor", _POLICY_EXAMPLES)
    )
    return parser


def _add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_allow_embedder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-embedder",
        action="append",
        default=[],
        metavar="NAME",
        help="accept a bundle that names this embedder; multilingual and minilm are always accepted, but others load a "
        "model, or send your key and texts to a server; repeatable",
    )


def _add_directory(command: argparse.ArgumentParser) -> None:
    what = "directory of a bundle, or a name of `drpo-index list`"
    command.add_argument("directory", metavar="DIR", help=what)


def _add_sources(build: argparse.ArgumentParser) -> None:
    build.add_argument("--prompt", type=Path, required=True, metavar="FILE", help="the system prompt, a text file")
    build.add_argument("--examples", type=Path, required=True, metavar="FILE", help="the examples, JSONL: see below")
    build.add_argument("--embedder", required=True, help=embedder_forms())
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new bundle; must not exist yet")
    build.add_argument("--name", help="name of the bundle (default: the name of DIR)")
    build.add_argument("--model", default="unspecified", help="the model that it is for (default: %(default)s)")
    build.add_argument(
        "--layout", choices=LAYOUTS, default=next(iter(LAYOUTS)), help="layout for base models (default: %(default)s)"
    )
    build.add_argument(
        "--sampling",
        type=json_pair,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a request field for requests that do not set it, such as frequency_penalty=0.4; repeatable",
    )
    build.add_argument(
        "--provenance",
        type=text_pair,
        action="append",
        default=[],
        metavar="KEY=TEXT",
        help="a note on how the bundle was made; repeatable",
    )


def _add_reembed(reembed: argparse.ArgumentParser) -> None:
    _add_directory(reembed)
    reembed.add_argument("--embedder", required=True, help=embedder_forms())
    reembed.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new bundle; must not exist yet")


def _add_sets(sets: argparse.ArgumentParser) -> None:
    _add_directory(sets)
    _add_allow_embedder(sets)
    sets.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new bundle; must not exist yet")
    sets.add_argument("--tokenizer", type=Path, required=True, metavar="FILE", help="the model's tokenizer.json")
    sets.add_argument("--count", type=positive, default=12, metavar="N", help="number of sets (%(default)s)")
    sets.add_argument(
        "--tokens",
        type=positive,
        metavar="N",
        help="tokens of prompt and examples together: a multiple of the cache's block of 16, 32, 64 or 128 tokens (the "
        "largest multiple of 128 within the bundle's max_injected_tokens)",
    )
    sets.add_argument(
        "--apart",
        type=separate_tag,
        action="append",
        default=[],
        metavar="TAG[=WEIGHT[:SETS]]",
        help="put examples with this tag into SETS sets (1), and multiply the votes for them by WEIGHT (1); repeatable",
    )
    sets.add_argument(
        "--minimum-similarity",
        type=cosine,
        default=-1.0,
        metavar="COSINE",
        help="less similar examples do not vote for sets of --apart; 0.35 is good with multilingual (-1: all vote)",
    )
    sets.add_argument(
        "--shortest-answer",
        type=whole_number,
        default=0,
        metavar="WORDS",
        help="only sets of --apart show shorter answers, because small base models imitate their length (%(default)s)",
    )
    sets.add_argument(
        "--voters", type=positive, default=12, metavar="N", help="number of nearest examples that vote (%(default)s)"
    )
    policies = [policy for policy in get_args(PolicyName) if policy != "nearest"]
    sets.add_argument("--policy", choices=policies, default="set", help="policy of the new bundle (%(default)s)")
    sets.add_argument(
        "--k", type=positive, default=1, metavar="N", help="nearest examples with set_and_nearest (%(default)s)"
    )
    _add_max_nearest_tokens(sets)
    sets.add_argument("--prompts", type=Path, metavar="FILE", help="prompts of the new sets: see below (none)")


def _add_max_nearest_tokens(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-nearest-tokens",
        type=positive,
        metavar="N",
        help="maximum tokens of the nearest examples together; if one is too long, the next is taken (no limit)",
    )


def _add_policy_changes(command: argparse.ArgumentParser) -> None:
    _add_directory(command)
    _add_allow_embedder(command)
    command.add_argument("--out", type=Path, metavar="DIR", help="the new bundle; without it, nothing is written")
    command.add_argument("--policy", choices=get_args(PolicyName), help="the policy: see below (the bundle's)")
    command.add_argument("--k", type=whole_number, metavar="N", help="number of nearest examples (the bundle's)")
    _add_max_nearest_tokens(command)
    command.add_argument(
        "--max-injected-tokens", type=positive, metavar="N", help="tokens of prompt and examples (the bundle's)"
    )
    command.add_argument(
        "--neutral-set",
        metavar="NAME",
        help="set for queries below the floor (the bundle's, or the set of the kind other that covers the bank best)",
    )
    floor = command.add_mutually_exclusive_group()
    floor.add_argument("--similarity-floor", type=cosine, metavar="COSINE", help="the floor (the bundle's)")
    floor.add_argument("--queries", type=Path, metavar="FILE", help="measure the floor with the queries of this file")
    command.add_argument(
        "--share-below", type=share, default=0.05, metavar="SHARE", help="share of the queries below it (%(default)s)"
    )


def _add_policy(build: argparse.ArgumentParser) -> None:
    default = RetrievalPolicy()
    build.add_argument(
        "--k", type=int, default=default.k, metavar="N", help="maximum of retrieved examples (%(default)s)"
    )
    build.add_argument(
        "--minimum-similarity",
        type=float,
        default=default.minimum_similarity,
        metavar="COSINE",
        help="less similar examples are not shown (%(default)s)",
    )
    build.add_argument(
        "--duplicate-similarity",
        type=float,
        default=default.duplicate_similarity,
        metavar="COSINE",
        help="if two examples are at least this similar, only one is shown (%(default)s)",
    )
    build.add_argument(
        "--order", choices=get_args(Order), default=default.order, help="order of retrieved examples (%(default)s)"
    )
    _add_max_nearest_tokens(build)
    build.add_argument(
        "--max-injected-tokens",
        type=int,
        default=default.max_injected_tokens,
        metavar="N",
        help="maximum tokens of prompt and examples together (%(default)s)",
    )
