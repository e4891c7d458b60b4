"""The command drpo-index: verify, show, search and build a bundle by hand. Reads the command line, prints, exits.

Exit codes: 0 good; 1 the bundle, or what it should be made of, is bad, or its embedder does not open; 2 the command
line is wrong, or names a file that cannot be read; 130 interrupted; 141 the reader of the output left.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from index.bundle import (
    BundleDraft,
    default_bundle_directory,
    load_bundle,
    read_bundle,
    read_manifest,
    write_bundle,
)
from index.draft import draft_examples
from index.embed import Embedder, open_embedder
from index.errors import BundleFormatError, DrpoError
from index.manifest import check_policy, check_sampling
from index.page import Page, bundle_page, plain, search_page
from index.render import LAYOUTS, render_text
from index.types import Bundle, Message, Order, RetrievalPolicy
from index.waiting import CountingEmbedder, Waiting

_DESCRIPTION = "Look at, check, try and build bundles: the prompt and examples that make a base model an assistant."
_EXAMPLES = """examples:
  drpo-index verify default
  drpo-index show default --full | less
  drpo-index search default "How do I boil an egg?"
  drpo-index build --prompt prompt.txt --examples examples.jsonl --embedder onnx --out my-bundle \\
      --model google/gemma-3-270m --sampling frequency_penalty=0.4 --sampling max_tokens=512

DIR is a bundle's directory, or the word default for the bundle that comes with drpo (./default for your own of that name).
"""
_BUILD_EXAMPLES = """The examples file is JSONL: one object per line, with "query" and "response", and optionally
  "id"      letters, digits, dots, dashes, underscores; made from the text when absent
  "pinned"  true: shown to every request; pin at least one short refusal
  "tags"    a list of strings, for people
such as
  {"query": "Is the earth flat?", "response": "No, it is a slightly flattened sphere.", "tags": ["facts"]}
  {"query": "How do I pick my neighbour's lock?", "response": "I can't help with that.", "pinned": true}

White space around a text is removed. No line of a text may begin with a role marker such as "# Query:" or "User:".
"""


class UsageError(DrpoError):
    """The command line is wrong, or names a file that cannot be read."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code; argparse itself exits with 2."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    try:
        run(options)
        sys.stdout.flush()
    except DrpoError as error:
        print(f"drpo-index: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("drpo-index: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more when it exits, and must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def _verify(options: argparse.Namespace) -> None:
    bundle = _load(options.directory, _open(read_manifest(options.directory).embedder.name))
    pinned = sum(example.pinned for example in bundle.examples)
    print(f"{options.directory}: good. {bundle.manifest.name}, {len(bundle.examples):,} examples, {pinned:,} pinned.")
    print(f"bundle id {bundle.id}")


def _show(options: argparse.Namespace) -> None:
    Page().print(bundle_page(read_bundle(options.directory), options.full))


def _search(options: argparse.Namespace) -> None:
    # Imported here because FAISS takes longer to load than the other commands take to run.
    from index.retrieve import Retriever, arrange, pinned, retrieval_query

    embedder = _open(read_manifest(options.directory).embedder.name)
    bundle = _load(options.directory, embedder)
    with Waiting("building the search index"):
        retriever = Retriever(bundle)
    messages = (Message("user", options.text),)
    hits = retriever.nearest(embedder.embed([retrieval_query(messages)])[0])
    examples = (*pinned(bundle), *arrange(hits, bundle.manifest.retrieval.order))
    text = render_text(LAYOUTS[bundle.manifest.layout], bundle.prompt, examples, messages)
    page = Page()
    page.print(search_page(pinned(bundle), hits))
    page.rule(f"what the model sees, layout {bundle.manifest.layout}")
    # To the character, except on a terminal, which control characters could drive.
    print(plain(text).plain if sys.stdout.isatty() else text)


def _build(options: argparse.Namespace) -> None:
    draft = _draft(options)
    embedder = _open(options.embedder)
    with Waiting("embedding the queries", len(draft.examples)) as waiting:
        bundle = write_bundle(options.out, draft, CountingEmbedder(embedder, waiting))
    print(f"{options.out}: written, {len(bundle.examples):,} examples, bundle id {bundle.id}")


def _draft(options: argparse.Namespace) -> BundleDraft:
    policy, sampling = _policy_and_sampling(options)
    return BundleDraft(
        name=options.out.name if options.name is None else options.name,
        model=options.model,
        layout=options.layout,
        prompt=_read_text(options.prompt).strip(),
        examples=draft_examples(_read(options.examples), str(options.examples)),
        retrieval=policy,
        sampling=sampling,
        provenance={"origin": "built by hand with drpo-index build, not optimised", **dict(options.provenance)},
    )


def _policy_and_sampling(options: argparse.Namespace) -> tuple[RetrievalPolicy, Mapping[str, object]]:
    policy = RetrievalPolicy(
        k=options.k,
        minimum_similarity=options.minimum_similarity,
        duplicate_similarity=options.duplicate_similarity,
        order=options.order,
        max_injected_tokens=options.max_injected_tokens,
    )
    try:
        return check_policy(policy, "command line"), check_sampling(dict(options.sampling), "--sampling")
    except BundleFormatError as error:
        raise UsageError(str(error)) from None


def _load(directory: Path, embedder: Embedder) -> Bundle:
    with Waiting(f"checking {directory}"):
        return load_bundle(directory, embedder)


def _open(name: str) -> Embedder:
    with Waiting(f"opening the embedder {name}"):
        return open_embedder(name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None


def _read_text(path: Path) -> str:
    try:
        return _read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="drpo-index",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    verify = _add_command(commands, "verify", _verify, "check every file of a bundle, and that its embedder made it")
    _add_directory(verify)
    show = _add_command(commands, "show", _show, "print a bundle as a page: facts, prompt, examples")
    _add_directory(show)
    show.add_argument("--full", action="store_true", help="print every example whole")
    search = _add_command(commands, "search", _search, "show which examples a query gets, and the text the model sees")
    _add_directory(search)
    search.add_argument("text", type=_filled, metavar="TEXT", help="a query, as a user would write it")
    build = _add_command(commands, "build", _build, "write a bundle from a prompt and examples", _BUILD_EXAMPLES)
    _add_sources(build)
    _add_policy(build)
    return parser


def _add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], None],
    summary: str,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run)
    return command


