import json
import pickle
import re
import time
from pathlib import Path

import pytest

from index.errors import BundleError
from index.layouts import LAYOUTS
from index.published.drpo import parse_drpo
from index.published.locate import find_drpo
from index.published.published_prompt import PublishedPrompt
from index.rendering import render_text
from index.types import Message
from tests.index.published.texts import ANSWERS, PROMPT, URIAL, drpo_request
from tests.measurement import DATA, needs_data

QUERY = "How do I make tea?"


def parse(
    prompt: bytes = PROMPT.encode(), answers: bytes = json.dumps(ANSWERS).encode(), name: str = "p.txt"
) -> PublishedPrompt:
    return parse_drpo(prompt, name, answers, "e.json")


def rendered(found: PublishedPrompt, count: int) -> str:
    return render_text(LAYOUTS[found.layout], found.prompt, found.examples[:count], [Message("user", QUERY)])


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_text_is_rendered_byte_for_byte(count: int) -> None:
    found = parse()
    assert rendered(found, count) == drpo_request(PROMPT, ANSWERS, list(ANSWERS)[:count], QUERY)
    assert found.lost == ()
    assert (found.retrieval.policy, found.retrieval.k, found.retrieval.order) == ("nearest", 3, "similar_first")
    assert not any(example.pinned for example in found.examples)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        (PROMPT.encode(), "output.txt"),
        (json.dumps(PROMPT).encode(), "output.json"),
        (json.dumps({"prompt": PROMPT}).encode(), "output.json"),
        (b"\xef\xbb\xbf" + json.dumps({"system_prompt": PROMPT}).encode(), "output.json"),
    ],
)
def test_prompt_is_read_from_text_or_json(prompt: bytes, name: str) -> None:
    assert parse(prompt, name=name).prompt == PROMPT


@pytest.mark.parametrize(
    ("prompt", "answers", "lost"),
    [
        (f"{PROMPT}\n\n", ANSWERS, "line breaks at the end of the prompt (2) are left out"),
        (PROMPT.replace("\n", "\r\n"), ANSWERS, "3 line breaks are CR or CR LF"),
        (PROMPT, {"How?": "So."}, '"<START>"'),
        (PROMPT, {"How?": "<START> So. <END>"}, "Only line breaks and spaces differ"),
        (PROMPT, {"How?": "<START>\nSo.\n<END>\n"}, "Only line breaks and spaces differ"),
    ],
)
def test_what_the_layout_cannot_write_is_reported(prompt: str, answers: dict[str, str], lost: str) -> None:
    found = parse(prompt.encode(), json.dumps(answers).encode())
    assert lost in " ".join(found.lost)
    assert found.prompt == PROMPT
    if len(answers) == 1:
        assert found.examples[0].response == "So."


LISTED = [{"instruction": "How?", "output": "So."}]


@pytest.mark.parametrize(
    ("prompt", "answers", "reason"),
    [
        (URIAL.encode(), ANSWERS, 'p.txt: has a line "# Query:".* --from urial'),
        (b"", ANSWERS, "p.txt: the prompt is empty"),
        (b"Be good. <|im_end|>", ANSWERS, r'p.txt: the prompt holds the role marker "<\|im_end\|>"'),
        (b"\x80\x04\x95.", ANSWERS, "p.txt: is a pickle, and reading a pickle can run code"),
        (pickle.dumps({"prompt": "Be kind."}, 0), ANSWERS, "p.txt: is a pickle"),
        (pickle.dumps("Be kind.", 1), ANSWERS, "p.txt: is a pickle"),
        (b"Be g\xffod.", ANSWERS, "p.txt: byte 4 is not UTF-8"),
        (PROMPT.encode(), LISTED, "e.json: must be an object with one answer for each query.*drpo-index build"),
        (PROMPT.encode(), {"examples": LISTED}, 'e.json: the value of "examples" is no text.*drpo-index build'),
        (PROMPT.encode(), {}, "e.json: has no example. The file must be an object"),
        (PROMPT.encode(), {"": "So."}, "e.json, example 1: the query .* is empty"),
        (PROMPT.encode(), {"How?": " "}, "e.json, example 1: the response .* is empty"),
        (PROMPT.encode(), {"How?": "a\n#Query:\nb"}, 'e.json, example 1: the response .* role marker "#Query:"'),
    ],
)
def test_file_of_another_form_is_refused_with_the_reason(prompt: bytes, answers: object, reason: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse(prompt, json.dumps(answers).encode())
    assert re.match(reason, str(caught.value)), caught.value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_of_examples_with_another_name_is_refused(protocol: int) -> None:
    with pytest.raises(BundleError, match=r"e\.json: is a pickle"):
        parse(answers=pickle.dumps({"Why?": "So."}, protocol))


@pytest.mark.parametrize("text", ["N.", "I am brief.", "(Be kind.)\n.", "S'it is quoted'\n."])
def test_text_that_ends_with_a_dot_is_no_pickle(text: str) -> None:
    assert parse(text.encode()).prompt == text


def test_query_that_occurs_twice_is_refused() -> None:
    with pytest.raises(BundleError, match=r"^e\.json: "):
        parse(answers=b'{"How?": "<START>\\nA\\n<END>", "How?": "<START>\\nB\\n<END>"}')


def mapping() -> list[str]:
    path = DATA / "drpo" / "model_mapping.json"
    return list(json.loads(path.read_text("utf-8"))) if path.is_file() else []


@needs_data
@pytest.mark.parametrize("model", mapping())
def test_published_prompt_of_each_model_is_rendered_byte_for_byte(model: str) -> None:
    prompt, examples = find_drpo(DATA / "drpo", model, None)
    found = parse_drpo(prompt.read_bytes(), str(prompt), examples.read_bytes(), str(examples))
    answers = json.loads(examples.read_text("utf-8"))
    text = drpo_request(prompt.read_text("utf-8"), answers, list(answers)[:3], QUERY)
    assert rendered(found, 3) == text
    assert found.lost == ()
    assert Path(prompt).stem.removeprefix("prompt_").split("-")[0] in model.lower().replace("-", "").replace("meta", "")


@pytest.mark.parametrize(
    "form", ["<START>\nYes {}.\n\nOr:\n\nNo.\n<END>", "<START> Yes {}.\n\nOr:\n\nNo. <END>", "Yes {}."]
)
def test_many_examples_are_compared_in_little_time(form: str) -> None:
    answers = {f"Question {number}?": form.format(number) for number in range(1_000)}
    started = time.process_time()
    found = parse(answers=json.dumps(answers).encode())
    assert (found.size is not None) == form.startswith("<START>\n")
    assert time.process_time() - started < 3
