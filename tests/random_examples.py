"""Chooses how many random examples a property-based test tries."""

import pytest


def examples(few: int, *, more: int) -> pytest.MarkDecorator:
    """Make a fast and a slow test of one test, with different values of its argument `number`.

    Args:
        few: The number in `make test`.
        more: The number in `make test-slow`.
    """
    return pytest.mark.parametrize(
        "number", [few, pytest.param(more, marks=pytest.mark.slow)], ids="{} examples".format
    )
