"""Uses the proxy as a user of langchain-openai does. It runs in LangChain's environment, and imports no code of ours.

Usage: python langchain_user.py BASE_URL MODEL; prints one JSON object.
"""

import json
import sys
from typing import Any

import openai
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

QUESTION = "What is the capital of France?"
LONGER = "In which country is the city of Paris?"  # its answer has enough pieces for a stream


class City(BaseModel):
    """A city and the country that it is in."""

    city: str = Field(max_length=40)
    country: str = Field(max_length=40)


def main(base_url: str, model: str) -> None:
    """Use the proxy in every way, in the order of the functions below."""
    told = {"base_url": base_url, "api_key": "any", "temperature": 0, "max_tokens": 40, "max_retries": 0}
    chat = ChatOpenAI(model=model, **told)
    by_header = {"x-drpo-variant": "raw"}
    found = {
        "invoked": answer(chat.invoke(QUESTION)),
        "conversation": answer(chat.invoke(conversation())),
        "streamed": streamed(ChatOpenAI(model=model, stream_usage=True, **told)),
        "structured": structured(ChatOpenAI(model=model, **{**told, "max_tokens": 100})),
        "logprobs": logprobs(chat),
        "responses": answer(ChatOpenAI(model=model, use_responses_api=True, **told).invoke(QUESTION)),
        "responses_streamed": streamed(ChatOpenAI(model=model, use_responses_api=True, **told)),
        "raw": answer(ChatOpenAI(model=f"{model}@raw", **told).invoke(QUESTION)),
        "raw_by_header": answer(ChatOpenAI(model=model, default_headers=by_header, **told).invoke(QUESTION)),
        "completed": OpenAI(model=model, **told).invoke("The capital of France is"),
        "completed_pieces": list(OpenAI(model=model, **told).stream("The capital of France is")),
        "unknown_model": error(ChatOpenAI(model="no-such-model", **told)),
        "tools": error(chat.bind_tools([City])),
    }
    print(json.dumps(found))


def conversation() -> list[BaseMessage]:
    """Return a system message, an earlier turn, and a question about it."""
    earlier = [HumanMessage("What is the capital of Italy?"), AIMessage("The capital of Italy is Rome.")]
    return [SystemMessage("Answer in one sentence."), *earlier, HumanMessage("And of France?")]


def answer(message: AIMessage) -> dict[str, Any]:
    """Return what LangChain made of a reply."""
    return {
        "type": type(message).__name__,
        "text": str(message.text),
        "usage": message.usage_metadata,
        "metadata": {name: message.response_metadata.get(name) for name in ("finish_reason", "status", "model_name")},
    }


def streamed(chat: ChatOpenAI) -> dict[str, Any]:
    """Return the pieces of a stream, and their sum as LangChain adds them up."""
    chunks = list(chat.stream(LONGER))
    total: AIMessageChunk = sum(chunks[1:], chunks[0])
    return {**answer(total), "pieces": [str(chunk.text) for chunk in chunks if chunk.text]}


def structured(chat: ChatOpenAI) -> dict[str, Any]:
    """Return an answer whose form a schema enforces, parsed by LangChain."""
    city = chat.with_structured_output(City, method="json_schema").invoke(f"{QUESTION} Answer as JSON.")
    return {"type": type(city).__name__, **city.model_dump()}


def logprobs(chat: ChatOpenAI) -> list[dict[str, Any]]:
    """Return the tokens of an answer, each with two candidates."""
    message = chat.bind(logprobs=True, top_logprobs=2).invoke(QUESTION)
    return list(message.response_metadata["logprobs"]["content"])


def error(chat: Any) -> dict[str, Any]:
    """Return the exception with which a request ends."""
    try:
        chat.invoke(QUESTION)
    except openai.APIStatusError as caught:
        kinds = [kind.__name__ for kind in type(caught).__mro__]
        return {"kinds": kinds, "status": caught.status_code, "code": caught.code, "text": str(caught)}
    return {"kinds": ["no error"]}


if __name__ == "__main__":
    main(*sys.argv[1:])
