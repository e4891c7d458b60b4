"""Cuts answers at the stop strings that the backend did not get, because they exceed the backend's limit.

OpenAI's reference allows "up to 4 sequences", and vLLM accepts no more. A prompt layout needs four stop strings, and a
client may send four more. The backend does not know of the cut and continues to generate. The reported usage therefore
includes the tokens after the cut, which the client does not get. The module does no I/O and does not depend on
backends.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.core.json_types import JsonDict


def split_stop_strings(
    layout: Sequence[str], client: Sequence[str], limit: int | None
) -> tuple[list[str], tuple[str, ...]]:
    """Divide the stop strings between the backend and the proxy.

    The strings have this order: the first half of the layout's strings, the client's strings, the second half of the
    layout's strings. The backend gets the first of them, up to its limit, and the proxy searches for the remaining
    strings. If the client's strings alone exceed the limit, the backend gets all strings, and answers with its own
    error.

    Args:
        layout: The stop strings of the prompt layout, the most important first.
        client: The stop strings of the request.
        limit: The maximum number of stop strings that the backend accepts in a request; None if there is no maximum.

    Returns:
        The strings for the backend and the strings for the proxy.
    """
    if limit is None or len(client) > limit:
        return [*layout, *client], ()
    half = len(layout) // 2
    ordered = [*layout[:half], *client, *layout[half:]]
    return ordered[:limit], tuple(ordered[limit:])


def cut_completion(completion: Mapping[str, Any], stops: Sequence[str]) -> JsonDict:
    """Return a completion in which each choice ends before its first stop string."""
    choices = [_cut_choice(choice, stops) for choice in completion.get("choices") or ()]
    return {**completion, "choices": choices}


def _cut_choice(choice: Mapping[str, Any], stops: Sequence[str]) -> JsonDict:
    found = _first_stop(choice.get("text") or "", stops)
    return dict(choice) if found is None else _end_choice(choice, *found)


@dataclass(slots=True)
class StopCutter:
    """Cuts each choice of a stream before its first stop string.

    A part is the object of a choice in one chunk. A part whose text may be the beginning of a stop string is held back
    until later parts show whether the stop string is complete.

    Attributes:
        stops: The stop strings.
        held: The parts that are held back, by the index of the choice.
        ended: The indexes of the choices that were cut. Their later parts are dropped.
    """

    stops: Sequence[str]
    held: dict[int, list[JsonDict]] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    def cut(self, chunk: Mapping[str, Any]) -> JsonDict:
        """Return the chunk with all parts that can be sent now. The list of its choices may be empty."""
        choices = [ready for choice in chunk.get("choices") or () for ready in self._ready_parts(choice)]
        return {**chunk, "choices": choices}

    def _ready_parts(self, choice: Mapping[str, Any]) -> Iterator[JsonDict]:
        index = choice.get("index", 0)
        if index in self.ended:
            return
        parts = [*self.held.pop(index, ()), dict(choice)]
        text = "".join(part.get("text") or "" for part in parts)
        found = _first_stop(text, self.stops)
        if found is not None:
            self.ended.add(index)
            yield from _parts_before(parts, *found)
            return
        is_last = choice.get("finish_reason") is not None
        length = len(text) if is_last else len(text) - _possible_stop_length(text, self.stops)
        count = _parts_within(parts, length)
        yield from parts[:count]
        if parts[count:]:
            self.held[index] = parts[count:]


def _first_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Return where the first stop string begins, and the longest stop string that begins there.

    None if the text contains no stop string.
    """
    matches = [(position, -len(stop), stop) for stop in stops if stop and (position := text.find(stop)) >= 0]
    return (min(matches)[0], min(matches)[2]) if matches else None


def _possible_stop_length(text: str, stops: Sequence[str]) -> int:
    """Return how many characters at the end of a text may be the beginning of a stop string."""
    lengths = (length for stop in stops for length in range(1, len(stop)) if text.endswith(stop[:length]))
    return max(lengths, default=0)


def _parts_within(parts: Sequence[JsonDict], length: int) -> int:
    """Return how many parts lie completely within the first `length` characters of their joined text."""
    end = 0
    for number, part in enumerate(parts):
        end += len(part.get("text") or "")
        if end > length:
            return number
    return len(parts)


def _parts_before(parts: Sequence[JsonDict], position: int, stop: str) -> Iterator[JsonDict]:
    """Yield the parts before a position in their joined text. The last part is cut there and gets the finish reason."""
    for part in parts:
        length = len(part.get("text") or "")
        if length >= position:
            yield _end_choice(part, position, stop)
            return
        yield part
        position -= length


def _end_choice(choice: Mapping[str, Any], position: int, stop: str) -> JsonDict:
    """Return a copy of a choice that is cut at a position, as if the backend had found the stop string there."""
    cut = {**choice, "text": (choice.get("text") or "")[:position], "finish_reason": "stop"}
    if "stop_reason" in choice:
        cut["stop_reason"] = stop
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, dict) and isinstance(logprobs.get("tokens"), list):
        cut["logprobs"] = _first_logprobs(logprobs, _tokens_within(logprobs["tokens"], position))
    return cut


def _tokens_within(tokens: Sequence[str], length: int) -> int:
    return _parts_within([{"text": token} for token in tokens], length)


def _first_logprobs(logprobs: Mapping[str, Any], count: int) -> JsonDict:
    """Return the logprobs of the first `count` tokens. The logprobs of a completion are parallel lists."""
    return {name: value[:count] if isinstance(value, list) else value for name, value in logprobs.items()}
