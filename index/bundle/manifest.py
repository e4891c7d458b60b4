"""manifest.json, format 1: from bytes to a checked Manifest and back. Knows no directory and no other file."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import cast, get_args

from index.bundle.strict_json import Fields, is_integer, is_number, parse_json, quoted, refuse_unknown
from index.errors import BundleFormatError
from index.rendering import LAYOUTS
from index.types import EmbedderSpec, FileRecord, Manifest, Order, RetrievalPolicy

FORMAT = 1
PROMPT, EXAMPLES, VECTORS = "prompt.txt", "examples.jsonl", "vectors.npy"
CENTROIDS, OFFSETS = "centroids.npy", "offsets.npy"
SETS = "sets.json"
FILES = (PROMPT, EXAMPLES, VECTORS)
LARGE_FILES = (*FILES, CENTROIDS, OFFSETS)
_MANIFEST_KEYS = ("format", "name", "model", "layout", "retrieval", "sampling", "embedder", "files", "provenance")
_POLICY_KEYS = ("k", "minimum_similarity", "duplicate_similarity", "order", "max_injected_tokens")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MANY = 2**53  # the largest integer that every JSON reader keeps
_INTEGER_SAMPLING: Mapping[str, tuple[int, int]] = {
    "max_tokens": (1, _MANY),
    "max_completion_tokens": (1, _MANY),
    "min_tokens": (0, _MANY),
    "top_k": (-1, _MANY),
    "seed": (-_MANY, _MANY),
}
_NUMBER_SAMPLING: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.01, 10.0),
}
_SAMPLING_KEYS = (*_INTEGER_SAMPLING, *_NUMBER_SAMPLING, "stop")


def parse_manifest(data: bytes, place: str) -> Manifest:
    """The manifest in `data`, with every key known and every value in its range; else BundleFormatError."""
    value = parse_json(data, place)
    _refuse_other_formats(value, place)
    fields = Fields(value, place, _MANIFEST_KEYS, ("probes",))
    probes = fields.integer("probes", 1, _MANY) if "probes" in fields else None
    retrieval = _parse_policy(fields.table("retrieval"), f"{place}, retrieval")
    return Manifest(
        format=FORMAT,
        name=fields.line("name"),
        model=fields.line("model"),
        layout=fields.choice("layout", tuple(LAYOUTS)),
        retrieval=retrieval,
        sampling=check_sampling(fields.table("sampling"), f"{place}, sampling"),
        embedder=_parse_embedder(fields.table("embedder"), f"{place}, embedder"),
        files=_parse_files(fields.table("files"), _names(retrieval, probes), f"{place}, files"),
        provenance=fields.table("provenance"),
        probes=probes,
    )


def manifest_bytes(manifest: Manifest) -> bytes:
    """The canonical form: sorted keys, indented, one line break at the end. BundleFormatError if it is not JSON."""
    table = asdict(manifest)
    if manifest.probes is None:
        del table["probes"]
    try:
        text = json.dumps(table, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()
    except (TypeError, ValueError, RecursionError) as error:
        reason = "it is not Unicode text" if isinstance(error, UnicodeEncodeError) else str(error)
        raise BundleFormatError(f"sampling or provenance cannot be written as JSON: {reason}") from None


def check_sampling(sampling: Mapping[str, object], place: str) -> Mapping[str, object]:
    """`sampling` itself, if it holds only sampling fields of OpenAI or vLLM with values that make sense."""
    refuse_unknown(sampling, _SAMPLING_KEYS, place)
    for key, value in sampling.items():
        if (expected := _expected_sampling(key, value)) is not None:
            raise BundleFormatError(f"{place}: {quoted(key)} must be {expected}")
    return sampling


def check_policy(policy: RetrievalPolicy, place: str) -> RetrievalPolicy:
    """`policy` itself, if every value is in its range; else BundleFormatError."""
    return _parse_policy(asdict(policy), place)


def _expected_sampling(key: str, value: object) -> str | None:
    """What `key` should be; None if `value` is that."""
    if key in _INTEGER_SAMPLING:
        low, high = _INTEGER_SAMPLING[key]
        return None if is_integer(value, low, high) else f"an integer from {low} to {high}"
    if key in _NUMBER_SAMPLING:
        least, most = _NUMBER_SAMPLING[key]
        return None if is_number(value, least, most) else f"a number from {least:g} to {most:g}"
    stops = value if isinstance(value, list) else [value]
    return None if all(isinstance(stop, str) and stop for stop in stops) else "a string or a list of strings, not empty"


def _refuse_other_formats(value: object, place: str) -> None:
    found = value.get("format", FORMAT) if isinstance(value, dict) else FORMAT
    if not is_integer(found, FORMAT, FORMAT):
        raise BundleFormatError(f"{place}: the format is not {FORMAT}, the only one this version reads: update drpo")


def _parse_policy(value: object, place: str) -> RetrievalPolicy:
    fields = Fields(value, place, _POLICY_KEYS)
    return RetrievalPolicy(
        k=fields.integer("k", 0, 1_000),
        minimum_similarity=fields.number("minimum_similarity", -1.0, 1.0),
        duplicate_similarity=fields.number("duplicate_similarity", -1.0, 1.0),
        order=cast("Order", fields.choice("order", get_args(Order))),
        max_injected_tokens=fields.integer("max_injected_tokens", 1, _MANY),
    )


def _parse_embedder(value: object, place: str) -> EmbedderSpec:
    fields = Fields(value, place, ("name", "revision", "dimension"))
    return EmbedderSpec(fields.line("name"), fields.line("revision"), fields.integer("dimension", 1, 1_000_000))


def _names(retrieval: RetrievalPolicy, probes: int | None) -> Sequence[str]:
    """The files that a bundle of this kind has."""
    return (*(FILES if probes is None else LARGE_FILES), *([SETS] if retrieval.order == "set" else ()))


def _parse_files(value: dict[str, object], names: Sequence[str], place: str) -> Mapping[str, FileRecord]:
    """A record for exactly the files of these names: no other name, and so no path that leads out of the bundle."""
    fields = Fields(value, place, names)
    return {name: _parse_file(fields.table(name), f"{place}, {name}") for name in names}


def _parse_file(value: object, place: str) -> FileRecord:
    fields = Fields(value, place, ("sha256", "size"))
    sha256 = fields.text("sha256")
    if not _SHA256.fullmatch(sha256):
        raise BundleFormatError(f'{place}: "sha256" must be 64 digits from 0 to 9 and a to f')
    return FileRecord(sha256, fields.integer("size", 0, _MANY))
