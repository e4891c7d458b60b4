"""Stop strings beyond what a backend takes: the proxy ends the answer there itself. Knows completions only. Pure.

vLLM takes four, as OpenAI's reference says ("up to 4 sequences"); a layout needs four of its own, and a client may send
as many. What does not fit is looked for here. The backend goes on to its own end: usage stays true, tokens are lost.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.core.json_types import JsonDict


def divide(layout: Sequence[str], client: Sequence[str], most: int | None) -> tuple[list[str], tuple[str, ...]]:
    """(for the backend, for the proxy). layout: most needed first; most: how many the backend takes, None for any.

    The first half of the layout's goes before the client's, which go before the rest of the layout's. More strings from
    the client than the backend takes all go there, for its own error.
    """
    if most is None or len(client) > most:
        return [*layout, *client], ()
    half = len(layout) // 2
    wanted = [*layout[:half], *client, *layout[half:]]
    return wanted[:most], tuple(wanted[most:])


def cut_completion(completion: Mapping[str, Any], stops: Sequence[str]) -> JsonDict:
    """A whole completion, each choice cut at the first of `stops`."""
    choices = [_cut_choice(choice, stops) for choice in completion.get("choices") or ()]
    return {**completion, "choices": choices}


def _cut_choice(choice: Mapping[str, Any], stops: Sequence[str]) -> JsonDict:
    found = _first(choice.get("text") or "", stops)
    return dict(choice) if found is None else _ended(choice, *found)


@dataclass(slots=True)
class StopCutter:
    """The same for the chunks of a stream. What may begin a stop string is held back until it is known."""

    stops: Sequence[str]
    held: dict[int, list[JsonDict]] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    def cut(self, chunk: Mapping[str, Any]) -> JsonDict:
        """The chunk with the choices that may be shown now; perhaps none."""
        choices = [shown for choice in chunk.get("choices") or () for shown in self._shown(choice)]
        return {**chunk, "choices": choices}

    def _shown(self, choice: Mapping[str, Any]) -> Iterator[JsonDict]:
        index = choice.get("index", 0)
        if index in self.ended:
            return
        pieces = [*self.held.pop(index, ()), dict(choice)]
        text = "".join(piece.get("text") or "" for piece in pieces)
        found = _first(text, self.stops)
        if found is not None:
            self.ended.add(index)
            yield from _pieces_before(pieces, *found)
            return
        known = len(text) if choice.get("finish_reason") is not None else len(text) - _open_end(text, self.stops)
        shown = _fitting(pieces, known)
        yield from pieces[:shown]
        if pieces[shown:]:
            self.held[index] = pieces[shown:]


def _first(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Where the first stop string begins, and which it is; the longest where several begin there."""
    places = [(place, -len(stop), stop) for stop in stops if stop and (place := text.find(stop)) >= 0]
    return (min(places)[0], min(places)[2]) if places else None


def _open_end(text: str, stops: Sequence[str]) -> int:
    """How many last characters of `text` may be the beginning of a stop string."""
    ends = (length for stop in stops for length in range(1, len(stop)) if text.endswith(stop[:length]))
    return max(ends, default=0)


def _fitting(pieces: Sequence[JsonDict], length: int) -> int:
    """How many of the pieces lie within the first `length` characters."""
    end = 0
    for number, piece in enumerate(pieces):
        end += len(piece.get("text") or "")
        if end > length:
            return number
    return len(pieces)


def _pieces_before(pieces: Sequence[JsonDict], place: int, stop: str) -> Iterator[JsonDict]:
    """The pieces up to `place`, the last one cut there and said to be the last."""
    for piece in pieces:
        length = len(piece.get("text") or "")
        if length >= place:
            yield _ended(piece, place, stop)
            return
        yield piece
        place -= length


def _ended(choice: Mapping[str, Any], place: int, stop: str) -> JsonDict:
    """A choice whose text ends before `place`, because of `stop`."""
    cut = {**choice, "text": (choice.get("text") or "")[:place], "finish_reason": "stop"}
    if "stop_reason" in choice:
        cut["stop_reason"] = stop
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, dict) and isinstance(logprobs.get("tokens"), list):
        cut["logprobs"] = _first_tokens(logprobs, _tokens_within(logprobs["tokens"], place))
    return cut


def _tokens_within(tokens: Sequence[str], length: int) -> int:
    return _fitting([{"text": token} for token in tokens], length)


def _first_tokens(logprobs: Mapping[str, Any], count: int) -> JsonDict:
    """The parallel lists of a completion's logprobs, cut to `count` tokens."""
    return {name: value[:count] if isinstance(value, list) else value for name, value in logprobs.items()}
