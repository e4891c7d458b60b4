"""Writes docs/benchmarks/drawn-answers.md from questions and answers. It asks no model.

Models can write any characters, so each text is escaped: Markdown and HTML in it are shown as plain characters.
"""

import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from index.measures.answer_form import ends_by_itself, repeated_share, word_count
from index.measures.confidence import Interval, bootstrap_mean, wilson
from index.measures.refusals import refuses
from optimizer.data.scrubbing.scrub import scrub
from proxy.fit.client import MAX_ANSWER_TOKENS
from proxy.fit.questions import Question
from tests.bench.drawn_answers.draw import SEED

PAGE: Final = Path(__file__).parents[3] / "docs" / "benchmarks" / "drawn-answers.md"
COMMAND: Final = "python -m tests.bench.drawn_answers --write"
MAX_SHOWN: Final = 300  # characters of an answer
HEADINGS: Final = {
    "general": "General questions",
    "sounds_harmful": "Questions that only sound harmful",
    "other_language": "Harmless questions in other languages",
    "harmful": "Harmful questions",
    "harmful_third_turn": "Conversations that become harmful in the third turn",
    "other_language_harmful": "Harmful questions in other languages",
}
_SPECIAL: Final = re.compile(r"[&<>|`*_\[\]{}~\\$@]|(?<=www)\.|:(?=//)")
_KEPT_CONTROLS: Final = "\u200c\u200d"  # the joiners, without which some scripts and emoji are shown wrongly
_WIDTH: Final = 120


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the model.

    Attributes:
        text: Its text.
        finish_reason: Why it ended, such as `stop` or `length`.
    """

    text: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A question with its two answers.

    Attributes:
        question: The question.
        aligned: The answer with the bundle.
        raw: The answer of the model alone.
    """

    question: Question
    aligned: Answer
    raw: Answer


def page(drawn: Sequence[Pair], chosen: Sequence[Pair], total: int, bundle: str, date: str) -> str:
    """Return the text of the page.

    Args:
        drawn: The questions that were drawn, in the order of the draw.
        chosen: The questions of the README.
        total: The number of questions from which they were drawn.
        bundle: The name of the bundle.
        date: The day of the measurement.
    """
    parts = [
        _beginning(len(drawn), total, bundle, date),
        _counts(drawn),
        _reading(),
        *_kinds(drawn),
        _of_readme(chosen),
    ]
    return "\n".join(parts)


def literal(text: str) -> str:
    """Return a text as one line of Markdown that a browser shows unchanged. The line may be in a table."""
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.splitlines())
    line = " ⏎ ".join(line for line in lines if line)
    visible = (one if _is_visible(one) or one in _KEPT_CONTROLS else "\ufffd" for one in line)
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", "".join(visible))


def shown(question: Question, answer: Answer, *, is_chosen: bool = False) -> str:
    """Return the table cell of an answer: its text, or a description if the text must not be published.

    Somebody has read the answers to chosen questions, so these are always shown unchanged.
    """
    end = "" if ends_by_itself(answer.finish_reason) else " *(until the limit)*"
    refused = refuses(answer.text)
    if question.is_harmful and not refused and not is_chosen:
        return f"*(not shown: no refusal, {word_count(answer.text)} words)*{end}"
    if not answer.text.strip():
        return f"*(empty)*{end}"
    text = answer.text.strip() if is_chosen else scrub([answer.text.strip()]).texts[0]
    more = f" ... *({len(text) - MAX_SHOWN} more characters)*" if len(text) > MAX_SHOWN else ""
    wrong = " *(wrong refusal)*" if refused and not question.is_harmful else ""
    return f"{literal(text[:MAX_SHOWN])}{more}{wrong}{end}"


def _is_visible(character: str) -> bool:
    return not unicodedata.category(character).startswith("C")


def _beginning(count: int, total: int, bundle: str, date: str) -> str:
    return _filled(
        f"# Measurements: {count} drawn questions and their answers",
        f"""google/gemma-3-270m (4-bit, embedded) answered {count} questions, each once with its default bundle
        (`{bundle}`) and once raw. The questions were drawn at random (seed {SEED}) from the {total} questions
        of [`drpo-proxy fit`](../fit.md). We wrote these questions, and no bundle contains them. All drawn questions are
        on this page, and nobody chose among the answers.""",
        f"""Measured on {date}: `{COMMAND}`. Sampling is greedy, and an answer has at most {MAX_ANSWER_TOKENS} tokens.
        The answers come from one run. *Raw* is the variant `raw`: the model gets only the question.""",
    )


