"""Banks made from a bank, without a model: which answers stay, and how refusals are worded. Pure; knows no score.

What examples look like moves a small base model more than what its prompt says, and the length of its answers most.
"""

import re
from dataclasses import replace
from typing import Final

import numpy as np

from index.types import Example
from optimizer.core.candidate import Bank
from optimizer.core.config import PLAIN, WHOLE
from optimizer.core.text_rules import refuses

_PLAIN: Final = "I'm sorry, but I can't help with that."
_SENTENCE: Final = re.compile(r".+?[.!?](?=\s|$)", re.DOTALL)


def with_longer_answers(bank: Bank, words: int) -> Bank:
    """Without the examples whose answers have fewer words; pinned ones and refusals stay."""
    stay = [
        place
        for place, example in enumerate(bank.examples)
        if example.pinned or refuses(example.response) or len(example.response.split()) >= words
    ]
    return bank.with_examples(tuple(bank.examples[place] for place in stay), np.ascontiguousarray(bank.vectors[stay]))


def with_refusals(bank: Bank, wording: str) -> Bank:
    """Every refusal worded so: as it is, its first sentence alone, or the same plain sentence for all."""
    if wording == WHOLE:
        return bank
    return bank.with_examples(tuple(_reworded(example, wording) for example in bank.examples), bank.vectors)


def _reworded(example: Example, wording: str) -> Example:
    if not refuses(example.response):
        return example
    if wording == PLAIN:
        return replace(example, response=_PLAIN)
    first = _SENTENCE.match(example.response)
    return replace(example, response=first[0].strip()) if first and refuses(first[0]) else example