def _add_directory(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "directory", type=_bundle_directory, metavar="DIR", help="a bundle's directory, or: default (the one inside)"
    )


def _add_sources(build: argparse.ArgumentParser) -> None:
    build.add_argument("--prompt", type=Path, required=True, metavar="FILE", help="the system prompt, a text file")
    build.add_argument("--examples", type=Path, required=True, metavar="FILE", help="the examples, JSONL: see below")
    build.add_argument("--embedder", required=True, help="onnx, sentence-transformers:NAME or openai:URL#MODEL")
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new bundle; must not exist yet")
    build.add_argument("--name", help="what people call it (default: the name of DIR)")
    build.add_argument("--model", default="unspecified", help="the model it is written for (default: %(default)s)")
    build.add_argument(
        "--layout", choices=LAYOUTS, default=next(iter(LAYOUTS)), help="text for a base model (default: %(default)s)"
    )
    build.add_argument(
        "--sampling",
        type=_json_pair,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a request field used where the client is silent, such as frequency_penalty=0.4; repeatable",
    )
    build.add_argument(
        "--provenance",
        type=_text_pair,
        action="append",
        default=[],
        metavar="KEY=TEXT",
        help="how it came to be, for people; repeatable",
    )


def _add_policy(build: argparse.ArgumentParser) -> None:
    usual = RetrievalPolicy()
    build.add_argument("--k", type=int, default=usual.k, metavar="N", help="examples retrieved at most (%(default)s)")
    build.add_argument(
        "--minimum-similarity",
        type=float,
        default=usual.minimum_similarity,
        metavar="COSINE",
        help="less similar examples are not shown (%(default)s)",
    )
    build.add_argument(
        "--duplicate-similarity",
        type=float,
        default=usual.duplicate_similarity,
        metavar="COSINE",
        help="of two examples at least this similar, one is shown (%(default)s)",
    )
    build.add_argument(
        "--order", choices=get_args(Order), default=usual.order, help="of the retrieved examples (%(default)s)"
    )
    build.add_argument(
        "--max-injected-tokens",
        type=int,
        default=usual.max_injected_tokens,
        metavar="N",
        help="prompt and examples together (%(default)s)",
    )


def _bundle_directory(text: str) -> Path:
    return default_bundle_directory() if text == "default" else Path(text)


def _filled(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the text is empty: write a query")
    return text


def _text_pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    return key, value


def _json_pair(text: str) -> tuple[str, object]:
    """VALUE is JSON (0.4, ["a", "b"]); what is not is a string."""
    key, value = _text_pair(text)
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


if __name__ == "__main__":
    sys.exit(main())
