"""The command drpo-index: verify, show, search and build a bundle by hand, part one into sets.

Reads the command line, prints, exits.

Exit codes: 0 good; 1 the bundle, or what it should be made of, is bad, or its embedder does not open; 2 the command
line is wrong, or names a file that cannot be read; 130 interrupted; 141 the reader of the output left.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from index.bundle.bundle import BundleDraft, load_bundle, read_bundle, read_manifest, write_bundle
from index.bundle.input_files import draft_examples
from index.bundle.manifest import check_policy, check_sampling
from index.cli.arguments import command_line
from index.cli.bundle_view import Page, bundle_page, plain, search_page
from index.cli.progress import CountingEmbedder, Waiting
from index.embedders.base import Embedder
from index.embedders.registry import check_embedder_allowed, open_embedder
from index.errors import BundleFormatError, BundleIntegrityError, DrpoError
from index.rendering import LAYOUTS, render_text
from index.types import Bundle, Message, RetrievalPolicy

_BLOCK: Final = 128
"""A multiple of every block size of vLLM's prefix cache that is usual: 16 to 128 tokens."""


class UsageError(DrpoError):
    """The command line is wrong, or names a file that cannot be read."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code; argparse itself exits with 2."""
    options = command_line().parse_args(arguments)
    try:
        _COMMANDS[options.command](options)
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
    bundle = _load(options.directory, _open_its_own(options))
    if options.id is not None and bundle.id != options.id:
        raise BundleIntegrityError(f"{options.directory}: another bundle than asked for: its id is {bundle.id}")
    pinned = sum(example.pinned for example in bundle.examples)
    print(f"{options.directory}: good. {bundle.manifest.name}, {len(bundle.examples):,} examples, {pinned:,} pinned.")
    print(f"bundle id {bundle.id}")


def _show(options: argparse.Namespace) -> None:
    Page().print(bundle_page(read_bundle(options.directory), options.full))


def _search(options: argparse.Namespace) -> None:
    # Imported here because FAISS takes longer to load than the other commands take to run.
    from index.retrieval.retriever import Retriever, pinned, retrieval_query
    from index.retrieval.selection import arrange

    embedder = _open_its_own(options)
    bundle = _load(options.directory, embedder)
    with Waiting("building the search index"):
        retriever = Retriever(bundle)
    messages = (Message("user", options.text),)
    hits = retriever.choose(embedder.embed([retrieval_query(messages)])[0])
    examples = (*pinned(bundle), *arrange(hits, bundle.manifest.retrieval.order))
    text = render_text(LAYOUTS[bundle.manifest.layout], bundle.prompt, examples, messages)
    page = Page()
    page.print(search_page(pinned(bundle), hits))
    limit = bundle.manifest.retrieval.max_injected_tokens
    page.rule(f"what the model sees, within {limit:,} tokens, in the layout {bundle.manifest.layout}")
    # To the character, except on a terminal, which control characters could drive.
    print(plain(text).plain if sys.stdout.isatty() else text)


def _build(options: argparse.Namespace) -> None:
    draft = _draft(options)
    embedder = _open(options.embedder)
    with Waiting("embedding the queries", len(draft.examples)) as waiting:
        bundle = write_bundle(options.out, draft, CountingEmbedder(embedder, waiting), waiting.turn_to)
    print(f"{options.out}: written, {len(bundle.examples):,} examples, bundle id {bundle.id}")


def _sets(options: argparse.Namespace) -> None:
    # FAISS again.
    from index.example_sets.builder import in_sets
    from index.example_sets.partition import Apart, Wish

    embedder = _open_its_own(options)
    bundle = _load(options.directory, embedder)
    limit = bundle.manifest.retrieval.max_injected_tokens
    tokens = limit // _BLOCK * _BLOCK if options.tokens is None else options.tokens
    apart = {tag: Apart(weight, count) for tag, weight, count in options.apart}
    if len(apart) < len(options.apart):
        raise UsageError("--apart: a tag is named twice; name each once, as TAG=WEIGHT:SETS")
    wish = Wish(options.count, tokens, apart, options.minimum_similarity, options.shortest_answer)
    with Waiting("parting the examples into sets") as waiting:
        draft = in_sets(bundle, wish, options.k, options.tokenizer)
        waiting.turn_to("embedding the queries")
        written = write_bundle(options.out, draft, embedder, waiting.turn_to)
    print(f"{options.out}: written, {len(written.sets)} sets of {tokens} tokens, bundle id {written.id}")


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


def _open_its_own(options: argparse.Namespace) -> Embedder:
    """The embedder that the bundle names, if it may be opened."""
    name = read_manifest(options.directory).embedder.name
    check_embedder_allowed(name, options.allow_embedder, str(options.directory))
    return _open(name)


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


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = MappingProxyType(
    {"verify": _verify, "show": _show, "search": _search, "build": _build, "sets": _sets}
)

if __name__ == "__main__":
    sys.exit(main())
