"""The reward `MODULE:FUNCTION`: a Python function that the user wrote, plain or async."""

import importlib
import inspect
import traceback
from collections.abc import Callable
from typing import Any

from optimizer.core.errors import ConfigError
from optimizer.rewards.base import AnsweredRow, Reward, RewardScore


class Function(Reward):
    """Calls the user's function for each answer. The number that the function returns is the score."""

    def __init__(self, name: str) -> None:
        """Import the function. Raises ConfigError if this fails.

        Args:
            name: The names of the module and of the function in it: `MODULE:FUNCTION`.
        """
        module, _, attribute = name.partition(":")
        try:
            self._function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"[reward] {name}: cannot be imported: {error}") from None
        self._name = name

    async def score(self, answered: AnsweredRow) -> RewardScore:
        """Score an answer. Raises ConfigError if the function fails or does not return a number from 0 to 1."""
        row, text = answered.row, answered.reply.text
        try:
            result = self._function(query=row.query, answer=text, reference=row.reference, kind=row.kind)
            value = await result if inspect.isawaitable(result) else result
        except Exception as error:  # the user's code can raise any exception
            raise ConfigError(f"[reward] {self._name} failed: {_error_location(error)}") from error
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ConfigError(f"[reward] {self._name} must give a number from 0 to 1")
        return RewardScore(float(value))


def _error_location(error: Exception) -> str:
    """Return the type of an error and the line of code that raised it.

    The message of the error is left out, because it can contain the text of a query.
    """
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {last.filename}, line {last.lineno}"
