"""A LangChain chain over drpo-proxy: streaming and structured output. Usage: python chat.py BASE_URL MODEL"""

import sys

from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class City(BaseModel):
    """A city and the country that it is in."""

    city: str = Field(max_length=40)
    country: str = Field(max_length=40)


def main(base_url: str, model: str) -> None:
    """Print a streamed answer, then a structured one."""
    chat = ChatOpenAI(base_url=base_url, model=model, api_key="any", max_tokens=120, temperature=0)
    chain = ChatPromptTemplate.from_messages([("system", "Answer in one sentence."), ("user", "{question}")]) | chat
    for chunk in chain.stream({"question": "What is the capital of France?"}):
        print(chunk.content, end="", flush=True)
    # A base model cannot call tools. The server enforces the schema with json_schema.
    print("\n", chat.with_structured_output(City, method="json_schema").invoke("Where is the Eiffel Tower?"))


if __name__ == "__main__":
    main(*sys.argv[1:3])
