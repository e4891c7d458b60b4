"""Reads retrieval policies as benches name them, and applies them to a bundle.

    own                              the bundle as it is
    3 nearest                        no sets
    sets                             the bundle's own sets
    sets and 1 nearest               the bundle's own sets, then the nearest example
    12 sets of 544 and 2 nearest     other sets, of 544 tokens with the prompt and the pinned examples
    ... within 96                    the nearest examples have at most 96 tokens together
    ... floor 0.3                    queries whose most similar example is less similar get the neutral set
    ... prompts my.toml              prompts of sets, as for `drpo-index sets --prompts`; the room of sets that are made
                                     depends on the lengths of their prompts

`0 sets of 0 and 3 nearest` is the same as `3 nearest`.
"""

import re
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from index.bundle.input_files import parse_set_prompts
from index.bundle.sets_file import with_prompts
from index.errors import BundleError
from index.example_sets.builder import choose_neutral, partition_bundle
from index.example_sets.partition import PartitionSpec, SeparateTag
from index.types import Bundle, ExampleSet, PolicyName, RetrievalPolicy

VOTERS: Final = 12
_ROOM: Final = 2_000  # tokens of the prompt and the examples: no policy is cut at the limit of the bundle
_FORM: Final = re.compile(
    r"(?:(?P<own>own)|(?:(?:(?P<count>\d+) sets? of (?P<tokens>\d+)|(?P<sets>sets))(?: and (?P<more>\d+) nearest)?"
    r"|(?P<nearest>\d+) nearest)(?: within (?P<within>\d+))?(?: floor (?P<floor>-?[\d.]+))?)"
    r"(?: prompts (?P<file>.+))?"
)


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """A retrieval policy.

    Attributes:
        name: The policy as the user wrote it.
        count: The number of sets to make; None for the bundle's own sets, 0 for no sets.
        tokens: The tokens of the prompt, the pinned examples and one of the sets to make.
        nearest: The number of nearest examples.
        within: The maximum number of tokens of the nearest examples; None for no limit.
        floor: The similarity floor; None for that of the bundle.
        is_own: Whether the bundle is used unchanged, apart from its prompts.
        prompts: Prompts of sets, by the name of a set or of a kind.
    """

    name: str
    count: int | None
    tokens: int = 0
    nearest: int = 0
    within: int | None = None
    floor: float | None = None
    is_own: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)


def parse_policy(text: str) -> PolicySpec:
    """Return the policy of this name.

    Raises:
        ArgumentTypeError: There is no such policy, or its file of prompts cannot be used.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ArgumentTypeError(
            f"{text!r} is no policy: write own, '3 nearest', sets, 'sets and 1 nearest' or '12 sets of 544 and 2 "
            "nearest', followed by 'within 96', 'floor 0.3' or 'prompts FILE' or not"
        )
    count = None if found["own"] or found["sets"] else int(found["count"] or 0)
    if found["file"] and count == 0:
        raise ArgumentTypeError(f"{text!r}: prompts are for sets: write 'sets prompts FILE'")
    return PolicySpec(
        name=text.strip(),
        count=count,
        tokens=int(found["tokens"] or 0),
        nearest=int(found["more"] or found["nearest"] or 0),
        within=int(found["within"]) if found["within"] else None,
        floor=float(found["floor"]) if found["floor"] else None,
        is_own=bool(found["own"]),
        prompts=_read_prompts(Path(found["file"])) if found["file"] else {},
    )


def _read_prompts(path: Path) -> Mapping[str, str]:
    try:
        return parse_set_prompts(path.read_bytes(), str(path))
    except OSError as error:
        raise ArgumentTypeError(f"{path}: cannot be read: {error.strerror}") from None
    except BundleError as error:
        raise ArgumentTypeError(str(error)) from None


def partition_spec(count: int, tokens: int) -> PartitionSpec:
    """Return the settings for sets. They are those of the twelve sets of 544 tokens in docs/benchmarks.md.

    The default bundle has other settings. If there are fewer than four sets, there are fewer separate tags.
    """
    tags = {"refusal": SeparateTag(1.5), "harmless": SeparateTag(count=2)}
    if count < 4:
        tags = {tag: SeparateTag(one.weight) for tag, one in list(tags.items())[: count - 1]}
    return PartitionSpec(count, tokens, tags, minimum_similarity=0.3, min_answer_words=40)


def with_policy(bundle: Bundle, spec: PolicySpec, tokenizer: Path | None = None) -> Bundle:
    """Return the bundle under a policy.

    Args:
        bundle: The bundle.
        spec: The policy.
        tokenizer: The tokenizer.json of the model; needed only if sets are made.

    Raises:
        BundleError: The sets cannot be made, or a prompt is for a set or a kind that does not exist.
        SystemExit: The policy needs sets or a tokenizer, and there are none.
    """
    if spec.is_own:
        return replace(bundle, sets=with_prompts(bundle.sets, spec.prompts))
    if spec.count == 0:
        policy = _policy(bundle, spec, "nearest")
        return _changed(bundle, replace(policy, neutral_set=None), ())
    policy = _policy(bundle, spec, "set_and_nearest" if spec.nearest else "set")
    if spec.count is None:
        if not bundle.sets:
            raise SystemExit(f"{spec.name}: the bundle is not in sets: see drpo-index sets")
        neutral = policy.neutral_set or choose_neutral(bundle.sets, bundle.examples, bundle.vectors)
        return _changed(bundle, replace(policy, neutral_set=neutral), with_prompts(bundle.sets, spec.prompts))
    if tokenizer is None:
        raise SystemExit(f"{spec.name}: making sets needs --tokenizer, the model's tokenizer.json")
    made = partition_bundle(bundle, partition_spec(spec.count, spec.tokens), policy, tokenizer, spec.prompts)
    return _changed(bundle, made.retrieval, tuple(made.sets))


def _policy(bundle: Bundle, spec: PolicySpec, name: PolicyName) -> RetrievalPolicy:
    own = bundle.manifest.retrieval
    return replace(
        own,
        policy=name,
        k=spec.nearest,
        voters=VOTERS,
        order="similar_last",
        max_injected_tokens=_ROOM,
        max_nearest_tokens=spec.within,
        similarity_floor=own.similarity_floor if spec.floor is None else spec.floor,
    )


def _changed(bundle: Bundle, policy: RetrievalPolicy, sets: tuple[ExampleSet, ...]) -> Bundle:
    return replace(bundle, manifest=replace(bundle.manifest, retrieval=policy), sets=sets)
