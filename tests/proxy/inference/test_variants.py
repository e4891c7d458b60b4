"""Tests of the model and the variant of a request, and of the errors for unknown models and variants."""

import pytest

from proxy.core.errors import BadRequestError, UnknownModelError
from proxy.inference.variants import Choice, choose

MODELS = ("base", "org/name", "odd@raw", "plain")
BUNDLED = ("base", "odd@raw")


@pytest.mark.parametrize(
    ("model", "header", "expected"),
    [
        ("base", None, Choice("base", "aligned", explicit=False)),
        ("plain", None, Choice("plain", "raw", explicit=False)),
        ("base@raw", None, Choice("base", "raw", explicit=True)),
        ("base@raw-matched", None, Choice("base", "raw-matched", explicit=True)),
        ("base", "raw", Choice("base", "raw", explicit=True)),
        ("base@raw", "raw", Choice("base", "raw", explicit=True)),
        ("org/name@raw", None, Choice("org/name", "raw", explicit=True)),
        ("odd@raw", None, Choice("odd@raw", "aligned", explicit=False)),
        ("odd@raw@raw", None, Choice("odd@raw", "raw", explicit=True)),
    ],
)
def test_named_model_and_variant_are_chosen(model: str, header: str | None, expected: Choice) -> None:
    assert choose(model, header, MODELS, BUNDLED) == expected


@pytest.mark.parametrize(
    ("model", "header", "says"),
    [
        ("base@wild", None, "aligned, raw, raw-matched"),
        ("base", "wild", "aligned, raw, raw-matched"),
        ("plain@aligned", None, "needs a bundle"),
        ("plain", "aligned", "needs a bundle"),
        ("base@raw", "aligned", "Send only one"),
        (None, None, "`model` is missing"),
        (7, None, "`model` is missing"),
    ],
)
def test_invalid_variant_is_refused_with_the_valid_ones(model: object, header: str | None, says: str) -> None:
    with pytest.raises(BadRequestError, match=says):
        choose(model, header, MODELS, BUNDLED)


@pytest.mark.parametrize("model", ["nobody", "http://elsewhere/v1", "base@RAW", "x" * 5000])
def test_unknown_model_error_lists_the_models(model: str) -> None:
    with pytest.raises(UnknownModelError, match=r"Available: base, odd@raw") as caught:
        choose(model, None, MODELS, BUNDLED)
    assert len(str(caught.value)) < 400
