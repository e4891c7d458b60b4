"""Makes requests for every kind of plan. A case depends only on the seed and its number."""

from collections.abc import Callable
from random import Random
from typing import Any, Final

from tests.snapshots.cases import ANSWERS, DIALECTS, MARKERS, OTHERS, QUERIES, VLLM, Case, encoded, lane_of
from tests.snapshots.mistakes import with_mistake
from tests.snapshots.scripted_backend import ServedModel

Json = dict[str, Any]

_MISTAKES: Final = 0.1  # share of the requests
_SCHEMA: Final = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
_TOOL: Final = {"type": "function", "function": {"name": "look_up", "parameters": _SCHEMA}}
_OTHER_FIELDS: Final = (
    ("min_tokens", 3), ("x_custom", {"a": [1, 2.5, None, "ü"]}), ("priority", -1), ("user", "user-1"),
    ("logit_bias", {"50256": -100}), ("ignore_eos", False), ("best_of", 1), ("metadata", {"trace": "1"}),
    ("service_tier", "auto"), ("chat_template_kwargs", {"thinking": True}), ("store", False), ("top_k", 40),
    ("min_p", 0.05), ("skip_special_tokens", True), ("parallel_tool_calls", False), ("length_penalty", 1.5),
    ("truncate_prompt_tokens", 9007199254740993), ("add_generation_prompt", True), ("repetition_penalty", 1.1),
)  # fmt: skip
_SAMPLING: Final = (
    ("temperature", (0, 0.0, 0.7, 1, 2, None)), ("top_p", (0.1, 0.95, 1)), ("frequency_penalty", (0, 0.5, -2)),
    ("presence_penalty", (0, 1.5)), ("seed", (0, 7, 2**40)),
)  # fmt: skip
_STOPS: Final[tuple[Any, ...]] = (
    "\n", ["\n\n"], ["END", "STOP"], ["a", "b", "c"], ["1", "2", "3", "4"], ["é", "# Query:"], [], None,
    ["1", "2", "3", "4", "5"], "", ["\nUser:"],
)  # fmt: skip
_FORMATS: Final = (
    {"type": "text"}, {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA, "strict": True}}, None,
)  # fmt: skip


def plan_case(seed: int, index: int) -> Case:
    """Return the plan case of this number."""
    rng = Random(f"{seed}/plan/{index}")
    model = rng.choice(VLLM if rng.random() < 0.7 else OTHERS)
    path = rng.choices(["chat/completions", "responses", "completions", "embeddings"], [70, 15, 13, 2])[0]
    name, variant, headers = _variant(rng, model)
    tags: list[str] = []
    body = {"model": name, **_BODIES[path](rng, model, variant, tags)}
    if model is VLLM[0] and rng.random() < 0.2:
        del body["model"]  # the proxy then uses the first model in the server's list
    data = encoded(rng, body)
    if rng.random() < _MISTAKES:
        data, headers = with_mistake(rng, body, headers, tags)
    label = " ".join([path, model.name, DIALECTS[model.name], variant, *tags])
    return Case("plan", index, lane_of(model), f"/v1/{path}", data, label, headers)


