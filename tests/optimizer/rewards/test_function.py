"""Tests that a user's reward may return any real number, and that its mistakes are errors that name their place."""

import asyncio
import sys
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.core.errors import ConfigError, RewardError
from optimizer.data.dataset import Row
from optimizer.models.task_model import Raw, Reply
from optimizer.rewards.base import AnsweredRow
from optimizer.rewards.function import Function

MODULE = "reward_of_a_test"
ANSWERED = AnsweredRow(Raw({}), Row("a secret", name="rows.jsonl, line 7"), Reply("yes", "stop", 1, 1))


class Tensor:
    """A scalar like those of PyTorch: only `float` converts it to a number."""

    def __init__(self, value: float) -> None:
        self._value = value

    def __float__(self) -> float:
        return self._value

    def __repr__(self) -> str:
        return f"Tensor({self._value})"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop(MODULE, None)


def function_of(folder: Path, code: str) -> Function:
    (folder / f"{MODULE}.py").write_text(code)
    return Function(f"{MODULE}:score")


async def scored(folder: Path, value: object) -> float:
    function = function_of(folder, "def score(**_):\n    return VALUE\n")
    vars(sys.modules[MODULE])["VALUE"] = value
    return (await function.score(ANSWERED)).value


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (0, 0.0),
        (1, 1.0),
        (True, 1.0),
        (False, 0.0),
        (0.25, 0.25),
        (Decimal("0.25"), 0.25),
        (Fraction(1, 4), 0.25),
        (np.float16(0.25), 0.25),
        (np.float32(0.25), 0.25),
        (np.float64(0.25), 0.25),
        (np.int64(1), 1.0),
        (np.bool_(True), 1.0),
        (np.array(0.25), 0.25),
        (Tensor(0.25), 0.25),
        (1.0000001, 1.0),
        (-1e-9, 0.0),
        (np.nextafter(np.float16(1), np.float16(2)), 1.0),
        (Decimal("1.0000000000000000000001"), 1.0),
    ],
    ids=repr,
)
async def test_any_real_number_is_a_score(value: object, score: float, folder: Path) -> None:
    found = await scored(folder, value)
    assert found == pytest.approx(score)
    assert 0 <= found <= 1
    assert type(found) is float


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (Decimal("NaN"), "nan"),
        (np.float32("nan"), "nan"),
        (1.01, "1.01"),
        (-0.5, "-0.5"),
        (7, "7"),
        (10**400, "int"),
        ("0.5", "str"),
        (np.str_("0.5"), "str_"),
        (b"1", "bytes"),
        (None, "NoneType"),
        (0.5j, "complex"),
        (np.complex64(0.5), "complex64"),
        ([0.5], "list"),
        ({"score": 0.5}, "dict"),
        ((0.5,), "tuple"),
        (np.array([0.5, 0.5]), "ndarray"),
    ],
    ids=repr,
)
async def test_value_that_is_no_real_number_is_an_error_that_names_function_row_and_value(
    value: object, named: str, folder: Path
) -> None:
    with pytest.raises(RewardError) as caught:
        await scored(folder, value)
    message = str(caught.value)
    assert message.startswith(f"[reward] {MODULE}:score returned {named} for rows.jsonl, line 7. ")
    assert "secret" not in message


@pytest.mark.parametrize("prefix", ["", "async "])
@pytest.mark.parametrize("statement", ["raise KeyError(query)", "json.loads(query)", "1 / 0", "raise SystemExit(3)"])
async def test_failure_names_the_users_own_line(prefix: str, statement: str, folder: Path) -> None:
    function = function_of(folder, f"import json\n{prefix}def score(query, **_):\n    {statement}\n")
    with pytest.raises(RewardError) as caught:
        await function.score(ANSWERED)
    assert f"in {folder / MODULE}.py, line 3, for rows.jsonl, line 7" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def score(query, answer):\n    return 1\n", "must take the arguments query, answer, reference, kind"),
        ("def score(query, answer, reference, kind, more):\n    return 1\n", "must take the arguments"),
        ("def other(**_):\n    return 1\n", "cannot be imported"),
        ("score = 0.5\n", "is not a function, but float. Name a function"),
        ("def score(:\n", "SyntaxError in"),
        ("score = missing\n", "NameError in"),
        ("import a_module_that_is_missing\n", "cannot be imported"),
        ("raise SystemExit\n", "SystemExit in"),
    ],
)
def test_module_that_cannot_be_used_is_an_error_at_the_start(code: str, reason: str, folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        function_of(folder, code)
    assert reason in str(caught.value)
    assert f"[reward] {MODULE}:score" in str(caught.value)


async def test_class_with_a_call_method_and_a_function_of_any_keywords_are_functions(folder: Path) -> None:
    code = "class Score:\n    def __call__(self, **row):\n        return len(row) // 4\nscore = Score()\n"
    value: Any = await function_of(folder, code).score(ANSWERED)
    assert value.value == pytest.approx(1.0)


async def test_task_that_the_users_code_cancelled_fails_the_row_alone(folder: Path) -> None:
    code = (
        "import asyncio\nasync def score(**_):\n    task = asyncio.ensure_future(asyncio.sleep(9))\n"
        "    task.cancel()\n    await task\n"
    )
    with pytest.raises(RewardError, match="CancelledError in"):
        await function_of(folder, code).score(ANSWERED)


async def test_run_that_ends_cancels_the_users_code(folder: Path) -> None:
    code = "import asyncio\nasync def score(**_):\n    await asyncio.sleep(99)\n"
    task = asyncio.create_task(function_of(folder, code).score(ANSWERED))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
