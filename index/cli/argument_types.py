"""Converts the texts of drpo-index's arguments to values. An invalid text raises argparse.ArgumentTypeError.

This module opens no files.
"""

import argparse
import json
import math
import re

from index.bundle.sets_file import WEIGHTS


def bundle_id(text: str) -> str:
    # The first digits of an id are not accepted, because another bundle's id could begin with the same digits.
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError("a bundle's id has 64 hexadecimal digits; `drpo-index verify DIR` prints it")
    return text


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def query_text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the text is empty. Write a query")
    return text


def text_pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    return key, value


def separate_tag(text: str) -> tuple[str, float, int]:
    """Parse TAG[=WEIGHT[:SETS]]. Returns the tag, the weight of each set for this tag, and the number of these sets."""
    tag, _, rest = text.partition("=")
    weight_text, _, count = rest.partition(":")
    weight = _number(weight_text or "1")
    if not tag or not WEIGHTS[0] <= weight <= WEIGHTS[1]:
        form = f"TAG, TAG=WEIGHT or TAG=WEIGHT:SETS, with a weight from {WEIGHTS[0]:g} to {WEIGHTS[1]:g}"
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form {form}")
    return tag, weight, positive(count or "1")


def cosine(text: str) -> float:
    value = _number(text)
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no cosine. Write a number from -1 to 1")
    return value


def share(text: str) -> float:
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share. Write a number from 0 to 1, such as 0.05")
    return value


def json_pair(text: str) -> tuple[str, object]:
    """Parse KEY=VALUE. The value is parsed as JSON. A value that is not JSON is returned as a string."""
    key, value = text_pair(text)
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _number(text: str) -> float:
    """Return the number in a text. If the text is no number, return nan, which no range contains."""
    try:
        return float(text)
    except ValueError:
        return math.nan
