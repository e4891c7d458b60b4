"""Reads the questions of `drpo-proxy fit` from the package, or from a file of the user.

A file has one JSON object per line:

    {"kind": "general", "question": "Which day follows Thursday?"}
    {"kind": "harmful_third_turn", "id": "k7", "language": "en", "messages": [{"role": "user", "content": "..."}, ...]}
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from index.bundle.input_files import parse_lines
from index.bundle.strict_json import Fields, parse_json, without_nulls
from index.errors import BundleFormatError
from index.types import Message, Role
from proxy.core.errors import StartupError

SHIPPED: Final = Path(__file__).with_name("questions.jsonl")
HARMLESS_KINDS: Final = ("general", "sounds_harmful", "other_language")
HARMFUL_KINDS: Final = ("harmful", "harmful_third_turn", "other_language_harmful")
_ROLES: Final = ("system", "user", "assistant")
_MAX_FILE_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Question:
    """One question: a conversation whose last turn waits for an answer.

    Attributes:
        id: The name of the question, unique in its file.
        kind: One of HARMLESS_KINDS or HARMFUL_KINDS.
        language: The language of the last turn, as a tag such as `de`.
        messages: The turns, which end with a user turn.
    """

    id: str
    kind: str
    language: str
    messages: tuple[Message, ...]

    @property
    def is_harmful(self) -> bool:
        """Whether the right answer is a refusal."""
        return self.kind in HARMFUL_KINDS


def read_questions(path: Path) -> tuple[Question, ...]:
    """Read a file of questions.

    Raises:
        StartupError: The file cannot be read, a line is not a question, two questions have the same id, or the file has
            no question. The message names the file and the line.
    """
    location = f"--questions {path}"
    try:
        questions = tuple(question for _, question in parse_lines(_read(path), location, _parse_question))
    except OSError as error:
        raise StartupError(f"{location}: {error.strerror or 'cannot be read'}.") from error
    except BundleFormatError as error:
        raise StartupError(str(error)) from None
    if not questions:
        raise StartupError(f"{location}: the file has no question. Write one JSON object per line.")
    repeated, count = Counter(question.id for question in questions).most_common(1)[0]
    if count > 1:
        raise StartupError(f"{location}: {count} questions have the id {repeated}. Give each question its own id.")
    return questions


def mixed(questions: Sequence[Question], limit: int | None = None) -> tuple[Question, ...]:
    """Return the first `limit` questions of a mixed order, in which each beginning has all kinds in proportion.

    A run that is interrupted, or that has a limit, therefore still measures every kind.
    """
    sizes, seen = Counter(question.kind for question in questions), Counter[str]()
    ranked = []
    for question in questions:
        ranked.append(((seen[question.kind] + 0.5) / sizes[question.kind], question))
        seen[question.kind] += 1
    ranked.sort(key=lambda pair: pair[0])
    return tuple(question for _, question in ranked[:limit])


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise StartupError(f"--questions {path}: the file is larger than {_MAX_FILE_BYTES >> 20} MiB.")
    return data


def _parse_question(line: bytes, location: str) -> Question:
    record = without_nulls(parse_json(line, location))
    fields = Fields(record, location, ("kind",), ("id", "language", "question", "messages"))
    if ("question" in fields) == ("messages" in fields):
        raise BundleFormatError(f'{location}: give either "question" or "messages"')
    return Question(
        id=fields.line("id") if "id" in fields else location.rpartition(", ")[2],
        kind=fields.choice("kind", (*HARMLESS_KINDS, *HARMFUL_KINDS)),
        language=fields.line("language") if "language" in fields else "en",
        messages=_messages(fields, location),
    )


def _messages(fields: Fields, location: str) -> tuple[Message, ...]:
    if "question" in fields:
        return (Message("user", _not_blank(fields.text("question"), f'{location}: "question"')),)
    turns = fields.raw("messages")
    if not isinstance(turns, list) or not turns:
        raise BundleFormatError(f'{location}: "messages" must be a list of turns')
    messages = tuple(_turn(turn, f"{location}, turn {number}") for number, turn in enumerate(turns, start=1))
    if messages[-1].role != "user":
        raise BundleFormatError(f"{location}: the last turn must be of the role user, because a model answers it")
    return messages


def _turn(turn: object, location: str) -> Message:
    fields = Fields(turn, location, ("role", "content"))
    content = _not_blank(fields.text("content"), f'{location}: "content"')
    return Message(cast("Role", fields.choice("role", _ROLES)), content)


def _not_blank(text: str, location: str) -> str:
    if not text.strip():
        raise BundleFormatError(f"{location} is empty: write a text")
    return text


def wire_messages(question: Question) -> list[Mapping[str, str]]:
    """Return the turns of a question as the field `messages` of a chat request."""
    return [{"role": message.role, "content": message.text} for message in question.messages]
