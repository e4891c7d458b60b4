"""The command drpo-index: list, verify, show, search, build, import and re-embed bundles, make sets, change policies.

Exit codes:

    0      success
    1      the bundle or the input for a bundle is invalid, or the embedder cannot be opened
    2      the command line is wrong, or names a file that cannot be read
    130    interrupted
    141    the program that reads the output through a pipe has ended
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from index.bundle.bundle import load_bundle, read_bundle, read_manifest, write_bundle
from index.bundle.bundle_input import BundleInput, as_input
from index.bundle.input_files import decode_text, parse_input_examples, parse_queries, parse_set_prompts
from index.bundle.manifest import check_policy, check_sampling
from index.bundle.shipped import SHIPPED, find_bundle
from index.cli.arguments import POLICY_FLAGS, command_line
from index.cli.bundle_view import bundle_page, plain, search_page
from index.cli.import_command import read_import, report
from index.cli.list_command import print_list
from index.cli.progress import CountingEmbedder, Progress
from index.cli.shipped_view import read_provenance_page
from index.counted import counted
from index.embedders.base import Embedder
from index.embedders.registry import check_embedder_allowed, open_embedder
from index.errors import BundleFormatError, BundleIntegrityError, DrpoError, UsageError
from index.layouts import LAYOUTS
from index.rendering import render_text
from index.standard_output import OutputConsole, discard_rest, escape_unprintable
from index.types import Bundle, Message, RetrievalPolicy

_BLOCK_TOKENS: Final = 128
"""The default number of tokens of an example set is a multiple of this number.