def _variant(rng: Random, model: ServedModel) -> tuple[str, str, dict[str, str]]:
    """Return the name of the model in the request, the variant for the label, and the headers."""
    headers = {"Content-Type": "application/json"}
    if rng.random() < 0.1:
        headers |= {"Accept": "text/event-stream", "Traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
    if rng.random() < 0.1:
        headers |= {"Authorization": "Bearer client", "Cookie": "a=b", "X-Request-Id": f"id-{rng.random()}"}
    named = rng.choice(["aligned", "raw", "raw-matched"] if model.bundle else ["raw"])
    way = rng.choices(["default", "suffix", "header", "both"], [45, 37, 16, 2])[0]
    if way in ("header", "both"):
        headers["X-Drpo-Variant"] = named
    name = f"{model.name}@{named}" if way in ("suffix", "both") else model.name
    return name, "default" if way == "default" else f"{way}={named}", headers


def _chat(rng: Random, model: ServedModel, _variant: str, tags: list[str]) -> Json:
    body: Json = {"messages": _messages(rng, model, tags)}
    _add_common(rng, body, tags)
    _add_length(rng, body, ("max_tokens", "max_completion_tokens"), tags)
    if rng.random() < 0.12:
        body |= {"logprobs": rng.random() < 0.9} | ({"top_logprobs": rng.randint(0, 5)} if rng.random() < 0.6 else {})
        tags.append("logprobs")
    if rng.random() < 0.1:
        body["response_format"] = rng.choice(_FORMATS)
        tags.append("response_format")
    if rng.random() < 0.05:
        schema_only = DIALECTS[model.name] == "llama.cpp" or rng.random() < 0.6
        body["structured_outputs"] = {"json": _SCHEMA} if schema_only else {"regex": "[a-z]+"}
        tags.append("structured_outputs")
    if rng.random() < 0.03:
        body |= rng.choice([{"guided_json": _SCHEMA}, {"guided_choice": ["a", "b"]}, {"grammar": "root ::= x"}])
        tags.append("guided")
    if rng.random() < (0.25 if model.kind == "chat" else 0.005):
        body["tools"] = [_TOOL] * rng.randint(0, 2)
        body |= {"tool_choice": rng.choice(["auto", "none", "required"])} if rng.random() < 0.5 else {}
        tags.append("tools")
    return body


def _messages(rng: Random, model: ServedModel, tags: list[str]) -> list[Json]:
    count = rng.choices([1, 2, 3, 6, 20, 105], [50, 22, 13, 10, 4, 1])[0]
    messages: list[Json] = []
    if rng.random() < 0.35:
        roles = rng.choice([["system"], ["system"], ["developer"], ["system", "system"], ["developer", "system"]])
        messages += [
            {"role": role, "content": _content(rng, f"Be brief. {rng.choice(QUERIES)}", tags)} for role in roles
        ]
        tags.append("+".join(roles))
    for turn in range(count):
        messages.append({"role": "user", "content": _content(rng, rng.choice(QUERIES), tags)})
        if turn < count - 1:
            messages.append({"role": "assistant", "content": _content(rng, rng.choice(ANSWERS), tags)})
    if rng.random() < 0.05:
        messages.insert(rng.randint(0, len(messages) - 1), {"role": "system", "content": "Answer in rhyme."})
        tags.append("late-system")
    if model.kind == "chat" and rng.random() < 0.05:
        messages += _tool_turns(rng)
        tags.append("tool-turns")
    elif rng.random() < 0.1:
        messages.append({"role": "assistant", "content": rng.choice([*ANSWERS, " The", "Sure,\n# Query:"])})
        tags.append("prefill")
    tags.append(f"turns={count}")
    return messages


def _tool_turns(rng: Random) -> list[Json]:
    call = {"id": "call-1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call-1", "content": rng.choice(ANSWERS)},
    ]


def _content(rng: Random, text: str, tags: list[str]) -> Any:
    """Return a text as a string or as parts. Some texts are long, empty, or contain a marker."""
    text = _text(rng, text, tags)
    way = rng.random()
    if way < 0.82:
        return text
    tags.append("parts")
    parts = [{"type": "text", "text": text}]
    if way > 0.95:
        parts += [{"type": "text", "text": rng.choice(QUERIES)}] * rng.randint(1, 2)
    return parts


