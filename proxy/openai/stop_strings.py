"""Divides stop strings between backend and proxy, and cuts answers at stop strings that the backend did not cut at.

OpenAI's reference allows "up to 4 sequences", and vLLM accepts no more. A prompt layout needs three stop strings, and a
client may send four more. The backend therefore does not get all of them. An answer can contain even a stop string that
the backend got. Some backends ignore stop strings, `include_stop_str_in_output` keeps them, and the first `min_tokens`
tokens are not checked for them. The proxy cuts each answer at the layout's stop strings, so that no marker reaches the
client. The backend does not know of the cut and continues to generate. The reported usage therefore includes the tokens
after the cut, which the client does not get. A model may also copy a marker that the proxy escaped in the prompt with a
U+200B. The proxy removes this U+200B from the answer. The module does no I/O and does not depend on backends.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import orjson

from index.layouts import (
    ZERO_WIDTH_SPACE,
    answer_end,
    count_fences,
    escaped_markers,
    fenced_stops,
    first_stop,
    layout_stop,
    marker_at_end,
    marker_rests,
    possible_stops,
    unescape,
)
from proxy.core.json_types import JsonDict
from proxy.openai.backend_reply import has_finished

_MAX_CACHED_RULES: Final = 128
_ZERO_WIDTH_SPACE: Final = ZERO_WIDTH_SPACE.encode()
_ESCAPE: Final = b"\\u"  # the beginning of an escape sequence, which may encode any character of a JSON string


@dataclass(frozen=True, slots=True)
class StopRules:
    """The stop strings at which the proxy ends an answer.

    Attributes:
        layout: The stop strings of the prompt layout. They and the text after them are removed from the answer.
        client: The client's stop strings that the backend did not get.
        include_client: Whether an answer includes the client's stop string that ended it. The client asks for this with
            the field `include_stop_str_in_output` of vLLM.
        before: The line breaks at the end of the prompt. They count as the beginning of the answer in the search for
            stop strings. A marker at the beginning of the answer is therefore found, and the answer becomes empty.
    """

    layout: tuple[str, ...]
    client: tuple[str, ...] = ()
    include_client: bool = False
    before: str = ""


def split_stop_strings(
    layout: Sequence[str], client: Sequence[str], limit: int | None
) -> tuple[list[str], tuple[str, ...]]:
    """Divide the stop strings between the backend and the proxy.

    The strings have this order: the first of the layout's strings, the client's strings, the other strings of the
    layout. The backend gets the first of them, up to its limit. If the client's strings alone exceed the limit, the
    backend gets all strings, and answers with its own error.

    Args:
        layout: The stop strings of the prompt layout, the most important first.
        client: The stop strings of the request.
        limit: The maximum number of stop strings that the backend accepts in a request; None if there is no maximum.

    Returns:
        The strings for the backend, and the client's strings that the backend does not get.
    """
    if limit is None or len(client) > limit:
        return [*layout, *client], ()
    ordered = [*layout[:1], *client, *layout[1:]]
    sent = ordered[:limit]
    return sent, tuple(stop for stop in client if stop not in sent)


def cut_completion(completion: Mapping[str, Any], rules: StopRules) -> JsonDict:
    """Return a completion, which `checked_choices` has checked, with each choice cut at its first stop string."""
    return {**completion, "choices": [_cut_choice(choice, rules) for choice in completion["choices"]]}


def _cut_choice(choice: JsonDict, rules: StopRules) -> JsonDict:
    text = _text(choice)
    found = _find_end(text, rules, rules.before, 0, is_whole=True)
    cut = _without_layout_reason(choice, rules) if found is None else _end_choice(choice, *found)
    return {**cut, "text": unescape(_text(cut), rules.layout)} if ZERO_WIDTH_SPACE in text else cut


def _text(choice: Mapping[str, Any]) -> str:
    text = choice.get("text")
    return text if isinstance(text, str) else ""


def _find_end(
    text: str, rules: StopRules, before: str, fences: int, *, is_whole: bool
) -> tuple[int, str | None] | None:
    """Return the length of the answer in a text, and the client's stop string that ended it.

    The stop string is None if a stop string of the layout ended the answer. The result is None if no string did.

    Args:
        text: The text, or the beginning of the text.
        rules: The stop strings.
        before: Line breaks that count as if they stood before the text.
        fences: The number of code fences in the part of the answer before the text.
        is_whole: Whether no text follows. A marker at the very end then counts without the line break that normally
            follows it.
    """
    end = _layout_end(before + text, rules.layout, fences, is_whole=is_whole)
    found = first_stop(text, rules.client) if rules.client else None
    if end is not None and (found is None or end - len(before) <= found[0]):
        return max(0, end - len(before)), None
    if found is None:
        return None
    position, stop = found
    return (position + len(stop) if rules.include_client else position), stop


def _layout_end(text: str, stops: tuple[str, ...], fences: int, *, is_whole: bool) -> int | None:
    found = layout_stop(text, stops)
    if found is None and is_whole:
        found = marker_at_end(text, stops)
    return None if found is None and not is_whole else answer_end(text, found, stops, fences)


def _without_layout_reason(choice: JsonDict, rules: StopRules) -> JsonDict:
    """Return the choice without a `stop_reason` that is a stop string of the layout, which the client does not know."""
    return {**choice, "stop_reason": None} if choice.get("stop_reason") in rules.layout else choice


@dataclass(slots=True)
class StopCutter:
    """Cuts each choice of a stream at its first stop string.

    A part is one element of the list `choices` of a chunk. A part whose text may be the beginning of a stop string is
    held back until later parts show whether the stop string is complete.

    Attributes:
        rules: The stop strings.
        held: The parts that are held back, by the index of the choice.
        ended: The indexes of the choices that were cut. Their later parts are dropped.
        begun: The indexes of the choices that have returned some text.
        fences: The number of code fences in the text that was returned, by the index of the choice.
        first_characters: Finds the first character of each stop string in a serialized event.
    """

    rules: StopRules
    held: dict[int, list[JsonDict]] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    begun: set[int] = field(default_factory=set)
    fences: Counter[int] = field(default_factory=Counter)
    first_characters: re.Pattern[bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.first_characters = _first_characters(self.rules)

    def has_begun(self, choices: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether some text of each of these choices was returned. Before that, `cut` must see each chunk."""
        return not self.rules.before or all(choice.get("index", 0) in self.begun for choice in choices)

    def passes(self, event: bytes) -> bool:
        """Return True if `cut` would not change the chunk of an event. The event is not parsed.

        True means that no part is held back, no choice was cut, and that the event does not contain the first character
        of a stop string, nor the U+200B of an escaped marker. Most events of a stream have no line break in their text,
        and pass.
        """
        return (
            not self.held
            and not self.ended
            and self.first_characters.search(event) is None
            and _ZERO_WIDTH_SPACE not in event
        )

    def cut(self, chunk: Mapping[str, Any]) -> JsonDict:
        """Return the chunk with all parts that can be sent now. The list of its choices may be empty.

        `checked_choices` has checked the chunk.
        """
        return {**chunk, "choices": [ready for choice in chunk["choices"] for ready in self._ready_parts(choice)]}

    def release(self) -> list[JsonDict]:
        """Return the parts that are still held back at the end of a stream, cut at a stop string in them."""
        released = [part for index, parts in self.held.items() for part in self._whole_parts(index, parts)]
        self.held.clear()
        return released

    def _whole_parts(self, index: int, parts: Sequence[JsonDict]) -> Iterable[JsonDict]:
        before = "" if index in self.begun else self.rules.before
        text = "".join(map(_text, parts))
        found = _find_end(text, self.rules, before, self.fences[index], is_whole=True)
        return _unescaped(parts if found is None else [*_parts_before(parts, *found)], text, self.rules)

    def _ready_parts(self, choice: JsonDict) -> Iterator[JsonDict]:
        index = choice.get("index", 0)
        if index in self.ended:
            return
        parts = [*self.held.pop(index, ()), _without_layout_reason(choice, self.rules)]
        text = "".join(map(_text, parts))
        is_last = has_finished(choice)
        before = "" if index in self.begun else self.rules.before
        found = _find_end(text, self.rules, before, self.fences[index], is_whole=is_last)
        if found is not None:
            self.ended.add(index)
            yield from _unescaped([*_parts_before(parts, *found)], text, self.rules)
            return
        held = 0 if is_last else min(len(text), _possible_stop_length(before + text, self.rules))
        count = _parts_within(parts, len(text) - held)
        if any(map(_text, parts[:count])):
            self.begun.add(index)
            end = len(before) + sum(map(len, map(_text, parts[:count])))
            self.fences[index] += count_fences(before + text, self.rules.layout, end)
        yield from _unescaped(parts[:count], text, self.rules)
        if parts[count:]:
            self.held[index] = parts[count:]


