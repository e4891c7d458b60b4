"""States in a sentence of the prompt which form of answer people prefer, as far as the taste knows a name for it.

The sentences describe answers, so that they fit the prompt of a base model and that of a chat model.
"""

from collections.abc import Mapping
from typing import Final

from optimizer.core.candidate import Candidate
from optimizer.data.taste import Taste

_MIN_EFFECT: Final = 0.3
"""The smallest weight, in standard deviations of the feature, that is stated."""
_MAX_SENTENCES: Final = 2
_SENTENCES: Final[Mapping[str, tuple[str, str]]] = {
    "words": ("Answers are long and detailed.", "Answers are short."),
    "lines of lists": ("Answers are lists of short points.", "Answers are plain text without lists."),
    "headings": ("Answers have headings.", "Answers have no headings."),
    "paragraphs": ("Answers have several short paragraphs.", "Answers are one paragraph."),
    "a closing question": ("Answers end with a question to the reader.", "Answers do not end with a question."),
    "exclamation marks": ("Answers are cheerful, with exclamation marks!", "Answers have no exclamation marks."),
    "numbers": ("Answers give numbers, dates and amounts.", "Answers give few numbers."),
    "the first person": ("Answers speak in the first person.", "Answers do not speak about the writer."),
    "the second person": ('Answers speak to the reader as "you".', "Answers do not speak to the reader."),
    "hedges": ("Answers say what is uncertain.", "Answers are definite, and state things as they are."),
    "an opening greeting": ("Answers begin with a greeting.", "Answers begin at once, without a greeting."),
    "code": ("Answers show code.", "Answers contain no code."),
}
"""For each feature of a form: the sentence if people prefer more of it, and the sentence if they prefer less."""


def with_stated_form(candidate: Candidate, taste: Taste) -> Candidate:
    """Return the candidate with a prompt that also states the preferred form. It may have nothing to state."""
    new = [one for one in form_sentences(taste) if one not in candidate.prompt]
    return candidate.with_prompt(" ".join([candidate.prompt.rstrip(), *new]).strip()) if new else candidate


def form_sentences(taste: Taste) -> tuple[str, ...]:
    """Return the sentences about the forms with the largest effect, the largest first."""
    known = [(name, effect) for name, effect in taste.ranking if name in _SENTENCES and abs(effect) >= _MIN_EFFECT]
    return tuple(_SENTENCES[name][effect < 0] for name, effect in known[:_MAX_SENTENCES])
