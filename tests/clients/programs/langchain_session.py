"""A session of a user of langchain-openai: several turns, one of them cancelled, and an edited history.

Usage: python langchain_session.py BASE_URL MODEL; prints one JSON object: a session with the Chat Completions API (see
tests/clients/test_sessions.py), one with the Responses API, and an error of the latter.
"""

import json
import sys
from typing import Any

import openai
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from session_texts import PICTURE, QUESTIONS


def weather() -> str:
    """Return the weather."""
    return "fine"


def main(base_url: str, model: str) -> None:
    told = {"model": model, "base_url": base_url, "api_key": "any", "temperature": 0, "max_tokens": 3800}
    told |= {"max_retries": 0, "stream_usage": True}
    by_id = Session(ChatOpenAI(use_responses_api=True, use_previous_response_id=True, **told))
    by_id.turn(QUESTIONS[0])
    found = {
        "chat": session(ChatOpenAI(**told)),
        "responses": session(ChatOpenAI(use_responses_api=True, **told)),
        "referring": attempt(by_id, by_id.asked(QUESTIONS[1])),
    }
    print(json.dumps(found))


def session(chat: ChatOpenAI) -> dict[str, Any]:
    """Run one session."""
    one = Session(chat)
    return {
        "turns": [one.turn(question, streams=number == 1) for number, question in enumerate(QUESTIONS)],
        "no_tools": found(chat.bind_tools([weather], tool_choice="none").invoke(one.asked("And Lisbon?"))),
        "cancelled": [one.cancel("Which country is Vienna in?")],
        "repeated": one.turn("Which country is Vienna in?", streams=True),
        "edited": one.edited("What is the capital of Spain?"),
        "image": one.image(),
    }


class Session:
    """A conversation whose messages the client keeps, as LangChain returns them."""

    def __init__(self, chat: ChatOpenAI) -> None:
        self.chat = chat
        self.messages: list[BaseMessage] = [SystemMessage("Answer in one sentence.")]

    def asked(self, content: Any) -> list[BaseMessage]:
        return [*self.messages, HumanMessage(content)]

    def turn(self, question: str, *, streams: bool = False) -> dict[str, Any]:
        messages = self.asked(question)
        chunks: list[AIMessageChunk] = list(self.chat.stream(messages)) if streams else []
        message: AIMessage = sum(chunks[1:], chunks[0]) if streams else self.chat.invoke(messages)
        self.messages = [*messages, message]
        pieces = {"pieces": [str(chunk.text) for chunk in chunks if chunk.text]} if streams else {}
        return {**found(message), **pieces}

    def cancel(self, question: str) -> str:
        """Read the first text of a stream, and close it."""
        stream = self.chat.stream(self.asked(question))
        text = next(str(chunk.text) for chunk in stream if chunk.text)
        stream.close()
        return text

    def edited(self, question: str) -> dict[str, Any]:
        """Change the first question, and ask the last one again."""
        return found(self.chat.invoke([self.messages[0], HumanMessage(question), *self.messages[2:-1]]))

    def image(self) -> dict[str, Any]:
        """Show a picture in an earlier turn."""
        picture = {"type": "image_url", "image_url": {"url": PICTURE}}
        shown = self.asked([{"type": "text", "text": "What is this?"}, picture])
        return attempt(self, [*shown, AIMessage("A dot."), HumanMessage("Red?")])


def found(message: AIMessage) -> dict[str, Any]:
    told = message.response_metadata
    ended = told.get("finish_reason") or told.get("status")
    return {"text": str(message.text), "input": message.usage_metadata["input_tokens"], "ended": ended}


def attempt(one: Session, messages: list[BaseMessage]) -> dict[str, Any]:
    """Return the answer, or the error."""
    try:
        return found(one.chat.invoke(messages))
    except openai.BadRequestError as error:
        return {"status": error.status_code, "message": str(error)}


if __name__ == "__main__":
    main(*sys.argv[1:])
