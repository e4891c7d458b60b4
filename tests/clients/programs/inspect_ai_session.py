"""A session of inspect-ai's model, as its solvers use it: several turns, one of them cancelled, and an edited history.

Usage: python inspect_ai_session.py BASE_URL MODEL; prints one JSON object (see tests/clients/test_sessions.py).
"""

import asyncio
import json
import sys
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    Model,
    get_model,
)
from inspect_ai.tool import ToolInfo
from session_texts import PICTURE, QUESTIONS

TOOL = ToolInfo(name="weather", description="The weather")


async def main(base_url: str, model: str) -> None:
    config = GenerateConfig(temperature=0, max_tokens=3800, max_retries=0)
    session = Session(get_model(f"openai-api/drpo/{model}", base_url=base_url, api_key="any", config=config))
    found = {
        "turns": [await session.turn(question) for question in QUESTIONS],
        "no_tools": await session.answer(session.asked("And Lisbon?"), tools=[TOOL], tool_choice="none"),
        "cancelled": [await session.cancel("Which country is Vienna in?")],
        "repeated": await session.turn("Which country is Vienna in?"),
        "edited": await session.edited("What is the capital of Spain?"),
        "image": await session.image(),
    }
    print(json.dumps(found))


class Session:
    """A conversation whose messages the client keeps."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.messages: list[ChatMessage] = [ChatMessageSystem(content="Answer in one sentence.")]

    def asked(self, question: str) -> list[ChatMessage]:
        return [*self.messages, ChatMessageUser(content=question)]

    async def turn(self, question: str) -> dict[str, Any]:
        messages = self.asked(question)
        answer = await self.answer(messages)
        self.messages = [*messages, ChatMessageAssistant(content=answer["text"])]
        return answer

    async def answer(self, messages: list[ChatMessage], **more: Any) -> dict[str, Any]:
        output = await self.model.generate(messages, **more)
        usage = output.usage
        read = usage.input_tokens + (usage.input_tokens_cache_read or 0)
        return {"text": output.completion, "input": read, "ended": output.stop_reason}

    async def cancel(self, question: str) -> str:
        """Cancel a request that is being answered. The client does not stream, so there is no text."""
        asking = asyncio.create_task(self.model.generate(self.asked(question)))
        await asyncio.sleep(0.2)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        return ""

    async def edited(self, question: str) -> dict[str, Any]:
        """Change the first question, and ask the last one again."""
        return await self.answer([self.messages[0], ChatMessageUser(content=question), *self.messages[2:-1]])

    async def image(self) -> dict[str, Any]:
        """Show a picture in an earlier turn."""
        shown = ChatMessageUser(content=[ContentText(text="What is this?"), ContentImage(image=PICTURE)])
        later = [ChatMessageAssistant(content="A dot."), ChatMessageUser(content="Red?")]
        try:
            return await self.answer([*self.messages, shown, *later])
        except RuntimeError as error:
            return {"status": getattr(error, "status_code", 0), "message": getattr(error, "provider_message", "")}


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