@lru_cache(maxsize=_MAX_CACHED_RULES)
def _first_characters(rules: StopRules) -> re.Pattern[bytes]:
    """Return a pattern that finds the first character of each stop string in a serialized event."""
    written = ("\r",) if rules.layout else ()  # a line break may be CR LF
    first = {orjson.dumps(stop[0])[1:-1] for stop in (*rules.layout, *rules.client, *written) if stop}
    return re.compile(b"|".join(map(re.escape, sorted({*first, _ESCAPE}))))


def _possible_stop_length(text: str, rules: StopRules) -> int:
    """Return how many characters at the end of a text may be the beginning of a stop string."""
    stops = (*possible_stops(text, fenced_stops(rules.layout)), *rules.client)
    if ZERO_WIDTH_SPACE in text:
        stops += tuple(ZERO_WIDTH_SPACE + rest for rest in marker_rests(rules.layout))
    lengths = (length for stop in stops for length in range(1, len(stop)) if text.endswith(stop[:length]))
    return max(lengths, default=0)


def _unescaped(parts: Sequence[JsonDict], text: str, rules: StopRules) -> Sequence[JsonDict]:
    """Return parts without the U+200B of escaped markers.

    Args:
        parts: The first parts of a text.
        text: The text.
        rules: The stop strings.
    """
    if ZERO_WIDTH_SPACE not in text or not rules.layout:
        return parts
    places, kept, end = [found.start() for found in escaped_markers(rules.layout).finditer(text)], [], 0
    for part in parts:
        start, end = end, end + len(_text(part))
        inside = {place - start for place in places if start <= place < end}
        written = "".join(character for place, character in enumerate(_text(part)) if place not in inside)
        kept.append({**part, "text": written} if inside else part)
    return kept


def _parts_within(parts: Sequence[JsonDict], length: int) -> int:
    """Return how many parts lie completely within the first `length` characters of their joined text."""
    end = 0
    for number, part in enumerate(parts):
        end += len(_text(part))
        if end > length:
            return number
    return len(parts)


def _parts_before(parts: Sequence[JsonDict], position: int, stop: str | None) -> Iterator[JsonDict]:
    """Yield the parts before a position in their joined text. The last part is cut there and gets the finish reason."""
    for part in parts:
        length = len(_text(part))
        if length >= position:
            yield _end_choice(part, position, stop)
            return
        yield part
        position -= length


def _end_choice(choice: Mapping[str, Any], position: int, stop: str | None) -> JsonDict:
    """Return a copy of a choice that is cut at a position, as if the backend had found the stop string there."""
    cut = {**choice, "text": _text(choice)[:position], "finish_reason": "stop"}
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
