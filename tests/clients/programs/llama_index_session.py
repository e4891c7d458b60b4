"""A session of a user of LlamaIndex: several turns, one of them cancelled, and an edited history.

Usage: python llama_index_session.py BASE_URL MODEL; prints one JSON object (see tests/clients/test_sessions.py).
"""

import json
import sys
from typing import Any

import openai
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.llms.openai_like import OpenAILike
from session_texts import PICTURE, QUESTIONS, TOOL

USAGE = {"stream_options": {"include_usage": True}}


def main(base_url: str, model: str) -> None:
    told = {"temperature": 0, "max_tokens": 3800, "context_window": 4096, "max_retries": 0}
    session = Session(OpenAILike(model=model, api_base=base_url, api_key="any", is_chat_model=True, **told))
    found = {
        "turns": [session.turn(question, streams=number == 1) for number, question in enumerate(QUESTIONS)],
        "no_tools": session.answer(session.asked("And Lisbon?"), tools=[TOOL], tool_choice="none"),
        "cancelled": [session.cancel("Which country is Vienna in?")],
        "repeated": session.turn("Which country is Vienna in?", streams=True),
        "edited": session.edited("What is the capital of Spain?"),
        "image": session.image(),
    }
    print(json.dumps(found))


class Session:
    """A conversation whose messages the client keeps."""

    def __init__(self, llm: OpenAILike) -> None:
        self.llm = llm
        self.messages = [ChatMessage(role="system", content="Answer in one sentence.")]

    def asked(self, question: str) -> list[ChatMessage]:
        return [*self.messages, ChatMessage(role="user", content=question)]

    def turn(self, question: str, *, streams: bool = False) -> dict[str, Any]:
        messages = self.asked(question)
        answer = self.stream(messages) if streams else self.answer(messages)
        self.messages = [*messages, ChatMessage(role="assistant", content=answer["text"])]
        return answer

    def answer(self, messages: list[ChatMessage], **more: Any) -> dict[str, Any]:
        reply = self.llm.chat(messages, **more)
        raw = reply.raw
        return {"text": reply.message.content, "input": raw.usage.prompt_tokens, "ended": raw.choices[0].finish_reason}

    def stream(self, messages: list[ChatMessage]) -> dict[str, Any]:
        chunks = list(self.llm.stream_chat(messages, **USAGE))
        usage = next(chunk.raw.usage for chunk in reversed(chunks) if chunk.raw.usage)
        ended = [choice.finish_reason for chunk in chunks for choice in chunk.raw.choices if choice.finish_reason]
        pieces = [chunk.delta for chunk in chunks if chunk.delta]
        return {"text": chunks[-1].message.content, "input": usage.prompt_tokens, "ended": ended[0], "pieces": pieces}

    def cancel(self, question: str) -> str:
        """Read the first text of a stream, and close it."""
        stream = self.llm.stream_chat(self.asked(question))
        text = next(chunk.delta for chunk in stream if chunk.delta)
        stream.close()
        return str(text)

    def edited(self, question: str) -> dict[str, Any]:
        """Change the first question, and ask the last one again."""
        return self.answer([self.messages[0], ChatMessage(role="user", content=question), *self.messages[2:-1]])

    def image(self) -> dict[str, Any]:
        """Show a picture in an earlier turn."""
        shown = ChatMessage(role="user", blocks=[TextBlock(text="What is this?"), ImageBlock(url=PICTURE)])
        later = [ChatMessage(role="assistant", content="A dot."), ChatMessage(role="user", content="Red?")]
        try:
            return self.answer([*self.messages, shown, *later])
        except openai.BadRequestError as error:
            return {"status": error.status_code, "message": str(error)}


if __name__ == "__main__":
    main(*sys.argv[1:])
