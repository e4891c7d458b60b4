"""Defines the prompt and the examples that the proxy puts before the client's messages.

The injector (injector.py) chooses them. This module does not depend on token budgets or on retrieval.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from index.rendering import render_chat_turns
from index.types import Example


@dataclass(frozen=True, slots=True)
class Injection:
    """The prompt and the examples that the proxy puts before the client's messages.

    Attributes:
        bundle: The first 12 characters of the bundle id.
        prompt: The prompt of the chosen set or of the bundle; empty if the model's context has no room for it.
        examples: The examples, in the order in which they are in the prompt.
        tokens: The number of tokens of the prompt and the examples together.
        reduced: Why the request gets fewer examples than usual: reasons of proxy/inference/reduction.py, or `timeout`
            or `embedder` if retrieval failed. Empty if the request gets all of its examples.
        lacks_refusal: Whether the bundle has pinned refusals, but the request gets none of them.
        set_name: The name of the example set that the examples come from; empty if they come from no set.
        nearest: The ids of the examples that were chosen as nearest to the query, the most similar first.
        is_below_floor: Whether the query is unlike every example of the bundle (`RetrievalPolicy.similarity_floor`).
        headers: The `x-drpo-*` headers of the reply that describe the injection.
        turns: The examples as messages of a chat, encoded as JSON. Headers and turns are computed once, because many
            requests get the same injection from the cache.
    """

    bundle: str
    prompt: str = ""
    examples: tuple[Example, ...] = ()
    tokens: int = 0
    reduced: tuple[str, ...] = ()
    lacks_refusal: bool = False
    set_name: str = ""
    nearest: tuple[str, ...] = ()
    is_below_floor: bool = False
    headers: Mapping[str, str] = field(init=False, repr=False, compare=False)
    turns: tuple[orjson.Fragment, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        turns = [turn for example in self.examples for turn in render_chat_turns(example)]
        object.__setattr__(self, "headers", self._headers())  # the class is frozen
        object.__setattr__(self, "turns", tuple([orjson.Fragment(orjson.dumps(turn)) for turn in turns]))

    def _headers(self) -> Mapping[str, str]:
        headers = {"x-drpo-bundle": self.bundle, "x-drpo-examples": ",".join(one.id for one in self.examples)}
        if self.reduced:
            headers["x-drpo-reduced"] = ", ".join(self.reduced)
        if self.lacks_refusal:
            headers["x-drpo-refusal"] = "left-out"
        return headers
