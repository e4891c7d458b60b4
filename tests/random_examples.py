"""Chooses how many random examples a property-based test tries."""

import pytest


def examples(few: int, *, more: int) -> pytest.MarkDecorator:
    """Parametrize a test with `number`, the number of examples, as fast test and as slow test.

    Args:
        few: The number in `make test`.
        more: The number in `make test-slow`.
    """
    return pytest.mark.parametrize(
        "number", [few, pytest.param(more, marks=pytest.mark.slow)], ids="{} examples".format
    )
