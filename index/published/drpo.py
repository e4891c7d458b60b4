"""Reads a prompt and examples of DRPO: a text file, and a JSON object with an answer for each query.

The authors' code shows the examples that are nearest to a query, the nearest first. This module opens no files.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from index.bundle.example_bank import check_example, refuse_unsafe
from index.bundle.strict_json import quoted
from index.errors import BundleFormatError
from index.layouts import LAYOUTS
from index.published.published_prompt import PublishedPrompt, enough_tokens, make_published_prompt
from index.published.source_files import read_json, read_text
from index.rendering import render_preamble
from index.types import Example, RetrievalPolicy

SHOWN: Final = 3
"""The number of examples that the authors' code for serving shows."""
EMBEDDER: Final = "all-mpnet-base-v2"
"""The embedder with which the authors' code finds the nearest examples."""
_START: Final = "<START>\n"
_END: Final = "\n<END>"
_QUERY_LINE: Final = re.compile(r"^# ?Query:", re.MULTILINE)
_PROMPT_KEYS: Final = ("prompt", "system_prompt")
_EXAMPLES_FORM: Final = (
    'must be an object with one answer for each query, as in ICL_examples.json: {"How do I boil an egg?": '
    '"<START>\\nEight minutes.\\n<END>"}. Give examples of another form to `drpo-index build --layout drpo`'
)


def parse_drpo(
    prompt_data: bytes, prompt_location: str, examples_data: bytes, examples_location: str
) -> PublishedPrompt:
    """Parse a prompt and the examples.

    Args:
        prompt_data: The content of the file of the prompt: text, or JSON with a string or with a key "prompt".
        prompt_location: The name of this file in messages.
        examples_data: The content of the file of the examples.
        examples_location: The name of this file in messages.

    Raises:
        BundleFormatError: A file has another form.
        BundleIntegrityError: A text contains a control token of a chat template, or another text that a bundle refuses.
    """
    prompt, lost = _parse_prompt(prompt_data, prompt_location)
    answers = _parse_answers(examples_data, examples_location)
    examples = [_example(number, *pair, examples_location) for number, pair in enumerate(answers, start=1)]
    layout = LAYOUTS["drpo"]
    policy = RetrievalPolicy(
        k=SHOWN,
        minimum_similarity=-1.0,
        duplicate_similarity=1.0,
        order="similar_first",
        max_injected_tokens=enough_tokens(layout, prompt, examples, SHOWN),
    )
    texts = (_original(prompt, answers), render_preamble(layout, prompt, examples))
    return make_published_prompt(layout, prompt, examples, policy, texts, lost)


def _parse_prompt(data: bytes, location: str) -> tuple[str, tuple[str, ...]]:
    text, lost = read_text(data, location)
    if text.lstrip().startswith(("{", '"', "[")) and location.endswith(".json"):
        text = _prompt_of_json(data, location)
    if _QUERY_LINE.search(text):
        raise BundleFormatError(
            f'{location}: has a line "# Query:", which no prompt of DRPO has. Is it a text of URIAL? Use --from urial'
        )
    prompt = text.rstrip("\n")
    if len(prompt) < len(text):
        lost += (f"The line breaks at the end of the prompt ({len(text) - len(prompt)}) are left out.",)
    refuse_unsafe(prompt, f"{location}: the prompt")
    return prompt, lost


def _prompt_of_json(data: bytes, location: str) -> str:
    value = read_json(data, location)
    if isinstance(value, dict):
        value = next((value[key] for key in _PROMPT_KEYS if key in value), None)
    if not isinstance(value, str):
        raise BundleFormatError(
            f'{location}: must be a string or an object with a string "prompt". If it has the examples, name the file '
            "of the prompt as PATH, and this file with --examples"
        )
    return value


def _parse_answers(data: bytes, location: str) -> Sequence[tuple[str, str]]:
    value = read_json(data, location)
    if not isinstance(value, dict):
        raise BundleFormatError(f"{location}: {_EXAMPLES_FORM}")
    if not value:
        raise BundleFormatError(f"{location}: has no example. The file {_EXAMPLES_FORM}")
    wrong = next((query for query, answer in value.items() if not isinstance(answer, str)), None)
    if wrong is not None:
        raise BundleFormatError(f"{location}: the value of {quoted(wrong)} is no text. The file {_EXAMPLES_FORM}")
    return [(query, str(answer)) for query, answer in value.items()]


def _example(number: int, query: str, answer: str, location: str) -> Example:
    text = answer.strip().removeprefix("<START>").removesuffix("<END>")
    exact = answer.removeprefix(_START).removesuffix(_END)
    is_exact = answer == f"{_START}{exact}{_END}"
    example = Example(f"drpo-{number}", query, exact if is_exact else text.strip())
    check_example(example, f"{location}, example {number}")
    return example


def _original(prompt: str, answers: Iterable[tuple[str, str]]) -> str:
    """Return the text that the authors' code writes before a query, with all examples in their order."""
    examples = "#Query:\n".join(f"{query}\n\n#Answer:\n{answer}\n\n" for query, answer in answers)
    return f"# instructions\n\n{prompt}\n\n# Query:\n{examples}"
