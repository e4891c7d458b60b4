"""Decides which user turn of a conversation chooses the examples: the first turn, or a recent one.

A separate tag is a tag whose examples have sets of their own, such as `refusal`. Usually, the later turns keep the
examples of the first turn. The prompt of each request then begins with the prompt of the request before it, which the
prefix cache of the model server holds. But a turn that needs refusals as examples needs them at once. A turn that
clearly votes for a separate tag therefore chooses the examples for itself and for the two turns after it, which are
often about the same subject ("Explain it step by step."). After these turns, the first turn decides again, because a
model that sees refusals also refuses harmless turns. The choice depends only on the texts of the turns, so all
processes make the same choice without storing anything.
"""

from collections.abc import Sequence
from typing import Final

from index.retrieval.retriever import Retriever
from index.types import Message, Retrieved, Vectors

RECENT_TURNS: Final = 3
"""For how many turns a turn that votes for a separate tag decides: for itself and the two turns after it."""


def user_turns(messages: Sequence[Message]) -> tuple[str, ...]:
    """Return the texts of the user turns of a conversation, in their order."""
    return tuple([message.text for message in messages if message.role == "user"])


def turns_to_read(retriever: Retriever, turns: Sequence[str]) -> Sequence[str]:
    """Return the user turns that can choose the examples, in their order.

    These are the first turn and the last three. If the bundle has no set of a separate tag, only the first turn can
    choose the examples, so that the other turns need not be embedded.

    Args:
        retriever: Searches the bundle.
        turns: The texts of all user turns.
    """
    if not retriever.has_separate_tags:
        return turns[:1]
    return turns if len(turns) <= 1 + RECENT_TURNS else (turns[0], *turns[-RECENT_TURNS:])


def deciding_turn(turns: Sequence[Retrieved]) -> int:
    """Return the position of the turn whose examples the conversation gets.

    It is the last turn that votes for a separate tag. If there is no such turn, or if the first turn votes for the
    same kind, it is the first turn.

    Args:
        turns: What the retriever returned for each turn of `turns_to_read`. For a turn whose retrieval failed, it is an
            empty `Retrieved`.
    """
    for position in range(len(turns) - 1, 0, -1):
        if turns[position].separate_tag:
            return position if turns[position].separate_tag != turns[0].separate_tag else 0
    return 0


def choose_by_turns(retriever: Retriever, turns: Sequence[Vectors]) -> tuple[int, Retrieved]:
    """Return the position of the deciding turn, and the examples that it retrieves.

    Args:
        retriever: Searches the bundle.
        turns: For each turn that `turns_to_read` returned, one vector for each of its passages. There must be at least
            one turn.

    Raises:
        ValueError: As for `Retriever.choose_by_passages`.
    """
    found = [retriever.choose_by_passages(vectors) for vectors in turns]
    position = deciding_turn(found)
    return position, found[position]
