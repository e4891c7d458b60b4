"""Decides how a request is repeated after a reply that cannot be read, and joins the parts of several replies.

A server gives the same reply to the same request if the temperature is 0. Such a request is therefore never repeated
unchanged. All functions are pure.
"""

from collections.abc import Sequence
from typing import Final

from optimizer.models.request import Json

UNPARSABLE: Final = "unparsable"
"""The key of a stored part that says why the reply could not be read."""
CUT: Final = "cut"
"""The key of a stored part that says that the reply was cut at the maximum number of tokens."""


def repeated_body(body: Json, reminder: str, attempt: int, *, is_cut: bool) -> Json | None:
    """Return the body of a request for its next attempt; None if another attempt cannot help.

    Args:
        body: The body of the first attempt.
        reminder: The text to append to the last message of a repeated request; may be empty.
        attempt: The number of the attempt, from 0.
        is_cut: Whether the last reply was cut. The caller then raises the maximum number of tokens, so that the body
            need not differ.
    """
    if attempt == 0 or is_cut:
        return body
    if reminder and body.get("messages"):
        *earlier, last = body["messages"]
        text = f"{last['content']}\n\n" + "\n\n".join([reminder] * attempt)
        return {**body, "messages": [*earlier, {**last, "content": text}]}
    is_deterministic = body.get("temperature") == 0 or "seed" in body
    return None if is_deterministic else body


def joined(parts: Sequence[Json]) -> Json:
    """Join the stored parts of replies that together answer one request: the lists of each key are concatenated.

    Parts that could not be read are left out. If no part could be read, the first part is returned.
    """
    readable = [part for part in parts if UNPARSABLE not in part]
    if len(readable) < 2:
        return readable[0] if readable else parts[0]
    return {name: [one for part in readable for one in part[name]] for name in readable[0]}