vLLM's prefix cache stores whole blocks of 16, 32, 64 or 128 tokens. A multiple of 128 fills whole blocks of each size.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. If the command line is wrong, argparse ends the process with code 2."""
    escape_unprintable()
    options = command_line().parse_args(arguments)
    try:
        if "directory" in options:
            options.directory = find_bundle(options.directory)
        _COMMANDS[options.command](options)
        sys.stdout.flush()
    except DrpoError as error:
        print(f"drpo-index: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("drpo-index: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return discard_rest()
    return 0


def _verify(options: argparse.Namespace) -> None:
    bundle = _load(options.directory, _open_bundle_embedder(options))
    if options.id is not None and bundle.id != options.id:
        raise BundleIntegrityError(f"{options.directory}: has the id {bundle.id}, not that of --id. Name the right one")
    pinned = sum(example.pinned for example in bundle.examples)
    examples = counted(len(bundle.examples), "example")
    print(f"{options.directory}: good. {bundle.manifest.name}, {examples}, {pinned:,} pinned.")
    print(f"bundle id {bundle.id}")


def _show(options: argparse.Namespace) -> None:
    page, bundle = OutputConsole(), read_bundle(options.directory)
    page.print(*read_provenance_page(options.directory), bundle_page(bundle, options.full), sep="\n")


def _search(options: argparse.Namespace) -> None:
    # Imported here because these modules load FAISS, which takes longer than the other commands take to run.
    from index.retrieval.passages import embed_query
    from index.retrieval.retriever import Retriever, pinned
    from index.retrieval.selection import select_without_costs

    embedder = _open_bundle_embedder(options)
    bundle = _load(options.directory, embedder)
    with Progress("building the search index"):
        retriever = Retriever(bundle)
    policy = bundle.manifest.retrieval
    retrieved = retriever.choose_by_passages(embed_query(embedder, options.text))
    selection = select_without_costs(policy, pinned(bundle), retrieved)
    prompt, examples = bundle.prompt_of(retrieved.set_name), selection.in_order(policy.order)
    text = render_text(LAYOUTS[bundle.manifest.layout], prompt, examples, (Message("user", options.text),))
    page = OutputConsole()
    page.print(search_page(selection, retrieved, bundle))
    page.rule(f"what the model sees: at most {policy.max_injected_tokens:,} tokens, layout {bundle.manifest.layout}")
    # Control characters in the text could change the state of a terminal, so a terminal gets visible symbols for them.
    # A file or a pipe gets the exact text.
    print(plain(text).plain if sys.stdout.isatty() else text)


def _build(options: argparse.Namespace) -> None:
    source = _bundle_input(options)
    bundle = _write(options.out, source, _open(options.embedder))
    print(f"{options.out}: written, {counted(len(bundle.examples), 'example')}, bundle id {bundle.id}")


def _import(options: argparse.Namespace) -> None:
    imported = read_import(options, _sampling(options), _read)
    bundle = _write(options.out, imported.source, _open(options.embedder))
    print(f"{options.out}: written, {counted(len(bundle.examples), 'example')}, bundle id {bundle.id}")
    print("\n".join(report(imported)))


def _reembed(options: argparse.Namespace) -> None:
    source = as_input(read_bundle(options.directory))
    written = _write(options.out, source, _open(options.embedder))
    print(f"{options.out}: written, {counted(len(written.examples), 'example')}, bundle id {written.id}")
    policy = written.manifest.retrieval
    if written.sets or policy.minimum_similarity > -1 or policy.similarity_floor is not None:
        print("Each embedder gives other similarities. Partition the bundle again, and measure its limits again.")


def _sets(options: argparse.Namespace) -> None:
    # Imported here because these modules load FAISS, which takes longer than the other commands take to run.
    from index.example_sets.builder import partition_bundle
    from index.example_sets.partition import PartitionSpec, SeparateTag

    prompts = {} if options.prompts is None else parse_set_prompts(_read(options.prompts), str(options.prompts))
    embedder = _open_bundle_embedder(options)
    bundle = _load(options.directory, embedder)
    limit = bundle.manifest.retrieval.max_injected_tokens
    tokens = limit // _BLOCK_TOKENS * _BLOCK_TOKENS if options.tokens is None else options.tokens
    separate = {tag: SeparateTag(weight, count) for tag, weight, count in options.apart}
    if len(separate) < len(options.apart):
        raise UsageError("--apart: a tag is named twice. Name each tag once, as TAG=WEIGHT:SETS")
    spec = PartitionSpec(options.count, tokens, separate, options.minimum_similarity, options.shortest_answer)
    policy = replace(
        bundle.manifest.retrieval,
        policy=options.policy,
        k=options.k,
        voters=options.voters,
        max_nearest_tokens=options.max_nearest_tokens,
    )
    with Progress("partitioning the examples into sets"):
        source = partition_bundle(bundle, spec, policy, options.tokenizer, prompts)
    written = _write(options.out, source, embedder)
    print(f"{options.out}: written, {counted(len(written.sets), 'set')} of {tokens} tokens, bundle id {written.id}")
    if bundle.set_prompts and not prompts:
        print("The earlier sets had prompts, but the new sets have none. --prompts FILE gives them prompts.")
    if (neutral := written.manifest.retrieval.neutral_set) is not None:
        print(f"neutral set {neutral}; `drpo-index policy {options.out} --queries FILE` measures a similarity floor")


def _policy(options: argparse.Namespace) -> None:
    embedder = _open_bundle_embedder(options)
    bundle = _load(options.directory, embedder)
    policy = _changed_policy(options, bundle)
    if options.queries is not None:
        policy = replace(policy, similarity_floor=_measured_floor(options, bundle, embedder))
    if options.out is None:
        print("nothing was written. Give --out DIR to write a bundle with this policy")
        return
    written = _write(options.out, replace(as_input(bundle), retrieval=policy), embedder)
    print(f"{options.out}: written, policy {policy.policy}, bundle id {written.id}")


def _changed_policy(options: argparse.Namespace, bundle: Bundle) -> RetrievalPolicy:
    """Return the bundle's policy with the given options. If a floor needs a neutral set, one is chosen."""
    from index.example_sets.builder import choose_neutral

    given = {name: getattr(options, name) for name in POLICY_FLAGS if getattr(options, name) is not None}
    policy = replace(bundle.manifest.retrieval, **given)
    if policy.policy != "nearest" and not bundle.sets:
        raise UsageError(f"--policy {policy.policy}: the bundle has no sets. Make them with `drpo-index sets`")
    has_floor = policy.similarity_floor is not None or options.queries is not None
    if has_floor and policy.neutral_set is None and bundle.sets:
        policy = replace(policy, neutral_set=choose_neutral(bundle.sets, bundle.examples, bundle.vectors))
    try:
        return check_policy(policy, "command line")
    except BundleFormatError as error:
        raise UsageError(str(error)) from None


def _measured_floor(options: argparse.Namespace, bundle: Bundle, embedder: Embedder) -> float:
    from index.retrieval.floor import measure_floor
    from index.retrieval.passages import embed_query
    from index.retrieval.retriever import Retriever

    in_bank = {example.query.strip() for example in bundle.examples}
    queries = parse_queries(_read(options.queries), str(options.queries))
    new = [query for query in dict.fromkeys(queries) if query not in in_bank]
    with Progress("embedding the queries of users", len(new)) as progress:
        counting = CountingEmbedder(embedder, progress)
        vectors = [embed_query(counting, query) for query in new]
        measured = measure_floor(Retriever(bundle), vectors, options.share_below)
    print(
        f"similarity floor {measured.floor:g}: {measured.below:,} of {measured.queries:,} queries are below it. The "
        f"median similarity of all queries to their most similar example is {measured.median:.3f}"
    )
    return measured.floor


def _bundle_input(options: argparse.Namespace) -> BundleInput:
    policy, sampling = _policy_and_sampling(options)
    return BundleInput(
        name=options.out.name if options.name is None else options.name,
        model=options.model,
        layout=options.layout,
        prompt=_read_text(options.prompt).strip(),
        examples=parse_input_examples(_read(options.examples), str(options.examples)),
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
        max_nearest_tokens=options.max_nearest_tokens,
    )
    try:
        return check_policy(policy, "command line"), _sampling(options)
    except BundleFormatError as error:
        raise UsageError(str(error)) from None


def _sampling(options: argparse.Namespace) -> Mapping[str, object]:
    try:
        return check_sampling(dict(options.sampling), "--sampling")
    except BundleFormatError as error:
        raise UsageError(str(error)) from None


def _load(directory: Path, embedder: Embedder) -> Bundle:
    with Progress(f"checking {directory}"):
        return load_bundle(directory, embedder)


def _write(directory: Path, source: BundleInput, embedder: Embedder) -> Bundle:
    """Embed the queries and write a new bundle. Progress messages say how many queries are embedded."""
    with Progress("embedding the queries", len(source.examples)) as progress:
        return write_bundle(directory, source, CountingEmbedder(embedder, progress), progress.begin)


def _open_bundle_embedder(options: argparse.Namespace) -> Embedder:
    """Open the embedder that the bundle's manifest names.

    Raises:
        EmbedderError: The options do not allow this embedder, or it cannot be opened.
    """
    name = read_manifest(options.directory).embedder.name
    check_embedder_allowed(name, options.allow_embedder, str(options.directory))
    return _open(name)


def _open(name: str) -> Embedder:
    with Progress(f"opening the embedder {name}"):
        return open_embedder(name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None


def _read_text(path: Path) -> str:
    try:
        return decode_text(_read(path), str(path))
    except BundleFormatError as error:
        raise UsageError(str(error)) from None


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = MappingProxyType(
    {
        "list": lambda options: print_list(SHIPPED, options.model, as_json=options.json),
        "verify": _verify,
        "show": _show,
        "search": _search,
        "build": _build,
        "import": _import,
        "reembed": _reembed,
        "sets": _sets,
        "policy": _policy,
    }
)

if __name__ == "__main__":
    sys.exit(main())
