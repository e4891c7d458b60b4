"""The reward `MODULE:FUNCTION`: a Python function that the user wrote, plain or async."""

import asyncio
import importlib
import inspect
import numbers
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, SupportsFloat, SupportsIndex

from optimizer.core.errors import ConfigError, RewardError
from optimizer.data.dataset import Row
from optimizer.rewards.base import AnsweredRow, Reward, RewardScore

_ARGUMENTS: Final = ("query", "answer", "reference", "kind")
_MAX_EXCESS: Final = 1e-3
"""The largest distance from the range 0 to 1 that counts as a rounding error. float16 makes such errors near 1."""


class Function(Reward):
    """Calls the user's function for each answer. The number that the function returns is the score."""

    def __init__(self, name: str) -> None:
        """Import the function.

        Args:
            name: The names of the module and of the function in it: `MODULE:FUNCTION`.

        Raises:
            ConfigError: The function cannot be imported, or does not take the four keyword arguments.
        """
        self._name = name
        self._function = _import_function(name)
        self._file = _source_file(self._function)

    async def score(self, answered: AnsweredRow) -> RewardScore:
        """Score an answer.

        Raises:
            RewardError: The function fails, or does not return a number from 0 to 1.
        """
        row, text = answered.row, answered.reply.text
        try:
            result = self._function(query=row.query, answer=text, reference=row.reference, kind=row.kind)
            value = await result if inspect.isawaitable(result) else result
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # the user's code can raise any exception
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # the run ends: it was not the user's code that was cancelled
            location = _error_location(error, self._file)
            raise RewardError(f"[reward] {self._name} failed: {location}, for {row.name}") from error
        return RewardScore(self._number(value, row))

    def _number(self, value: object, row: Row) -> float:
        """Return any real number as a score: int, bool, Decimal, Fraction, or a scalar of NumPy or PyTorch."""
        number = _as_float(value)
        if number is None or not -_MAX_EXCESS <= number <= 1 + _MAX_EXCESS:
            returned = type(value).__name__ if number is None else f"{number:g}"
            raise RewardError(
                f"[reward] {self._name} returned {returned} for {row.name}. It must return a number from 0 to 1"
            )
        return min(1.0, max(0.0, number))


def _import_function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        function: object = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"[reward] {name} cannot be imported: {error}. Correct the name or the module") from None
    except (Exception, SystemExit) as error:  # the user's module can raise any exception
        raise ConfigError(f"[reward] {name} cannot be imported: {_error_location(error, None)}") from error
    if not callable(function):
        raise ConfigError(f"[reward] {name} is not a function, but {type(function).__name__}. Name a function")
    try:
        inspect.signature(function).bind(**dict.fromkeys(_ARGUMENTS))
    except TypeError as error:
        raise ConfigError(f"[reward] {name} must take the arguments {', '.join(_ARGUMENTS)} ({error})") from None
    except ValueError:
        pass  # a function in C may have no signature that Python can read
    return function


def module_file(name: str) -> Path | None:
    """Return the file of the module that `MODULE:FUNCTION` names; None if there is no such file."""
    module = importlib.import_module(name.partition(":")[0])
    return Path(module.__file__) if module.__file__ else None


def _source_file(function: Callable[..., Any]) -> str | None:
    try:
        return inspect.getsourcefile(function)
    except TypeError:
        return None


def _as_float(value: object) -> float | None:
    """Return a real number as a float; None if the value is not a real number."""
    is_complex = isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real)
    # numpy.str_ and NumPy's complex numbers have the method __float__ too, so their types are excluded here.
    if is_complex or isinstance(value, str | bytes) or not isinstance(value, SupportsFloat | SupportsIndex):
        return None
    try:
        return float(value)
    except Exception:  # noqa: BLE001 - an array of several numbers raises an exception of its own library
        return None


def _error_location(error: BaseException, file: str | None) -> str:
    """Return the type of an error and the line of code that raised it.

    If the error passed through `file`, the line is the innermost one in `file`. The message of the error is left out,
    because it can contain the text of a query.
    """
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__} in {error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    last = next((frame for frame in reversed(frames) if frame.filename == file), frames[-1])
    return f"{type(error).__name__} in {last.filename}, line {last.lineno}"
