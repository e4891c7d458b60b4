"""Writes a count with its noun, for messages and reports."""


def counted(count: int, noun: str) -> str:
    """Return a count with its noun in the right number, such as `1 row`, `2,000 rows` or `3 queries`.

    Args:
        count: The count.
        noun: The noun in the singular. Its plural ends in "s", or in "ies" if the noun ends in a consonant and "y".
    """
    return f"{count:,} {noun if count == 1 else _plural(noun)}"


def _plural(noun: str) -> str:
    return f"{noun[:-1]}ies" if noun[-1] == "y" and noun[-2] not in "aeiou" else f"{noun}s"