def _text(rng: Random, text: str, tags: list[str]) -> str:
    way = rng.random()
    if way < 0.08:
        tags.append("marker")
        return rng.choice(["{1}\n{0} {1}", "{0} {1}", "{1}\r{0}\n", "{1} {0}", "\u2028{0}{1}"]).format(
            rng.choice(MARKERS), text
        )
    if way < 0.1:
        tags.append("empty")
        return rng.choice(["", " ", "\n\n"])
    if way < 0.15:
        tags.append("long")
        return f"{text} " * rng.choice([5, 20, 40, 80, 300])
    if way < 0.1505:
        tags.append("huge")
        return f"{text} " * (120_000 // (len(text) + 1))
    return rng.choice(["", "", "", " ", "\n"]) + text


def _add_common(rng: Random, body: Json, tags: list[str]) -> None:
    """Add the fields that chat and completions have in common."""
    if rng.random() < 0.35:
        _add_stream(rng, body, tags)
    if rng.random() < 0.1:
        body["n"] = rng.choice([1, 2, 3])
        tags.append("n")
    for name, values in _SAMPLING:
        if rng.random() < 0.15:
            body[name] = rng.choice(values)
            tags.append(name)
    if rng.random() < 0.25:
        body["stop"] = rng.choice(_STOPS)
        tags.append("stop")
    for name, value in rng.sample(_OTHER_FIELDS, rng.choices([0, 1, 3], [80, 15, 5])[0]):
        body[name] = value
        tags.append(name)


def _add_stream(rng: Random, body: Json, tags: list[str]) -> None:
    body["stream"] = rng.random() < 0.9
    if rng.random() < 0.4:
        usage = rng.choice([True, False])
        body["stream_options"] = rng.choice([{"include_usage": usage}, {"continuous_usage_stats": True}, None])
    tags.append("stream")


def _add_length(rng: Random, body: Json, names: tuple[str, ...], tags: list[str]) -> None:
    for name in names:
        if rng.random() < 0.2:
            body[name] = rng.choice([1, 16, 100, 256, 400, 1000, 5000, None])
            tags.append(name)


def _completion(rng: Random, model: ServedModel, variant: str, tags: list[str]) -> Json:
    injected = variant.endswith("aligned")
    prompt: Any = _text(rng, rng.choice(QUERIES), tags)
    if not injected and rng.random() < 0.15:
        prompt = rng.choice([[prompt, "two"], [1, 2, 3], ""])
    body: Json = {"prompt": prompt}
    _add_common(rng, body, tags)
    _add_length(rng, body, ("max_tokens",), tags)
    if rng.random() < 0.2:
        body["logprobs"] = rng.randint(0, 3)
        tags.append("logprobs")
    if not injected and rng.random() < 0.1:
        body |= rng.choice([{"echo": True}, {"suffix": "end"}, {"prompt_logprobs": 1}])
    if rng.random() < 0.05:
        body["response_format"] = rng.choice(_FORMATS)
        tags.append("response_format")
    return body


def _response(rng: Random, model: ServedModel, _variant: str, tags: list[str]) -> Json:
    body: Json = {"input": _input(rng, tags)}
    if rng.random() < 0.4:
        body["instructions"] = _text(rng, "Be kind.", tags)
        tags.append("instructions")
    if rng.random() < 0.3:
        _add_stream(rng, body, tags)
        body.pop("stream_options", None)
    _add_length(rng, body, ("max_output_tokens",), tags)
    if rng.random() < 0.15:
        formats: Json = {"type": "json_schema", "name": "answer", "schema": _SCHEMA}
        body["text"] = {"format": rng.choice([{"type": "text"}, {"type": "json_object"}, formats])}
        tags.append("text.format")
    for name, values in _SAMPLING[:2]:
        if rng.random() < 0.2:
            body[name] = rng.choice(values)
    if rng.random() < 0.15:
        body |= {"include": ["message.output_text.logprobs"], "top_logprobs": rng.randint(0, 3)}
        tags.append("logprobs")
    if rng.random() < 0.2:
        body |= rng.choice([{"store": False}, {"metadata": {"a": "b"}}, {"truncation": "auto"}, {"user": "u"}])
    if model.kind == "chat":
        _add_stored(rng, body, tags)
    return body


def _add_stored(rng: Random, body: Json, tags: list[str]) -> None:
    """Add fields that need a server with stored responses or tool calls."""
    if rng.random() < 0.15:
        body["previous_response_id"] = "resp_1"
        tags.append("previous")
    if rng.random() < 0.1:
        body["tools"] = [{"type": "function", "name": "look_up", "parameters": _SCHEMA}]
        tags.append("tools")
    if rng.random() < 0.04:
        del body["input"]
        body["prompt"] = {"id": "stored"}
        tags.append("stored-prompt")


def _input(rng: Random, tags: list[str]) -> Any:
    text = rng.choice(QUERIES)
    if rng.random() < 0.5:
        return _text(rng, text, tags)
    tags.append("items")
    items: list[Json] = [{"role": "user", "content": _text(rng, text, tags)}]
    if rng.random() < 0.3:
        items.insert(0, {"role": rng.choice(["system", "developer"]), "content": "Short answers."})
    if rng.random() < 0.4:
        answer = [{"type": "output_text", "text": rng.choice(ANSWERS)}]
        question = [{"type": "input_text", "text": _text(rng, rng.choice(QUERIES), tags)}]
        items += [{"type": "message", "role": "assistant", "content": answer}, {"role": "user", "content": question}]
    if rng.random() < 0.1:
        items.append({"role": "assistant", "content": "It"})
        tags.append("prefill")
    return items


def _embedding(rng: Random, _model: ServedModel, _variant: str, _tags: list[str]) -> Json:
    return {"input": rng.sample(QUERIES, rng.randint(1, 3)), "encoding_format": "float"}


_BODIES: Final[dict[str, Callable[[Random, ServedModel, str, list[str]], Json]]] = {
    "chat/completions": _chat,
    "completions": _completion,
    "responses": _response,
    "embeddings": _embedding,
}
