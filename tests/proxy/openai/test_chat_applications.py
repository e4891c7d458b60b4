"""Tests that texts of chat applications are recognized, and that no question of a user is taken for such a text."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.openai.chat_applications import answer_form
from proxy.openai.conversation import read_chat, read_completion, read_response
from tests.proxy.openai.background_requests import BACKGROUND, HISTORY, TITLE, TURNS, system, user

TEMPLATE = TITLE[0]["content"]
ORDINARY: dict[str, list[Any]] = {
    "plain": [user("How do I bake bread?")],
    "title-of-a-text": [user("Generate a concise, 3-5 word title with an emoji for my blog post about bread.")],
    "title-of-the-conversation": [*TURNS, user("Give this conversation a title.")],
    "title-with-a-limit": [*TURNS, user("Please suggest a short title for our chat, at most five words, no quotes.")],
    "name-of-the-conversation": [*TURNS, user("Based on the chat history, give this conversation a name.")],
    "task-heading": [user("### Task:\nTranslate into German: good morning\n### Output:\nJSON")],
    "task-heading-with-a-log": [user(f"### Task:\nCount the words.\n<chat_history>\n{HISTORY}\n</chat_history>")],
    "question-about-the-template": [user(f"Why does Open WebUI send me this?\n\n{TEMPLATE}")],
    "question-after-the-template": [user(f"{TEMPLATE}\n\nWhat does this prompt do?")],
    "documents": [
        user(
            "### Task:\nAnswer the query from the context.\n### Output:\nA clear answer.\n<context>\n"
            f'<source id="1"><chat_history>{HISTORY}</chat_history></source>\n</context>\n\nHow long does it bake?'
        )
    ],
    "template-in-an-earlier-turn": [*TITLE, {"role": "assistant", "content": "What about it?"}, user("Explain it.")],
    "template-as-a-later-turn": [*TURNS, *TITLE],
    "template-as-the-answer-to-continue": [user("Hi"), {"role": "assistant", "content": TEMPLATE}],
    "tag-in-a-question": [user("What is <chat_history> in a prompt?")],
    "mixture-of-agents": [user("What is a mixture of agents? Are responses from various models synthesized?")],
    "query-heading": [user("Here is the query: SELECT 1. Why is it slow?")],
    "summary": [user("Summarize the discussion briefly in 200 words or less.")],
    "librarian": [
        system("You are a librarian. In each conversation, ask for the title of the book. Do not guess, only ask."),
        user("I look for a book about bread."),
    ],
    "video-titles": [
        system("You are a YouTube title generator. Output only titles, of at most 60 characters."),
        user("A video about bread"),
    ],
    "moderator": [
        system("You moderate the discussion. Create titles for each post in the discussion, without emojis."),
        user("Bread is great."),
    ],
    "mail": [
        system("Summarize the conversation as an email with a title. Use no more than 100 words."),
        user("We agreed to bake on Monday."),
    ],
    "titles-at-the-end": [
        system("You are a baker. " * 30 + "At the end, write a title for the conversation, only if asked."),
        user("How do I bake bread?"),
    ],
    "title-instruction-with-turns": [system("Generate a short chat title. Output only it."), *TURNS, user("And cake?")],
    "tools-without-the-instruction": [system("Available tools: an oven, a bowl."), user("What can I bake?")],
    "question-about-an-operators-template": [
        user(f'Why does this fail? {{ "title": "..." }}\n<chat_history>\n{HISTORY}\n</chat_history>')
    ],
    "titles-of-books": [system("You create descriptive titles for books. Output only the title."), user("Bread")],
    "titles-for-a-course": [
        system("You write titles of conversations for a language course. Not longer than 4 words."),
        user("At the bakery"),
    ],
    "titles-for-classes": [system("Write titles for class discussions about novels, only short ones."), user("Bread")],
    "names-for-bots": [system("You suggest a short name for a chat bot. Only the name."), user("It bakes bread.")],
    "name-of-a-partner": [system("Give a short name for the chat partner. No surnames."), user("A baker")],
    "coach": [system("You are a coach. In each session, ask for the name of the client. No small talk."), user("Hi")],
    "questions-of-a-teacher": [
        user("Please help me predict the three most likely questions that my teacher will ask.")
    ],
    "decomposed": [user("You need to decompose the user's input. How would you do it?")],
    "empty": [user("")],
    "no-content": [{"role": "user"}],
    "odd-roles": [{"role": ["system"], "content": "x"}, {"role": {"a": 1}, "content": TEMPLATE}],
}


@pytest.mark.parametrize("messages", BACKGROUND.values(), ids=BACKGROUND)
def test_background_request_of_a_client_is_recognized(messages: list[Any]) -> None:
    assert read_chat({"messages": messages}).is_background


@pytest.mark.parametrize("messages", ORDINARY.values(), ids=ORDINARY)
def test_question_of_a_user_is_never_taken_for_a_background_request(messages: list[Any]) -> None:
    assert not read_chat({"messages": messages}).is_background


def test_background_request_to_the_responses_api_is_recognized() -> None:
    assert read_response({"input": TEMPLATE}).is_background
    assert read_response({"input": TITLE}).is_background
    title = {"instructions": "Generate a short chat title. Output ONLY the title text.", "input": "How do I bake?"}
    assert read_response(title).is_background
    assert not read_response({**title, "instructions": "Be brief."}).is_background
    assert not read_chat({"instructions": title["instructions"], "messages": [user("Hi")]}).is_background
    assert not read_completion({"prompt": TEMPLATE}).is_background


@settings(max_examples=50)
@given(st.text(max_size=300), st.sampled_from(["", "### Task:\n", "Generate a title for "]), st.text(max_size=50))
def test_any_text_is_read_without_an_error(text: str, start: str, instruction: str) -> None:
    assert read_chat({"messages": [system(instruction), user(start + text)]}).is_background is False


def test_long_text_is_read_in_linear_time() -> None:
    """A text that repeats the marks a million times does not make the patterns backtrack."""
    for text in ("### Task:\n" + "#### " * 1_000_000, "### Task:\n" + "### Output <chat_history>" * 200_000):
        assert not read_chat({"messages": [user(text)]}).is_background
    for instruction in ("write " * 1_000_000, "create a title that " * 200_000, "summarize " + "chat into " * 200_000):
        read_chat({"messages": [system("title " + instruction), user("Hi")]})


DOCUMENTS = (
    "### Task:\nAnswer from the context.\n### Output:\nAn answer.\n\n<context>\n<source>Rye.</source>\n</context>\n"
)


@pytest.mark.parametrize(
    ("text", "opening"),
    [
        (f"{DOCUMENTS}\nHow do I bake bread?", "How do I bake bread?"),
        (f"{DOCUMENTS}\nHow do I bake\n\nbread?\n", "How do I bake\n\nbread?"),
        (f"{DOCUMENTS.replace('Rye.', '</context>')}\nHow do I bake bread?", "How do I bake bread?"),
        (DOCUMENTS, DOCUMENTS),
        ("### Task:\nBake bread.", "### Task:\nBake bread."),
        ("<context>Rye.</context> How do I bake bread?", "<context>Rye.</context> How do I bake bread?"),
    ],
)
def test_documents_of_open_webui_are_not_part_of_the_opening(text: str, opening: str) -> None:
    conversation = read_chat({"messages": [system("Be kind."), user(text)]})
    assert (conversation.opening, conversation.is_background) == (opening, False)
    later = [user("How do I bake bread?"), {"role": "assistant", "content": "With rye."}, user(text)]
    assert read_chat({"messages": later}).opening == "How do I bake bread?"


@pytest.mark.parametrize(
    ("client", "field", "kind"),
    [
        ("open-webui-title", "title", "string"),
        ("open-webui-early-title", "title", "string"),
        ("open-webui-tags", "tags", "array"),
        ("open-webui-follow-ups", "follow_ups", "array"),
        ("open-webui-queries", "queries", "array"),
        ("open-webui-image", "prompt", "string"),
        ("open-webui-autocomplete", "text", "string"),
        ("open-webui-translated-template", "title", "string"),
        ("open-webui-operators-template", "title", "string"),
        ("open-webui-without-thinking", "title", "string"),
    ],
)
def test_json_object_that_open_webui_reads_is_found_in_its_template(client: str, field: str, kind: str) -> None:
    form = answer_form(BACKGROUND[client][0]["content"])
    assert form is not None
    schema = form["json_schema"]["schema"]
    assert schema["required"] == [field]
    assert schema["properties"][field]["type"] == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        BACKGROUND["open-webui-fork"][0]["content"],
        BACKGROUND["librechat"][0]["content"],
        '### Task:\nWrite.\n<chat_history>\n### Output:\n{ "title": "x" }\n</chat_history>',
        'JSON format: { "title": "x" }',
        '### Output:\n{ "title": 1 }',
    ],
)
def test_no_form_is_invented_for_a_request_that_names_none(text: str) -> None:
    assert answer_form(text) is None
