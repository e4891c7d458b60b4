import re

import pytest

from index.errors import BundleError
from index.layouts import LAYOUTS
from index.published.published_prompt import PublishedPrompt
from index.published.urial import parse_urial
from index.rendering import render_text
from index.types import Message
from tests.index.published.texts import INSTRUCTION, PAIRS, URIAL, urial_request
from tests.measurement import DATA, needs_data

QUERY = "How do I make tea?"
NESTED = "# Query:\n```\nA\n```\n\n# Query:\n```\nB\n```\n\n# Answer:\n```\nB!\n```\n\n# Answer:\n```\nA!\n```\n"


def rendered(found: PublishedPrompt, query: str = QUERY) -> str:
    return render_text(LAYOUTS[found.layout], found.prompt, found.examples, [Message("user", query)])


def pairs(found: PublishedPrompt) -> list[tuple[str, str]]:
    return [(example.query, example.response) for example in found.examples]


@pytest.mark.parametrize(
    "text",
    [
        URIAL,
        URIAL.replace(f"{INSTRUCTION}\n", f"{INSTRUCTION}\n\n\n"),
        URIAL.removeprefix(f"{INSTRUCTION}\n\n"),
        URIAL.replace("# Instruction\n\n", ""),
        URIAL.replace("Enjoy!", "Enjoy ```it``` and\n```\nmore\n```\n!"),
        URIAL.replace("Eight minutes.", "  Eight minutes.\n# Queries: none\n## Answer:"),
        re.sub("```\n(?!python|\n)|\n```(?=\n)", "", URIAL.replace(PAIRS[1][1], "print(1)")),
    ],
    ids=["as it is", "more blank lines", "no instruction", "no heading", "code", "like markers", "no fences"],
)
def test_text_is_rendered_byte_for_byte(text: str) -> None:
    found = parse_urial(text.encode(), "a.txt")
    last = f"# Query:\n{QUERY}\n\n# Answer:\n"
    assert rendered(found) == (urial_request(text, QUERY) if found.layout == "urial" else f"{text}\n{last}")
    assert (found.lost, found.size) == ((), len(text.encode()) + 1)
    assert [example.id for example in found.examples] == ["urial-1", "urial-2", "urial-3"]
    assert all(example.pinned for example in found.examples)


def test_whitespace_of_texts_is_kept() -> None:
    found = parse_urial(URIAL.encode(), "a.txt")
    assert found.prompt == INSTRUCTION
    assert pairs(found) == list(PAIRS)
    assert (found.retrieval.policy, found.retrieval.k) == ("nearest", 0)


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (lambda text: re.sub("```\n(Print.*)\n```\n\n", r"```\1```\n \n", text), "Only line breaks and spaces differ"),
        (lambda text: text.removesuffix("\n"), "Only line breaks and spaces differ, in 1 place"),
        (
            lambda text: text.replace("# Answer:\n```\nMit", "# Answer:\n\n``` \nMit"),
            "Only line breaks and spaces differ",
        ),
        (
            lambda text: text.replace("# Query:\n```\nWie", "\n\n\n# Query: \n```\nWie"),
            "Only line breaks and spaces differ",
        ),
        (lambda text: text.replace("\n", "\r\n"), r"\d+ line breaks are CR or CR LF in the file"),
        (lambda text: f"\ufeff{text}", "byte order mark"),
        (lambda text: f"{text}\n# Query:\n```\nAnd tea?\n```\n", r"Line \d+: a question without an answer is left out"),
        (
            lambda text: f"{text}\n# Query:\n```\nAnd tea?\n```\n\n# Answer:\n```\n",
            r"Line \d+: a question without an answer is left out",
        ),
        (lambda text: text.replace("# Query:\n```\nHow", "# Answer:\n```\nHow", 1), "an answer without a question"),
    ],
    ids=["inline", "no end", "spaces", "blank lines", "crlf", "bom", "open", "template", "no question"],
)
def test_what_the_layout_cannot_write_is_reported(change: object, lost: str) -> None:
    assert callable(change)
    found = parse_urial(change(URIAL).encode(), "a.txt")
    assert any(re.search(lost, sentence) for sentence in found.lost), found.lost
    kept = [pair for pair in pairs(found) if pair in PAIRS]
    assert len(kept) >= 2
    assert all(example.query and not example.query.startswith("`") for example in found.examples)


def test_answer_belongs_to_the_last_open_question() -> None:
    found = parse_urial((URIAL + "\n" + NESTED).encode(), "a.txt")
    assert pairs(found)[3:] == [("A", "A!"), ("B", "B!")]
    assert any("a question stands between this one and its answer" in sentence for sentence in found.lost)
    assert any("Only the order of lines and empty lines differ" in sentence for sentence in found.lost), found.lost


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"You are a helpful assistant.", 'no line "# Query:".* --from drpo'),
        (b'{"How?": "<START>\\nSo.\\n<END>"}', "is JSON.* --from drpo"),
        (b"# User:\nHow?\n\n# Assistant:\nSo.\n", 'turns that begin with "User:"'),
        (b"", 'no line "# Query:"'),
        (b"# Query:\n```\nHow?\n```\n", 'no "# Query:" has an "# Answer:"'),
        (URIAL.encode("utf-16"), "UTF-16. Save the file as UTF-8"),
        (URIAL.encode("latin-1", "replace").replace(b"Mit", b"M\xfct"), r"byte \d+ is not UTF-8"),
        (b"\x80\x04\x95\x0b.", "is a pickle, and reading a pickle can run code"),
        (URIAL.replace("Mit Wasser", "Mit <|eot_id|> Wasser").encode(), r'line 35: the response .* "<\|eot_id\|>"'),
        (URIAL.replace("Below", "[INST] Below").encode(), r'the instruction holds the role marker "\[INST\]"'),
        (URIAL.replace("Mit Wasser", "Mit\nUser: a").encode(), 'the role marker "User:"'),
        (URIAL.replace("Mit Wasser", "Mit \0").encode(), "a NUL character"),
    ],
)
def test_file_that_is_no_such_text_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse_urial(data, "a.txt")
    assert str(caught.value).startswith("a.txt")
    assert re.search(reason, str(caught.value)), caught.value


@needs_data
@pytest.mark.parametrize(
    ("name", "count", "lost"),
    [
        ("inst_1k_v4.txt", 3, ""),
        ("inst_1k_v4.help.txt", 3, ""),
        ("inst_2k_v4.txt", 8, "a question stands between"),
        ("inst_1shot.txt", 1, "Only line breaks and spaces differ"),
        ("basic_icl.txt", 3, "Only line breaks and spaces differ"),
    ],
)
def test_published_text_is_rendered_byte_for_byte_or_the_loss_is_reported(name: str, count: int, lost: str) -> None:
    data = (DATA / "urial" / name).read_bytes()
    found = parse_urial(data, name)
    assert len(found.examples) == count
    assert (rendered(found) == urial_request(data.decode(), QUERY)) == (not lost)
    assert (found.lost == ()) == (not lost)
    assert lost in " ".join(found.lost)
    assert "".join(found.prompt.split()) in "".join(data.decode().split())
