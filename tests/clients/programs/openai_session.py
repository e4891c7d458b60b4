"""A session of a user of OpenAI's Python package: several turns, one of them cancelled, and an edited history.

Usage: python openai_session.py BASE_URL MODEL; prints one JSON object (see tests/clients/test_sessions.py).
"""

import json
import sys
from typing import Any

import openai
from session_texts import PICTURE, QUESTIONS, TOOL

Messages = list[Any]
CANCELLED = 3  # streams that are cancelled one after the other


def main(base_url: str, model: str) -> None:
    client = openai.OpenAI(base_url=base_url, api_key="any", max_retries=0)
    session = Session(client, {"model": model, "temperature": 0, "max_tokens": 3800})
    found = {
        "turns": [session.turn(question, streams=number == 1) for number, question in enumerate(QUESTIONS)],
        "no_tools": session.answer(session.asked("And Lisbon?"), tools=[TOOL], tool_choice="none"),
        "cancelled": [session.cancel(session.asked("Which country is Vienna in?")) for _ in range(CANCELLED)],
        "repeated": session.turn("Which country is Vienna in?", streams=True),
        "edited": session.edited("What is the capital of Spain?"),
        "image": session.image(),
    }
    print(json.dumps(found))


class Session:
    """A conversation whose messages the client keeps."""

    def __init__(self, client: openai.OpenAI, told: dict[str, Any]) -> None:
        self.client, self.told = client, told
        self.messages: Messages = [{"role": "system", "content": "Answer in one sentence."}]

    def asked(self, question: object) -> Messages:
        return [*self.messages, {"role": "user", "content": question}]

    def turn(self, question: str, *, streams: bool = False) -> dict[str, Any]:
        messages = self.asked(question)
        answer = self.stream(messages) if streams else self.answer(messages)
        self.messages = [*messages, {"role": "assistant", "content": answer["text"]}]
        return answer

    def answer(self, messages: Messages, **more: Any) -> dict[str, Any]:
        reply = self.client.chat.completions.create(messages=messages, **self.told, **more)
        choice = reply.choices[0]
        return {"text": choice.message.content, "input": reply.usage.prompt_tokens, "ended": choice.finish_reason}

    def stream(self, messages: Messages) -> dict[str, Any]:
        with self.client.chat.completions.stream(
            messages=messages, stream_options={"include_usage": True}, **self.told
        ) as stream:
            pieces = [event.delta for event in stream if event.type == "content.delta"]
            reply = stream.get_final_completion()
        choice = reply.choices[0]
        return {
            "text": choice.message.content,
            "input": reply.usage.prompt_tokens,
            "ended": choice.finish_reason,
            "pieces": pieces,
        }

    def cancel(self, messages: Messages) -> str:
        """Read the first text of a stream, and close it."""
        stream = self.client.chat.completions.create(messages=messages, stream=True, **self.told)
        with stream:
            return next(text for chunk in stream if chunk.choices and (text := chunk.choices[0].delta.content))

    def edited(self, question: str) -> dict[str, Any]:
        """Change the first question, and ask the last one again."""
        first, *later = self.messages[1:-1]
        return self.answer([self.messages[0], {**first, "content": question}, *later])

    def image(self) -> dict[str, Any]:
        """Show a picture in an earlier turn."""
        picture = {"type": "image_url", "image_url": {"url": PICTURE}}
        shown = self.asked([{"type": "text", "text": "What is this?"}, picture])
        try:
            return self.answer(
                [*shown, {"role": "assistant", "content": "A dot."}, {"role": "user", "content": "Red?"}]
            )
        except openai.BadRequestError as error:
            return {"status": error.status_code, "message": str(error)}


if __name__ == "__main__":
    main(*sys.argv[1:])
