"""Defines the layouts in which a conversation is written as one text for a base model: markers, escapes, stop strings.

Each turn begins with a marker at the beginning of a line. If a line of the prompt or of a turn's text begins with a
marker, U+200B is inserted after the line's first character. The text of a prompt or turn can therefore never look like
a new turn. This module does not depend on bundles or models; `index.rendering` writes the text.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, product
from types import MappingProxyType

from index.control_tokens import find_control_token
from index.errors import LayoutError
from index.types import Role

ZERO_WIDTH_SPACE = "\u200b"
SEPARATOR = "\n\n"
# Every character that str.splitlines treats as the end of a line. A model may treat each of them as a line break too.
_LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


@dataclass(frozen=True, slots=True)
class TextLayout:
    """How a conversation is written as one text.

    Attributes:
        name: The name of the layout in a bundle's manifest.
        system: The marker at the beginning of a system turn.
        user: The marker at the beginning of a user turn.
        assistant: The marker at the beginning of an assistant turn.
        gap: The text between a marker and the text of its turn: a line break or one space.
        answer_begins_with_gap: If true, the rendered text ends with the assistant marker, and the model writes the gap,
            which `TextPrompt.clean` removes. If false, the rendered text ends with the gap. A gap of one space must be
            written by the model, because the token of a word often includes the space before the word.
        heading: The text before the system prompt of the bundle.
        later_example_user: The marker of the query of each example after the first. If empty, `user` is used.
        example_assistant: The marker of the answer of each example. If empty, `assistant` is used.
        end: The text that ends a finished assistant turn.
        stops: The stop strings. If empty, they are made from the markers.
        fence: The line before and after the text of each turn; empty if there is none. `gap` ends with this line. A
            fence is not one of the markers, because code in a text contains such lines too. A line of a text can
            therefore look like the closing fence of the text, but never like the beginning of the next turn.
        markers: The strings with which no line of a text may begin: every line of every marker, of `heading` and of
            `end`.
    """

    name: str
    system: str
    user: str
    assistant: str
    gap: str
    answer_begins_with_gap: bool
    heading: str = ""
    later_example_user: str = ""
    example_assistant: str = ""
    end: str = ""
    stops: tuple[str, ...] = ()
    fence: str = ""
    markers: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        texts = (self.user, self.assistant, self.system, self.later_example_user, self.example_assistant, self.end)
        lines = dict.fromkeys(line for text in (*texts, self.heading) for line in text.split("\n") if line)
        object.__setattr__(self, "markers", tuple(lines))  # the class is frozen

    def marker(self, role: Role) -> str:
        """Return the marker that begins a turn of `role`.

        Raises:
            LayoutError: The layout has no such role.
        """
        if role == "user":
            return self.user
        if role == "assistant":
            return self.assistant
        if role == "system":
            return self.system
        raise LayoutError(f"the layout {self.name} knows the roles system, user and assistant. Use one of these")


LAYOUTS: Mapping[str, TextLayout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            TextLayout("query-answer", "# Instructions:", "# Query:", "# Answer:", "\n", answer_begins_with_gap=False),
            TextLayout("user-assistant", "System:", "User:", "Assistant:", " ", answer_begins_with_gap=True),
            TextLayout(  # the layout of DRPO's authors, with their spelling of the markers in examples
                "drpo",
                system="# instructions",
                user="# Query:",
                assistant="# Answer:\n<START>",
                gap="\n",
                answer_begins_with_gap=True,
                heading="# instructions\n\n",
                later_example_user="#Query:",
                example_assistant="#Answer:\n<START>",
                end="\n<END>",
                stops=("<END>", "<END", "<|eot_id|>"),
            ),
            TextLayout(  # the layout of URIAL's authors; they have no system turns
                "urial",
                system="# Instruction:",
                user="# Query:",
                assistant="# Answer:",
                gap="\n```\n",
                answer_begins_with_gap=False,
                fence="```",
            ),
        )
    }
)


_MARKERS = tuple(dict.fromkeys(marker for one in LAYOUTS.values() for marker in one.markers))


@cache
def _marker_at_line_start(layout: TextLayout) -> re.Pattern[str]:
    choices = "|".join(map(re.escape, layout.markers))
    return re.compile(rf"(?:\A|(?<=[{_LINE_BREAKS}]))(?:{choices})")


def escape(layout: TextLayout, text: str) -> str:
    """Return `text` with U+200B after the first character of every line that begins with a marker."""
    for marker in layout.markers:
        if marker in text:
            return _marker_at_line_start(layout).sub(lambda found: found[0][0] + ZERO_WIDTH_SPACE + found[0][1:], text)
    return text  # the usual case; a search with the regular expression would take twenty times as long


def find_marker(text: str) -> str | None:
    """Return a marker that begins a line of `text`, or a control token of a chat template; None if there is neither."""
    if any(marker in text for marker in _MARKERS):  # a search with the regular expressions would take longer
        for pattern in map(_marker_at_line_start, LAYOUTS.values()):
            if found := pattern.search(text):
                return found[0]
    return find_control_token(text)


@cache
def stop_strings(layout: TextLayout) -> tuple[str, ...]:
    """Return the stop strings of a layout: its own, or else one for each marker, the user's marker first.

    After its answer, a base model may write the next turn, with any marker of the layout. A stop string is the text
    that the layout writes between an answer and the text of the next turn: a blank line, the marker, and the line break
    after it. A line of the answer that continues after the marker, such as the comment `# Query: all orders` in a
    program, therefore does not end the answer. If the gap of the layout is a space, the stop string ends with the
    marker, because the model may write the space in the same token as the next word. Stop strings do not begin with the
    fence that ends the answer, because a model may forget the fence. They have no second form that begins with the
    fence, because servers accept only few stop strings.
    """
    if layout.stops:
        return layout.stops
    line_end = layout.gap[:1].strip(" ")
    return tuple(f"{SEPARATOR}{marker}{line_end}" for marker in (layout.user, layout.assistant, layout.system))


@cache
def _layout_of(stops: tuple[str, ...]) -> TextLayout | None:
    """Return the layout that has these stop strings; None if no layout has them."""
    return next((one for one in LAYOUTS.values() if stop_strings(one) == stops), None)


@cache
def _stops_with_carriage_returns(stops: tuple[str, ...]) -> tuple[str, ...]:
    """Return the stop strings of a layout, and their forms in the answer of a model whose line breaks are CR LF.

    Such a model may also write LF, because it sees LF in the prompt.
    """
    return tuple(variant for stop in stops for variant in _line_break_variants(stop))


def _line_break_variants(stop: str) -> Iterator[str]:
    parts = stop.split("\n")
    for breaks in product(("\n", "\r\n"), repeat=len(parts) - 1):
        yield "".join(chain.from_iterable(zip(parts, (*breaks, ""), strict=True)))


def possible_stops(text: str, stops: tuple[str, ...]) -> tuple[str, ...]:
    """Return the stop strings of a layout, with their CR LF forms if a text contains a CR."""
    return _stops_with_carriage_returns(stops) if "\r" in text else stops


def layout_stop(text: str, stops: tuple[str, ...]) -> tuple[int, str] | None:
    """Return where the first stop string of a layout begins in a text, and this stop string; None if there is none.

    The line breaks of the text may be CR LF.
    """
    return first_stop(text, possible_stops(text, stops))


@cache
def marker_rests(stops: tuple[str, ...]) -> tuple[str, ...]:
    """Return each marker of a layout without its first character: the text that follows the U+200B of an escape.

    Args:
        stops: The stop strings of the layout. They identify the layout.
    """
    layout = _layout_of(stops)
    return tuple(marker[1:] for marker in (layout.markers if layout else [stop.strip("\n") for stop in stops]))


@cache
def escaped_markers(stops: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern that matches each U+200B that the rest of a marker of a layout follows (as a look-ahead).

    Args:
        stops: The stop strings of the layout. They identify the layout.
    """
    return re.compile(f"{ZERO_WIDTH_SPACE}(?={'|'.join(map(re.escape, marker_rests(stops)))})")


