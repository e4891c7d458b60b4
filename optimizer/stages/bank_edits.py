"""Edits a bank without calling a model: removes examples with short answers, and rewords refusals.

The answers of a small base model depend more on the form of its examples than on the wording of its system prompt. They
depend most on the length of the answers in the examples. All functions are pure.
"""

import re
from dataclasses import replace
from typing import Final

import numpy as np

from index.measures.refusals import refuses
from index.types import Example
from optimizer.core.candidate import Bank
from optimizer.core.config_tables import PLAIN, WHOLE

_PLAIN_REFUSAL: Final = "I'm sorry, but I can't help with that."
_SENTENCE: Final = re.compile(r".+?[.!?](?=\s|$)", re.DOTALL)


def with_longer_answers(bank: Bank, min_words: int) -> Bank:
    """Return the bank without the examples whose answers have fewer than `min_words` words.

    Pinned examples and refusals stay, however short they are.
    """
    kept = [
        index
        for index, example in enumerate(bank.examples)
        if example.pinned or refuses(example.response) or len(example.response.split()) >= min_words
    ]
    return bank.with_examples(tuple(bank.examples[index] for index in kept), np.ascontiguousarray(bank.vectors[kept]))


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


def _reword(example: Example, wording: str) -> Example:
    if not refuses(example.response):
        return example
    if wording == PLAIN:
        return replace(example, response=_PLAIN_REFUSAL)
    first = _SENTENCE.match(example.response)
    return replace(example, response=first[0].strip()) if first and refuses(first[0]) else example
