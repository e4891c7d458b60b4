"""Parses and writes manifest.json, format 1. This module does not depend on directories or on other files."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import cast, get_args

from index.bundle.example_bank import is_id
from index.bundle.strict_json import Fields, is_integer, is_number, parse_json, quoted, refuse_unknown
from index.errors import BundleFormatError
from index.layouts import LAYOUTS
from index.types import EmbedderSpec, FileRecord, Manifest, Order, PolicyName, RetrievalPolicy

FORMAT = 1
PROMPT, EXAMPLES, VECTORS = "prompt.txt", "examples.jsonl", "vectors.npy"
CENTROIDS, OFFSETS = "centroids.npy", "offsets.npy"
SETS = "sets.json"
FILES = (PROMPT, EXAMPLES, VECTORS)
LARGE_FILES = (*FILES, CENTROIDS, OFFSETS)
_MANIFEST_KEYS = ("format", "name", "model", "layout", "retrieval", "sampling", "embedder", "files", "provenance")
_POLICY_KEYS = (
    "policy",
    "k",
    "voters",
    "minimum_similarity",
    "duplicate_similarity",
    "order",
    "max_injected_tokens",
)
_OPTIONAL_POLICY_KEYS = ("max_nearest_tokens", "similarity_floor", "neutral_set")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_INTEGER = 2**53  # the largest integer that every JSON parser represents exactly
# The smallest and the largest valid value of each sampling field.
_INTEGER_SAMPLING: Mapping[str, tuple[int, int]] = {
    "max_tokens": (1, _MAX_INTEGER),
    "max_completion_tokens": (1, _MAX_INTEGER),
    "min_tokens": (0, _MAX_INTEGER),
    "top_k": (-1, _MAX_INTEGER),
    "seed": (-_MAX_INTEGER, _MAX_INTEGER),
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


def parse_manifest(data: bytes, location: str) -> Manifest:
    """Parse the manifest in `data`. `location` is the file's name in messages.

    Raises:
        BundleFormatError: The data is not JSON of format 1, a key is unknown or missing, or a value is invalid.
    """
    value = parse_json(data, location)
    _refuse_other_formats(value, location)
    fields = Fields(value, location, _MANIFEST_KEYS, ("probes",))
    probes = fields.integer("probes", 1, _MAX_INTEGER) if "probes" in fields else None
    retrieval = _parse_policy(fields.table("retrieval"), f"{location}, retrieval")
    return Manifest(
        format=FORMAT,
        name=fields.line("name"),
        model=fields.line("model"),
        layout=fields.choice("layout", tuple(LAYOUTS)),
        retrieval=retrieval,
        sampling=check_sampling(fields.table("sampling"), f"{location}, sampling"),
        embedder=_parse_embedder(fields.table("embedder"), f"{location}, embedder"),
        files=_parse_files(fields.table("files"), _file_names(retrieval, probes), f"{location}, files"),
        provenance=fields.table("provenance"),
        probes=probes,
    )


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the canonical content of manifest.json: sorted keys, indented, one line break at the end.

    Raises:
        BundleFormatError: `sampling` or `provenance` cannot be written as JSON.
    """
    try:
        text = json.dumps(_manifest_record(manifest), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()
    except (TypeError, ValueError, RecursionError) as error:
        reason = "it is not Unicode text" if isinstance(error, UnicodeEncodeError) else str(error)
        raise BundleFormatError(f"sampling or provenance cannot be written as JSON: {reason}") from None


def _manifest_record(manifest: Manifest) -> dict[str, object]:
    embedder = manifest.embedder
    record: dict[str, object] = {
        "format": manifest.format,
        "name": manifest.name,
        "model": manifest.model,
        "layout": manifest.layout,
        "retrieval": _policy_record(manifest.retrieval),
        "sampling": manifest.sampling,
        "embedder": {"name": embedder.name, "revision": embedder.revision, "dimension": embedder.dimension},
        "files": {name: {"sha256": file.sha256, "size": file.size} for name, file in manifest.files.items()},
        "provenance": manifest.provenance,
    }
    return record if manifest.probes is None else {**record, "probes": manifest.probes}


def _policy_record(policy: RetrievalPolicy) -> dict[str, object]:
    record = {key: getattr(policy, key) for key in (*_POLICY_KEYS, *_OPTIONAL_POLICY_KEYS)}
    return {key: value for key, value in record.items() if value is not None}


def check_sampling(sampling: Mapping[str, object], location: str) -> Mapping[str, object]:
    """Return `sampling` after checking that each key is a sampling field of OpenAI or vLLM and has a valid value.

    Raises:
        BundleFormatError: A field is unknown, or its value is invalid.
    """
    refuse_unknown(sampling, _SAMPLING_KEYS, location)
    for key, value in sampling.items():
        if (expected := _expected_sampling(key, value)) is not None:
            raise BundleFormatError(f"{location}: {quoted(key)} must be {expected}")
    return sampling


def check_policy(policy: RetrievalPolicy, location: str) -> RetrievalPolicy:
    """Check that every value of `policy` is in its range, and return a policy with these values.

    Raises:
        BundleFormatError: A value is out of its range.
    """
    return _parse_policy(_policy_record(policy), location)


def _expected_sampling(key: str, value: object) -> str | None:
    """Return None if `value` is valid for the sampling field `key`, otherwise a description of the valid values."""
    if key in _INTEGER_SAMPLING:
        low, high = _INTEGER_SAMPLING[key]
        return None if is_integer(value, low, high) else f"an integer from {low} to {high}"
    if key in _NUMBER_SAMPLING:
        least, most = _NUMBER_SAMPLING[key]
        return None if is_number(value, least, most) else f"a number from {least:g} to {most:g}"
    stops = value if isinstance(value, list) else [value]
    return None if all(isinstance(stop, str) and stop for stop in stops) else "a string or a list of strings, not empty"


def _refuse_other_formats(value: object, location: str) -> None:
    found = value.get("format", FORMAT) if isinstance(value, dict) else FORMAT
    if not is_integer(found, FORMAT, FORMAT):
        raise BundleFormatError(f"{location}: the format is not {FORMAT}, but this version reads no other. Update drpo")


def _parse_policy(value: object, location: str) -> RetrievalPolicy:
    fields = Fields(value, location, _POLICY_KEYS, _OPTIONAL_POLICY_KEYS)
    policy = RetrievalPolicy(
        policy=cast("PolicyName", fields.choice("policy", get_args(PolicyName))),
        k=fields.integer("k", 0, 1_000),
        voters=fields.integer("voters", 1, 1_000),
        minimum_similarity=fields.number("minimum_similarity", -1.0, 1.0),
        duplicate_similarity=fields.number("duplicate_similarity", -1.0, 1.0),
        order=cast("Order", fields.choice("order", get_args(Order))),
        max_injected_tokens=fields.integer("max_injected_tokens", 1, _MAX_INTEGER),
        max_nearest_tokens=(
            fields.integer("max_nearest_tokens", 1, _MAX_INTEGER) if "max_nearest_tokens" in fields else None
        ),
        similarity_floor=fields.number("similarity_floor", -1.0, 1.0) if "similarity_floor" in fields else None,
        neutral_set=fields.line("neutral_set") if "neutral_set" in fields else None,
    )
    _check_floor(policy, location)
    return policy


def _check_floor(policy: RetrievalPolicy, location: str) -> None:
    """Raise BundleFormatError if the neutral set's name is invalid, or if a policy with sets and a floor names none."""
    if policy.neutral_set is not None and not is_id(policy.neutral_set):
        raise BundleFormatError(f'{location}: "neutral_set" must be the name of a set in {SETS}')
    if policy.similarity_floor is not None and policy.neutral_set is None and policy.policy != "nearest":
        raise BundleFormatError(
            f'{location}: "similarity_floor" needs "neutral_set", the set for queries that are unlike every example. '
            'Set "neutral_set" to a set of the kind other'
        )


def _parse_embedder(value: object, location: str) -> EmbedderSpec:
    fields = Fields(value, location, ("name", "revision", "dimension"))
    return EmbedderSpec(fields.line("name"), fields.line("revision"), fields.integer("dimension", 1, 1_000_000))


def _file_names(retrieval: RetrievalPolicy, probes: int | None) -> Sequence[str]:
    """Return the names of a bundle's files other than the manifest. `probes` is None for a bank without clusters."""
    return (*(FILES if probes is None else LARGE_FILES), *([SETS] if retrieval.has_sets else ()))


def _parse_files(value: dict[str, object], names: Sequence[str], location: str) -> Mapping[str, FileRecord]:
    """Parse the file records. The keys must be exactly `names`, so no record can name a file outside the bundle."""
    fields = Fields(value, location, names)
    return {name: _parse_file(fields.table(name), f"{location}, {name}") for name in names}


def _parse_file(value: object, location: str) -> FileRecord:
    fields = Fields(value, location, ("sha256", "size"))
    sha256 = fields.text("sha256")
    if not _SHA256.fullmatch(sha256):
        raise BundleFormatError(f'{location}: "sha256" must be 64 digits from 0 to 9 and a to f')
    return FileRecord(sha256, fields.integer("size", 0, _MAX_INTEGER))
