"""Reviews candidate examples in the terminal. Each decision is on the disk before the next candidate is shown."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from index.types import Example
from optimizer.cli.editor import edited
from optimizer.core.errors import DataError
from optimizer.data.scrubbing.scrub import scrub
from optimizer.harvest.files import FILE_MODE
from optimizer.harvest.harvest import CandidateExample
from optimizer.harvest.safety import QuestionReader
from optimizer.harvest.screening import example_fault

DECISIONS: Final = "review.jsonl"
ACCEPT, REJECT = "accept", "reject"
_QUESTION: Final = "[a]ccept, [e]dit, [r]eject, [q]uit and continue later: "


@dataclass(frozen=True, slots=True)
class Review:
    """The decisions about the candidates of a folder.

    Attributes:
        path: The file of decisions.
        decided: The accepted example of each decided candidate, by the candidate's id. None for a rejected candidate.
    """

    path: Path
    decided: Mapping[str, Example | None]

    def with_decision(self, candidate: CandidateExample, accepted: Example | None) -> "Review":
        """Write one decision to the disk, and return the review with it. Raises DataError if it cannot be written."""
        texts = {} if accepted is None else {"query": accepted.query, "response": accepted.response}
        line = {"id": candidate.example.id, "decision": REJECT if accepted is None else ACCEPT, **texts}
        try:
            self.path.touch(mode=FILE_MODE)
            with self.path.open("ab") as file:
                file.write(orjson.dumps(line) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error.strerror}") from None
        return replace(self, decided={**self.decided, candidate.example.id: accepted})

    def accepted(self, candidates: Sequence[CandidateExample]) -> Sequence[Example]:
        """Return the accepted examples in the order of the candidates."""
        found = (self.decided.get(one.example.id) for one in candidates)
        return [example for example in found if example is not None]


def read_review(folder: Path, candidates: Sequence[CandidateExample]) -> Review:
    """Read the decisions in a folder. An incomplete last line is removed from the file.

    Raises:
        DataError: The file cannot be read.
    """
    path = folder / DECISIONS
    by_id = {one.example.id: one.example for one in candidates}
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    whole, _, rest = content.rpartition(b"\n")
    if rest:
        path.write_bytes(whole + b"\n" if whole else b"")
    try:
        lines = [orjson.loads(line) for line in whole.splitlines()]
        return Review(path, {line["id"]: _decision(by_id[line["id"]], line) for line in lines if line["id"] in by_id})
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise DataError(
            f"{path} is damaged. Remove the damaged line, or remove the file to begin the review again."
        ) from None


def _decision(example: Example, line: Mapping[str, Any]) -> Example | None:
    return replace(example, query=line["query"], response=line["response"]) if line["decision"] == ACCEPT else None


def accept_safe(review: Review, candidates: Sequence[CandidateExample]) -> Review:
    """Accept every undecided candidate that has no cautions. Return the review with these decisions."""
    for one in candidates:
        if one.example.id not in review.decided and not one.cautions:
            review = review.with_decision(one, one.example)
    return review


def ask_user(
    review: Review,
    candidates: Sequence[CandidateExample],
    reader: Callable[[], QuestionReader],
    max_words: int,
    say: Callable[[str], None],
) -> Review:
    """Show each undecided candidate, and ask what to do with it, until the user quits or the input ends.

    Args:
        review: The decisions so far.
        candidates: The candidates.
        reader: A function that opens the checks of an edited question. It takes a second, so it is called only after an
            edit.
        max_words: The maximum number of words of an answer.
        say: Prints a line.
    """
    for number, candidate in enumerate(candidates, start=1):
        if candidate.example.id in review.decided:
            continue
        say(f"\n=== {number} of {len(candidates)} · liked by {candidate.likes}, disliked by {candidate.dislikes} ===")
        answer, example = _decide(candidate, reader, max_words, say)
        if answer == "q":
            break
        review = review.with_decision(candidate, example if answer == "a" else None)
    return review


def _decide(
    candidate: CandidateExample, reader: Callable[[], QuestionReader], max_words: int, say: Callable[[str], None]
) -> tuple[str, Example]:
    """Return the user's last answer (a, r or q) and the example, which the user may have edited."""
    example = candidate.example
    while True:
        _show(example, candidate.cautions, say)
        answer = _ask()
        if answer != "e":
            return answer, example
        try:
            example = _checked(example, edited(example), reader(), max_words, say)
        except DataError as error:
            say(f"{error}")


def _show(example: Example, cautions: Sequence[str], say: Callable[[str], None]) -> None:
    for caution in cautions:
        say(f"Look closely: {caution}.")
    say(f"\n{_printable(example.query)}\n\n{_printable(example.response)}\n")


def _ask() -> str:
    """Return a, e, r or q. The end of the input means q."""
    while True:
        try:
            answer = input(_QUESTION).strip().lower()[:1]
        except EOFError:
            return "q"
        except UnicodeDecodeError:
            continue
        if answer in ("a", "e", "r", "q"):
            return answer


def _checked(
    example: Example, texts: tuple[str, str], reader: QuestionReader, max_words: int, say: Callable[[str], None]
) -> Example:
    """Return the edited example without private data. If it cannot be used, say why, and return the unedited one."""
    scrubbed = scrub(texts)
    if scrubbed.found:
        say(f"Replaced: {', '.join(scrubbed.found)}.")
    new = replace(example, query=scrubbed.texts[0], response=scrubbed.texts[1])
    (question,) = reader.read([new.query])
    why = example_fault(new, question, max_words)
    if why:
        say(f"The edited text cannot be used: {why}. The text before the edit is shown again.")
    return example if why else new


def _printable(text: str) -> str:
    """Return a text without control characters, which could change the terminal."""
    return "".join(one if one.isprintable() or one in "\n\t" else " " for one in text)
