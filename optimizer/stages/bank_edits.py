"""Edits a bank without calling a model: adds, removes and pins examples, shortens answers, and rewords refusals.

The answers of a small base model depend more on the form of its examples than on the wording of its system prompt. They
depend most on the length of the answers in the examples. All functions are pure.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Final

import numpy as np

from index.measures.refusals import refuses
from index.measures.sentence_end import can_end
from index.types import Example, Vectors
from optimizer.core.candidate import Bank
from optimizer.core.config_tables import PLAIN, WHOLE

_PLAIN_REFUSAL: Final = "I'm sorry, but I can't help with that."
_SENTENCE: Final = re.compile(r".+?[.!?](?=\s|$)", re.DOTALL)


def with_longer_answers(bank: Bank, min_words: int) -> Bank:
    """Return the bank without the examples whose answers have fewer than `min_words` words.

    Pinned examples and refusals stay, however short they are.
    """
    short = {
        example.id
        for example in bank.examples
        if not (example.pinned or refuses(example.response) or len(example.response.split()) >= min_words)
    }
    return without(bank, short)


def with_refusals(bank: Bank, wording: str) -> Bank:
    """Return the bank with its refusals reworded.

    Args:
        bank: The bank to edit.
        wording: `whole` changes nothing. `first_sentence` shortens each refusal to its first sentence, if this sentence
            alone is a refusal. `plain` replaces each refusal by the same short sentence.
    """
    if wording == WHOLE:
        return bank
    return bank.with_examples(tuple(_reword(example, wording) for example in bank.examples), bank.vectors)


def with_added(bank: Bank, examples: Sequence[Example], vectors: Vectors) -> Bank:
    """Return the bank with more examples at its end. None of them is pinned.

    If the bank or an earlier new example already has the id of a new example, the new example gets another id.

    Args:
        bank: The bank to edit.
        examples: The examples to add.
        vectors: The vectors of their queries, by the embedder of the bank: (len(examples), dimension).
    """
    ids, added = {example.id for example in bank.examples}, list[Example]()
    for one in examples:
        added.append(replace(one, id=_free_id(one.id, ids), pinned=False))
        ids.add(added[-1].id)
    both = np.concatenate([bank.vectors, vectors]) if len(bank.examples) else np.asarray(vectors)
    return bank.with_examples((*bank.examples, *added), np.ascontiguousarray(both, dtype=np.float32))


def without(bank: Bank, ids: Collection[str]) -> Bank:
    """Return the bank without the examples with these ids."""
    kept = [index for index, example in enumerate(bank.examples) if example.id not in ids]
    return bank.with_examples(tuple(bank.examples[index] for index in kept), np.ascontiguousarray(bank.vectors[kept]))


def with_pinned(bank: Bank, ids: Collection[str]) -> Bank:
    """Return the bank in which exactly the examples with these ids are pinned."""
    return bank.with_examples(tuple(replace(one, pinned=one.id in ids) for one in bank.examples), bank.vectors)


def with_shorter_answers(bank: Bank, max_words: int) -> Bank:
    """Return the bank with its answers cut after the last sentence that ends within `max_words` words.

    A full stop after the number of a list item, or after a usual abbreviation, ends no sentence. An answer stays whole
    if its first sentence is longer, if it contains a block of code, or if no sentence ends in it, as in a list without
    full stops.
    """
    return bank.with_examples(tuple(_cut(example, max_words) for example in bank.examples), bank.vectors)


def _cut(example: Example, max_words: int) -> Example:
    if len(example.response.split()) <= max_words or "```" in example.response:
        return example
    fitting = [end for end in _sentence_ends(example.response) if len(example.response[:end].split()) <= max_words]
    return replace(example, response=example.response[: fitting[-1]].strip()) if fitting else example


def _sentence_ends(text: str) -> Iterator[int]:
    """Yield the position after the last character of each sentence."""
    ends = (sentence.end() for sentence in _SENTENCE.finditer(text))
    return (end for end in ends if can_end(text, end))


def _free_id(name: str, ids: Collection[str]) -> str:
    """Return the id, or the id with a number, so that no two examples of a bank have the same one."""
    numbered = (f"{name[:60]}-{number}" for number in count(2))
    return name if name not in ids else next(one for one in numbered if one not in ids)


def _reword(example: Example, wording: str) -> Example:
    if not refuses(example.response):
        return example
    if wording == PLAIN:
        return replace(example, response=_PLAIN_REFUSAL)
    first = example.response[: next(_sentence_ends(example.response), 0)].strip()
    return replace(example, response=first) if refuses(first) else example
