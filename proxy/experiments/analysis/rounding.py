"""Rounds numbers to the digits that their uncertainty supports, and writes them for people."""

import math
from typing import Final

_STEPS_OF_A_WIDTH: Final = 5  # an interval is at least this many steps wide, and less than 10 times this many
_NEGLIGIBLE: Final = 3  # a number below the step divided by 10 to this power counts as 0
_MAX_DIGITS: Final = 3  # of the largest number; one more if it is rounded up to a power of ten
_MIN_EXPONENT: Final = -6  # numbers with finer steps are written in scientific notation
SIGNIFICANT_SHARE: Final = 0.5  # without an interval, this fraction of the estimate stands for its width


def exponent_for(width: float, largest: float = 0.0) -> int:
    """Return n for the step 10**n to which the bounds of an interval are rounded.

    Args:
        width: The width of the interval. 0 gives the step 1.
        largest: The largest magnitude that is written. It gets at most _MAX_DIGITS digits.
    """
    exponent = math.floor(math.log10(width / _STEPS_OF_A_WIDTH)) if width > 0 else 0
    return max(exponent, math.floor(math.log10(largest)) - _MAX_DIGITS + 1) if largest else exponent


def rounded(value: float, exponent: int) -> float:
    """Round to a multiple of 10**exponent. A number that would become 0 keeps one digit, unless it is negligible."""
    finer = _own_exponent(value, exponent)
    return 0.0 if finer is None else float(round(value, -finer))


def written(value: float, exponent: int) -> str:
    """Write the rounded magnitude of a number, without its sign."""
    finer = _own_exponent(value, exponent)
    if finer is None:
        return "0"
    magnitude = abs(rounded(value, exponent))
    return f"{magnitude:,.{max(0, -finer)}f}" if finer >= _MIN_EXPONENT else f"{magnitude:.2g}"


def _own_exponent(value: float, exponent: int) -> int | None:
    """Return the exponent of the step for this number. None if the number is negligible."""
    magnitude = math.floor(math.log10(abs(value))) if value else -math.inf
    return None if magnitude < exponent - _NEGLIGIBLE else int(min(exponent, magnitude))


def two_digits(value: float) -> str:
    """Write a number with two significant digits, or one if the second is a 0 after the point."""
    number = written(value, math.floor(math.log10(abs(value))) - 1) if value else "0"
    return number.rstrip("0").rstrip(".") if "." in number and "e" not in number else number
