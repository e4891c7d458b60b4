import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.retrieval.passages import MAX_PASSAGE_CHARACTERS, MAX_WHOLE_CHARACTERS, query_passages, read_parts

SUBJECT = "The garden club met on Tuesday in the small hall behind the library. Nineteen members came. " * 12
QUESTION = "How do I kill a process in Linux?"


@pytest.mark.parametrize("text", ["", "hi", "x" * MAX_WHOLE_CHARACTERS, "one\n\ntwo"])
def test_a_short_query_is_one_passage(text: str) -> None:
    assert query_passages(text) == (text,)


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        (f"{SUBJECT}\n\n{QUESTION}", QUESTION),
        (f"{SUBJECT}{QUESTION}", QUESTION),
        (f"{SUBJECT}\n{QUESTION}\n\n", QUESTION),
        (f"{SUBJECT}\n\n{QUESTION}\n```\n---", QUESTION),
        (f"{SUBJECT}{QUESTION} Thanks!", f"{QUESTION} Thanks!"),
        (f"{SUBJECT}\nI use Debian. {QUESTION}", f"I use Debian. {QUESTION}"),
        (
            "庭園クラブは火曜日に集まりました。" * 40 + "プロセスを終了するにはどうすればいいですか？",
            "プロセスを終了するにはどうすればいいですか？",
        ),
        (f"{SUBJECT}\n{'word ' * 100}end", ("word " * 100 + "end")[-MAX_PASSAGE_CHARACTERS:]),
    ],
)
def test_the_ending_is_the_last_line_or_its_last_sentence(text: str, ending: str) -> None:
    assert query_passages(text)[-1] == ending


@pytest.mark.parametrize(
    ("text", "opening"),
    [
        (f"{QUESTION}\n\n{SUBJECT}", QUESTION),
        (f"{QUESTION} {SUBJECT}", QUESTION),
        (f"\n \n# ---\nSummarize this:\n{SUBJECT}", "Summarize this:"),
        (f"Hello! {QUESTION} {SUBJECT}", f"Hello! {QUESTION}"),
    ],
)
def test_the_opening_is_the_first_line_or_its_first_sentence(text: str, opening: str) -> None:
    assert query_passages(text)[0] == opening


@given(st.text(max_size=1_500))
def test_passages_are_short_and_part_of_the_query(text: str) -> None:
    passages = query_passages(text)
    assert 1 <= len(passages) <= 2
    assert all(len(passage) <= MAX_WHOLE_CHARACTERS for passage in passages)
    assert all(part in text for passage in passages for part in passage.split(" "))
    assert len(text) <= MAX_WHOLE_CHARACTERS or all(len(passage) <= MAX_PASSAGE_CHARACTERS + 1 for passage in passages)


@given(
    st.lists(st.text(max_size=100) | st.integers(0, 3).map(lambda lines: "An odd line.\n" * 500 * lines + "The end."))
)
def test_read_part_of_a_text_has_its_passages_and_is_not_long(texts: list[str]) -> None:
    parts = read_parts(texts)
    assert [query_passages(part) for part in parts] == [query_passages(text) for text in texts]
    assert max(map(len, parts), default=0) <= 8_000