@cache
def fence_of(stops: tuple[str, ...]) -> str:
    """Return the fence of a layout; an empty text if it has none.

    Args:
        stops: The stop strings of the layout. They identify the layout.
    """
    layout = _layout_of(stops)
    return layout.fence if layout else ""


def count_fences(text: str, stops: tuple[str, ...], end: int | None = None) -> int:
    """Return how many lines of a text begin with the fence of a layout. The first line does not count.

    Args:
        text: The text.
        stops: The stop strings of the layout. They identify the layout.
        end: If given, a line counts only if the line break before it is one of the first `end` characters.
    """
    fence = fence_of(stops)
    return text.count(f"\n{fence}", 0, None if end is None else end + len(fence)) if fence else 0


@cache
def fenced_stops(stops: tuple[str, ...]) -> tuple[str, ...]:
    """Return the stop strings of a layout. If it has a fence, the result also has each of them after the fence."""
    fence = fence_of(stops)
    return (*stops, *(f"\n{fence}{stop}" for stop in stops)) if fence else stops


def find_end_fence(text: str, stops: tuple[str, ...], earlier: int = 0, max_breaks: int = 2) -> int | None:
    """Return the position of the line break before the fence that ends an answer; None if no fence ends it.

    A model may write such a fence and then end its answer, because the answers of the examples end with a fence. But
    the last fence of an answer can also end a block of code. A block of code has two fences, and the fence that begins
    the answer is in the prompt. So if the number of fences in the answer is odd, the last one ends the answer. If it is
    even, the last one ends a block of code.

    Args:
        text: The answer, or the end of it.
        stops: The stop strings of the layout. They identify the layout.
        earlier: The number of fences in the answer before `text`.
        max_breaks: The maximum number of line breaks after the fence.
    """
    if (earlier + count_fences(text, stops)) % 2 == 0:
        return None
    found = re.search(rf"\r?\n{re.escape(fence_of(stops))}(?:\r?\n){{0,{max_breaks}}}\Z", text)
    return found.start() if found else None