def _reading() -> str:
    return _filled(
        "## How to read the tables",
        f"""The number of a question is its place in the draw. At most {MAX_SHOWN} characters of an answer are shown,
        and *(until the limit)* means that the model did not end it. ⏎ is a line break, and � a character that cannot be
        shown. Of a conversation, the last turn is shown.""",
        """**What is not shown.** We publish the harmful questions, because they are already part of drpo, and contain
        no knowledge. We publish an answer to a harmful question only if it is a refusal. This rule is the same for both
        columns. The counts include the answers that are not shown. A refusal is recognized by its words, as in
        [fit](../fit.md#what-is-measured), so an answer that begins like a refusal may still be wrong. The model
        makes up phone numbers and the like. [Rules](../harvest.md#what-is-scrubbed) replace them with placeholders.""",
    )


def _counts(drawn: Sequence[Pair]) -> str:
    harmful = [one for one in drawn if one.question.is_harmful]
    harmless = [one for one in drawn if not one.question.is_harmful]
    rows = [
        (f"ends by itself ({len(drawn)})", *_both(drawn, lambda one: _share(one, _ends))),
        (f"refuses a harmful question: right ({len(harmful)})", *_both(harmful, lambda one: _share(one, _refuses))),
        (f"refuses a harmless question: wrong ({len(harmless)})", *_both(harmless, lambda one: _share(one, _refuses))),
        (f"repeated 4-grams, mean ({len(drawn)})", *_both(drawn, _repetition)),
    ]
    brackets = "Brackets contain 95 % intervals. The number of questions is in parentheses.\n"
    return f"## Counts\n\n{brackets}\n{_table(('', 'with the bundle', 'raw'), rows)}"


def _both(pairs: Sequence[Pair], figure: Callable[[Sequence[Answer]], str]) -> tuple[str, str]:
    return figure([one.aligned for one in pairs]), figure([one.raw for one in pairs])


def _ends(answer: Answer) -> bool:
    return ends_by_itself(answer.finish_reason)


def _refuses(answer: Answer) -> bool:
    return refuses(answer.text)


def _share(answers: Sequence[Answer], has: Callable[[Answer], bool]) -> str:
    hits = sum(map(has, answers))
    return f"{hits} of {len(answers)}: {_interval(wilson(hits, len(answers)))}"


def _repetition(answers: Sequence[Answer]) -> str:
    return _interval(bootstrap_mean([repeated_share(one.text) for one in answers]))


def _interval(found: Interval) -> str:
    return f"{found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _kinds(drawn: Sequence[Pair]) -> Iterable[str]:
    for kind, heading in HEADINGS.items():
        numbered = [(number, one) for number, one in enumerate(drawn, start=1) if one.question.kind == kind]
        if numbered:
            yield f"## {heading} ({len(numbered)})\n\n{_answers(numbered)}"


def _of_readme(chosen: Sequence[Pair]) -> str:
    text = _filled(
        "## The questions of the README",
        f"""We chose the {len(chosen)} questions of the [README](../../README.md#try-it) by hand. They are not among the
        drawn questions, and the counts do not include them. They were asked in the same run. We read the
        answers to them, and show all of them, because none helps to harm anybody.""",
    )
    return f"{text}\n{_answers(enumerate(chosen, start=1), is_chosen=True)}"


def _answers(numbered: Iterable[tuple[int, Pair]], *, is_chosen: bool = False) -> str:
    rows = []
    for number, one in numbered:
        answers = [shown(one.question, answer, is_chosen=is_chosen) for answer in (one.aligned, one.raw)]
        rows.append((str(number), literal(one.question.messages[-1].text), *answers))
    return _table(("", "question", "with the bundle", "raw"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _filled(heading: str, *paragraphs: str) -> str:
    filled = (
        textwrap.fill(" ".join(one.split()), _WIDTH, break_on_hyphens=False, break_long_words=False)
        for one in paragraphs
    )
    return "\n\n".join([heading, *filled]) + "\n"
