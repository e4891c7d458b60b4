"""Decides from a model's answers which kind it is. The module only weighs answers: it sends no requests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from proxy.backends.kinds.answers import Answer
from proxy.core.settings import Kind

# The first words of reasoning without marks. The chat template of some models contains the mark that opens the
# reasoning, such as `<think>`, and an answer that is cut lacks the mark that closes it.
_THINKS_ALOUD: Final = ("okay", "ok,", "alright", "hmm", "the user", "we need", "we have", "let me", "let's", "i need")


@dataclass(frozen=True, slots=True)
class Decision:
    """The kind of a model, and why.

    Attributes:
        kind: The kind. None if it is not known yet: until it is known, the model cannot be served.
        evidence: The observations that led to the decision, as a sentence without a full stop.
        doubt: Why the kind may be wrong, as a sentence without a full stop; empty if there is no doubt.
        settled: Whether the decision is final. If not, the model is asked again later.
    """

    kind: Kind | None
    evidence: str
    doubt: str = ""
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Findings:
    """What a model answered.

    Attributes:
        chat: The answers to the short chat questions; empty if the server refused them.
        chat_refusal: Why the server refused chat; empty if it did not.
        completion: The answer to a text completion whose prompt has one of drpo's layouts; None if the server refused
            it, or if it was not asked for.
        completion_refusal: Why the server refused the completion; empty if it did not.
        long: The answer to one chat question with a larger maximum number of tokens; None if it was not asked for.
    """

    chat: Sequence[Answer] = ()
    chat_refusal: str = ""
    completion: Answer | None = None
    completion_refusal: str = ""
    long: Answer | None = None

    @property
    def chat_count(self) -> int:
        """The number of short answers that indicate a chat model."""
        return sum(answer.is_chat for answer in self.chat)

    @property
    def signs(self) -> list[str]:
        """The signs of a base model in the chat answers, in their order."""
        answers = [*self.chat, *([self.long] if self.long else [])]
        return [answer.sign for answer in answers if answer.sign]

    @property
    def is_clearly_chat(self) -> bool:
        """Whether every short answer indicates a chat model. Then no other question is necessary."""
        return bool(self.chat) and self.chat_count == len(self.chat)

    @property
    def needs_long_answer(self) -> bool:
        """Whether the short answers indicate no kind: none indicates a chat model or has a sign of a base model."""
        return bool(self.chat) and not self.chat_count and not self.signs and any(a.has_text for a in self.chat)


def decide(findings: Findings, reported: Kind | None) -> Decision:
    """Decide the kind of a model.

    Args:
        findings: What the model answered.
        reported: The kind that the server reports; None if it reports none.
    """
    if findings.chat_refusal:
        return _decide_without_chat(findings, reported)
    if findings.is_clearly_chat:
        return Decision("chat", _evidence(findings))
    if findings.completion is None:
        doubt = f"{_lacking(findings)}, but the server takes no text completions: {findings.completion_refusal}"
        return Decision("chat", _evidence(findings), doubt)
    return _weigh(findings)


def _decide_without_chat(findings: Findings, reported: Kind | None) -> Decision:
    if findings.completion is None:
        evidence = f"the server refuses chat ({findings.chat_refusal}) and completions ({findings.completion_refusal})"
        return Decision(reported or "chat", evidence, "the model generates no text, so only other endpoints can work")
    evidence = f"the server refuses chat ({findings.chat_refusal}) and takes text completions"
    return Decision("completion", evidence)


def _weigh(findings: Findings) -> Decision:
    """Decide the kind of a model if at least one of its short answers does not indicate a chat model."""
    evidence, lacking = _evidence(findings), _lacking(findings)
    if 2 * findings.chat_count > len(findings.chat):
        return Decision("chat", evidence, lacking)
    if findings.long is not None and findings.long.is_chat:
        return Decision("chat", evidence)
    completes = findings.completion is not None and findings.completion.ended and findings.completion.has_text
    if findings.signs:
        doubts = [] if completes else ["a text completion does not end by itself either"]
        doubts += [f"{_share(findings)} short chat answers end by themselves"] if findings.chat_count else []
        return Decision("completion", evidence, ", and ".join(doubts))
    if findings.chat_count or not completes or _thinks_aloud(findings):
        return Decision("chat", evidence, lacking)
    return Decision("completion", evidence, "the only sign of a base model is that no short chat answer ends by itself")


def _thinks_aloud(findings: Findings) -> bool:
    return any(answer.opening.startswith(_THINKS_ALOUD) for answer in findings.chat)


def _evidence(findings: Findings) -> str:
    if findings.is_clearly_chat:
        how = "shows reasoning" if any(answer.reasoned for answer in findings.chat) else "ends by itself"
        return f"each of {len(findings.chat)} short chat answers {how}"
    parts = [f"{_share(findings)} short chat answers end by themselves"]
    parts += [f"an answer {findings.signs[0]}"] if findings.signs else []
    if findings.long is not None and not findings.long.sign:
        parts.append("a longer answer ends" if findings.long.is_chat else "a longer answer does not end")
    if findings.completion is not None:
        parts.append(f"a text completion {'ends' if findings.completion.ended else 'does not end'} by itself")
    return "; ".join(parts)


def _lacking(findings: Findings) -> str:
    sign = f", and one {findings.signs[0]}" if findings.signs else ""
    return f"only {_share(findings)} short chat answers end by themselves{sign}"


def _share(findings: Findings) -> str:
    return f"{findings.chat_count} of {len(findings.chat)}"