def answer_end(text: str, stop: tuple[int, str] | None, stops: tuple[str, ...], fences: int = 0) -> int | None:
    """Return where an answer ends: at the fence that ends it, or else at its stop string; None if it has neither.

    Args:
        text: The answer, or the end of it.
        stop: Where the first stop string of the layout begins, and the stop string; None if there is none.
        stops: The stop strings of the layout. They identify the layout.
        fences: The number of fences in the answer before `text`.
    """
    if stop is None:
        return find_end_fence(text, stops, fences)
    fence = find_end_fence(text[: stop[0]], stops, fences, max_breaks=0)
    return stop[0] if fence is None else fence


def unescape(text: str, stops: tuple[str, ...]) -> str:
    """Return an answer without the U+200B in markers that the model copied from an escaped text of the prompt."""
    return escaped_markers(stops).sub("", text) if stops and ZERO_WIDTH_SPACE in text else text


def marker_at_end(text: str, stops: tuple[str, ...]) -> tuple[int, str] | None:
    """Return where a stop string that lacks only its last line break ends a text, and this string; else None."""
    markers = [stop.rstrip("\r\n") for stop in possible_stops(text, stops)]
    return min([(text.rindex(one), one) for one in markers if text.endswith((one, f"{one}\r"))], default=None)


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Return where the first stop string begins, and the longest stop string that begins there.

    None if the text contains no stop string. Empty stop strings are ignored.
    """
    matches = [(position, -len(stop), stop) for stop in stops if stop and (position := text.find(stop)) >= 0]
    return (min(matches)[0], min(matches)[2]) if matches else None
