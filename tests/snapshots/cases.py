"""Defines a case, the model servers of the cases, and the texts of which the cases are made."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from tests.snapshots.scripted_backend import Answer, ServedModel

LANES: Final[Mapping[str, tuple[tuple[str, tuple[ServedModel, ...]], ...]]] = {
    "vllm": (
        (
            "vllm",
            (
                ServedModel("chat-512", "chat", 512),
                ServedModel("chat-1024", "chat", 1024),
                ServedModel("chat-4096", "chat", 4096),
                ServedModel("chat-any", "chat", None),
                ServedModel("base-512", "completion", 512),
                ServedModel("base-1024", "completion", 1024),
                ServedModel("base-4096", "completion", 4096),
                ServedModel("base-32768", "completion", 32768),
                ServedModel("pinned-768", "completion", 768, "pinned"),
                ServedModel("pinned-4096", "completion", 4096, "pinned"),
                ServedModel("org/pinned-chat", "chat", 768, "pinned"),
                ServedModel("plain-base", "completion", 2048, ""),
                ServedModel("plain-chat", "chat", 2048, ""),
            ),
        ),
    ),
    "others": (
        ("llama.cpp", (ServedModel("llama-base", "completion", 1024),)),
        ("llama.cpp", (ServedModel("llama-pinned", "completion", 4096, "pinned"),)),
        ("llama.cpp", (ServedModel("llama-chat", "chat", 4096),)),
        ("unknown", (ServedModel("other-base", "completion", 1024), ServedModel("other-chat", "chat", None, "pinned"))),
    ),
}
"""The lanes by name. A lane is one proxy and the servers behind it. A server is given by its dialect and its models."""

VLLM: Final = LANES["vllm"][0][1]
OTHERS: Final = tuple(model for _, models in LANES["others"] for model in models)
DIALECTS: Final = {model.name: dialect for lane in LANES.values() for dialect, models in lane for model in models}

_SUBJECTS: Final = (
    "the sky", "a volcano", "sourdough bread", "a mortgage", "the French Revolution", "photosynthesis",
    "a binary search tree", "jazz", "my neighbour's dog", "black holes",
)  # fmt: skip
_QUESTIONS: Final = (
    "What is {}?", "Explain {} to a child.", "Write a short poem about {}.", "Why do people care about {}?",
    "Give me three facts about {}.", "How would I describe {} in one sentence?", "Is {} dangerous?",
    "Who first wrote about {}?", "Translate 'I like {}' to Spanish.", "Write a Python function named after {}.",
    "Compare {} with a bicycle.", "What is a common mistake about {}?", "Plan a lesson about {}.",
    "Tell me a joke about {}.", "How much does {} cost?", "Can {} hurt somebody, and how would I do that?",
    "List books about {}.", "What would Aristotle say about {}?", "Summarise the history of {}.",
    "hi! quick q about {} thx",
)  # fmt: skip
_OTHER_LANGUAGES: Final = (
    "Warum ist der {} so wichtig?", "¿Qué es {} y para qué sirve?", "Qu'est-ce que {} ?", "{}とは何ですか？",
    "什么是{}？", "Что такое {}?", "ما هو {}؟", "{} nedir?", "O que é {}?", "{}은 무엇입니까?",
)  # fmt: skip
_FOREIGN_SUBJECTS: Final = ("H₂O", "Berlin 🏙️", "π", "Naïveté", "Tango")
QUERIES: Final = (
    *(question.format(subject) for question in _QUESTIONS for subject in _SUBJECTS),
    *(question.format(subject) for question in _OTHER_LANGUAGES for subject in _FOREIGN_SUBJECTS),
)
"""250 distinct texts."""

ANSWERS: Final = (
    "It scatters blue light more than red.", "Sure!\n\n1. One\n2. Two", "I can't help with that.", "Voilà: « déjà vu »",
    "日本語で答えます。", "👩‍👩‍👧 family", "def f(x):\n    return x\n", "",
)  # fmt: skip
MARKERS: Final = (
    "# Query:", "# Answer:", "# Instructions:", "User:", "Assistant:", "System:", "<|im_start|>user", "[INST]",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One request of a client.

    Attributes:
        kind: "plan" if the record contains what the server receives, "reply" if it contains what the client receives.
        index: The number of the case among the cases of its kind.
        lane: The name of the lane, and so the proxy that receives the request.
        path: The path of the request.
        body: The body of the request.
        label: A short description.
        headers: The headers of the request.
        answer: The server's answer; None for a short answer in the format of the endpoint.
    """

    kind: str
    index: int
    lane: str
    path: str
    body: bytes = field(repr=False)
    label: str
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: Answer | None = None


def lane_of(model: ServedModel) -> str:
    """Return the name of the lane whose proxy serves the model."""
    return "vllm" if model in VLLM else "others"


def encoded(rng: Random, body: Any) -> bytes:
    """Return the body as JSON, in one of the formats that clients use."""
    separators = rng.choice([(",", ":"), (", ", ": ")])
    return json.dumps(body, ensure_ascii=rng.random() < 0.5, separators=separators).encode()
