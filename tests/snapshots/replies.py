"""Makes server answers of every format, complete and broken, and the requests for them, from a seed and a number."""

import json
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final

from tests.snapshots.cases import DIALECTS, QUERIES, VLLM, Case, encoded, lane_of
from tests.snapshots.cases import OTHERS as LLAMA_AND_UNKNOWN
from tests.snapshots.scripted_backend import Answer, ServedModel

Json = dict[str, Any]

_MODELS: Final = {model.name: model for model in (*VLLM, *LLAMA_AND_UNKNOWN)}
_SITUATIONS: Final[Sequence[tuple[str, str, int]]] = (
    ("chat/completions", "base-4096", 24),
    ("chat/completions", "pinned-4096", 12),
    ("chat/completions", "llama-base", 8),
    ("chat/completions", "llama-pinned", 4),
    ("chat/completions", "chat-4096", 16),
    ("chat/completions", "llama-chat", 5),
    ("responses", "base-4096", 10),
    ("responses", "pinned-4096", 5),
    ("responses", "chat-4096", 6),
    ("completions", "base-4096@aligned", 5),
    ("completions", "base-4096", 5),
)
"""The paths and models of the cases, and the weight with which each is drawn."""
_FRAGMENTS: Final = (
    "Hello", " world", ", ", "\n", "\n\n", "é", "日本", "👩‍👩‍👧", " ", "\n\n# Query:", "\nUser:", "END", "EN", "D",
    "# ", "\n#", "\u2028", '"quoted"', "\\", "\x00", "", "data: x", "[DONE]", "\r\n", "\t", "ﷺ", "a" * 400,
)  # fmt: skip
_STOPS: Final = (None, "END", ["END", "\n\n"], ["END", "日", "é", "\n#"], ["a", "b", "c", "zzz"])
_FAILURES: Final[Sequence[tuple[int, str, bytes]]] = (
    (400, "application/json", b'{"error": {"message": "too long", "type": "BadRequestError", "code": 400}}'),
    (404, "application/json", b'{"object": "error", "message": "no model", "code": 404}'),
    (422, "application/json; charset=utf-8", '{"detail": "né"}'.encode()),
    (429, "application/json", b'{"error": {"message": "slow down"}}'),
    (429, "text/plain", b"slow down"),
    (401, "text/html", b"<html>who?</html>"),
    (500, "application/json", b'{"error": "broken"}'),
    (500, "text/html", b"<html>10.0.0.1 broken</html>"),
    (502, "text/html", b"<html>bad gateway</html>"),
    (503, "application/json", b'{"error": {"message": "later"}}'),
    (503, "text/plain", b""),
    (504, "application/json", b"[]"),
    (200, "application/json", b"not json"),
    (200, "application/json", b"[1]"),
    (200, "application/json", b'{"object": "nothing"}'),
    (200, "application/json", b'{"choices": []}'),
    (200, "text/html", b"<html></html>"),
    (204, "application/json", b""),
    (302, "text/plain", b"elsewhere"),
)


def reply_case(seed: int, index: int) -> Case:
    """Return the reply case of this number."""
    rng = Random(f"{seed}/reply/{index}")
    path, name, _ = rng.choices(_SITUATIONS, [weight for *_, weight in _SITUATIONS])[0]
    model = _MODELS[name.partition("@")[0]]
    tags: list[str] = []
    body = _request(rng, path, name, tags)
    answer = _failure(rng, tags) if rng.random() < 0.12 else _answer(rng, path, model, body, tags)
    label = " ".join([path, name, DIALECTS[model.name], *tags])
    headers = {"Content-Type": "application/json"}
    return Case("reply", index, lane_of(model), f"/v1/{path}", encoded(rng, body), label, headers, answer)


def _request(rng: Random, path: str, name: str, tags: list[str]) -> Json:
    text = rng.choice(QUERIES)
    given: dict[str, Json] = {
        "chat/completions": {"messages": [{"role": "user", "content": text}]},
        "responses": {"input": text},
        "completions": {"prompt": text},
    }
    body: Json = {"model": name, **given[path]}
    if path == "chat/completions" and rng.random() < 0.1:
        body["messages"].append({"role": "assistant", "content": "It"})
        tags.append("prefill")
    if rng.random() < 0.65:
        body["stream"] = True
        tags.append("stream")
    if path != "responses":
        _add_options(rng, path, body, tags)
    elif rng.random() < 0.3:
        body |= {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "metadata": {"a": "b"}}
        tags.append("logprobs")
    return body


def _add_options(rng: Random, path: str, body: Json, tags: list[str]) -> None:
    if body.get("stream") and rng.random() < 0.5:
        body["stream_options"] = {"include_usage": rng.random() < 0.8}
        tags.append(f"usage={body['stream_options']['include_usage']}")
    if rng.random() < 0.25:
        body["n"] = rng.randint(2, 3)
        tags.append(f"n={body['n']}")
    if rng.random() < 0.25:
        body |= {"logprobs": 2} if path == "completions" else {"logprobs": True, "top_logprobs": rng.randint(0, 3)}
        tags.append("logprobs")
    stop = rng.choice(_STOPS)
    if stop is not None:
        body["stop"] = stop
        tags.append("stop")


def _failure(rng: Random, tags: list[str]) -> Answer:
    status, content_type, body = rng.choice(_FAILURES)
    headers = {"Content-Type": content_type, "X-Secret": "no"}
    if rng.random() < 0.5:
        headers |= {"Retry-After": "7", "X-Ratelimit-Remaining-Tokens": "3", "Server": "other"}
    tags.append(f"failure={status}/{content_type}")
    return Answer(() if status == 204 else (body,), status, headers)


def _answer(rng: Random, path: str, model: ServedModel, body: Json, tags: list[str]) -> Answer:
    """Return a valid answer in the format of the server's endpoint, or one that is cut off."""
    shape = "completion" if model.kind == "completion" else "chat" if path == "chat/completions" else "response"
    maker = _AnswerMaker(rng, shape, model, body, tags)
    if not body.get("stream"):
        data = json.dumps(maker.whole(), ensure_ascii=rng.random() < 0.5).encode()
        cut = rng.random() < 0.06
        tags.extend(["cut"] if cut else [])
        headers = {"Content-Type": rng.choice(["application/json", "application/json; charset=utf-8"])}
        return Answer((data[: rng.randint(0, len(data) - 1)] if cut else data,), 200, headers, cut)
    return _streamed(rng, maker.events(), tags)


class _AnswerMaker:
    """Makes the payloads of one answer."""

    def __init__(self, rng: Random, shape: str, model: ServedModel, body: Json, tags: list[str]) -> None:
        self._rng = rng
        self._shape = shape
        self._llama = DIALECTS[model.name] == "llama.cpp"
        self._body = body
        self._tags = tags
        kind = {"completion": "text_completion", "chat": "chat.completion", "response": "response"}[shape]
        self._base: Json = {"id": rng.choice(["cmpl-1", "chatcmpl-2", "x"]), "object": kind, "created": 7}
        self._base |= {"model": model.name} | ({"system_fingerprint": "f"} if rng.random() < 0.3 else {})

    def whole(self) -> Json:
        if self._shape == "response":
            return self._response("completed", "".join(self._texts()))
        choices = [self._whole_choice(index) for index in range(self._body.get("n", 1))]
        return {**self._base, "choices": choices} | ({"usage": self._usage()} if self._rng.random() < 0.9 else {})

    def events(self) -> list[Json]:
        if self._shape == "response":
            return self._response_events()
        queues = [self._chunks(index) for index in range(self._body.get("n", 1))]
        chunks: list[Json] = []
        while queues:
            queue = self._rng.choice(queues)
            chunks.append(self._frame([queue.pop(0)]))
            queues = [one for one in queues if one]
        way = self._rng.choice(["own", "own", "none", "rides", "nulls"])
        if self._llama:
            way = "rides"
        self._tags.append(f"usage-{way}")
        if way == "rides":
            chunks[-1]["usage"] = self._usage()
        if way == "nulls":
            chunks = [{**chunk, "usage": None} for chunk in chunks]
        return [*chunks, self._frame([]) | {"usage": self._usage()}] if way in ("own", "nulls") else chunks

    def _frame(self, choices: list[Json]) -> Json:
        return {**self._base, "object": self._base["object"].replace("chat.completion", "chat.completion.chunk")} | {
            "choices": choices
        }

    def _texts(self) -> list[str]:
        return [self._rng.choice(_FRAGMENTS) for _ in range(self._rng.choice([0, 1, 3, 8, 30]))]

    def _finish(self) -> str | None:
        return self._rng.choice(["stop", "stop", "length", "content_filter", None])

    def _usage(self) -> Json:
        details = {"prompt_tokens_details": {"cached_tokens": 4}} if self._rng.random() < 0.3 else {}
        return {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16, **details}

    def _whole_choice(self, index: int) -> Json:
        texts = self._texts()
        choice: Json = {"index": index, "finish_reason": self._finish(), "logprobs": self._logprobs(texts)}
        if self._rng.random() < 0.5:
            choice["stop_reason"] = None
        if self._shape == "completion":
            return {**choice, "text": "".join(texts)}
        message: Json = {"role": "assistant", "content": "".join(texts)}
        if self._rng.random() < 0.3:
            self._tags.append("tool-calls")
            message = {"role": "assistant", "content": None, "tool_calls": [self._call()]}
        return {**choice, "message": message}

    def _call(self) -> Json:
        return {"index": 0, "id": "call-1", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}}

    def _logprobs(self, tokens: Sequence[str]) -> Json | None:
        if not self._body.get("logprobs") and "include" not in self._body:
            return None
        if self._shape == "completion" and not self._llama:
            tops = [{token: -0.5, "x": -1.5, "é": -2.25} for token in tokens]
            values = [-0.5 for _ in tokens]
            return {"tokens": list(tokens), "token_logprobs": values, "top_logprobs": tops, "text_offset": [0]}
        top = [{"token": "x", "logprob": -1.5, "bytes": [120], "id": 3}] * 3
        entry = {"logprob": -0.5, "bytes": None, "top_logprobs": top}
        return {"content": [{"token": token, **entry} for token in tokens]}

    def _chunks(self, index: int) -> list[Json]:
        """Return the choices in the chunks of one answer, in order."""
        texts = self._texts()
        chunks = [self._chunk(index, text) for text in texts]
        if self._shape == "chat":
            opening = {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            chunks = [opening, *chunks]
            if self._rng.random() < 0.3:
                self._tags.append("tool-calls")
                call = {"index": index, "delta": {"tool_calls": [self._call()]}, "finish_reason": None}
                chunks.append(call)
        last = self._chunk(index, "") if self._rng.random() < 0.6 or not chunks else chunks.pop()
        return [*chunks, {**last, "finish_reason": self._finish()} | ({"stop_reason": 5} if index else {})]

    def _chunk(self, index: int, text: str) -> Json:
        choice: Json = {"index": index, "logprobs": self._logprobs([text] if text else []), "finish_reason": None}
        return {**choice, "text": text} if self._shape == "completion" else {**choice, "delta": {"content": text}}

    def _response(self, status: str, text: str) -> Json:
        part = {"type": "output_text", "text": text, "annotations": []}
        item = {"type": "message", "id": "msg_backend", "role": "assistant", "content": [part]}
        return {**self._base, "id": "resp_backend", "status": status, "output": [item], "usage": {"total_tokens": 9}}

    def _response_events(self) -> list[Json]:
        texts = self._texts()
        deltas = [{"type": "response.output_text.delta", "delta": text, "output_index": 0} for text in texts]
        status = self._rng.choice(["completed", "completed", "incomplete", "failed"])
        created = {"type": "response.created", "response": self._response("in_progress", "")}
        return [created, *deltas, {"type": f"response.{status}", "response": self._response(status, "".join(texts))}]


def _streamed(rng: Random, payloads: Sequence[Json], tags: list[str]) -> Answer:
    """Return the payloads as server-sent events, in pieces and with some defects."""
    newline = rng.choices(["\n", "\r\n", "\r"], [70, 25, 5])[0]
    ascii_only = rng.random() < 0.3
    events = [_event(payload, newline, ascii_only) for payload in payloads]
    if rng.random() < 0.25:
        events.insert(rng.randint(0, len(events)), f": ping{newline}{newline}")
        tags.append("comment")
    ending = rng.choices(["done", "missing-done", "error-event", "truncated", "closed"], [74, 6, 8, 6, 6])[0]
    error = f'data: {{"error": {{"message": "é broke", "code": 500}}}}{newline}{newline}'
    if ending == "error-event":
        events[rng.randint(0, len(events)) :] = [
            error,
            *([f"data: [DONE]{newline}{newline}"] if rng.random() < 0.5 else []),
        ]
    elif ending != "missing-done" and "type" not in payloads[0]:
        events.append(f"data: [DONE]{newline}{newline}")
    encoded_events = [event.encode() for event in events]
    if ending in ("truncated", "closed"):
        whole = b"".join(encoded_events)
        encoded_events = [whole[: rng.randint(0, len(whole) - 8)]]
    tags += [ending, {"\n": "lf", "\r\n": "crlf", "\r": "cr"}[newline]]
    pieces = _with_whole_line_ends(_SPLITS[rng.choice(list(_SPLITS))](rng, encoded_events))
    headers = {"Content-Type": rng.choice(["text/event-stream", "text/event-stream; charset=utf-8"])}
    return Answer(tuple(piece for piece in pieces if piece), 200, headers, cut=ending == "closed")


def _event(payload: Json, newline: str, ascii_only: bool) -> str:
    data = json.dumps(payload, ensure_ascii=ascii_only)
    name = f"event: {payload['type']}{newline}" if "type" in payload else ""
    return f"{name}data: {data}{newline}{newline}"


def _at_random_positions(rng: Random, events: Sequence[bytes]) -> list[bytes]:
    whole = b"".join(events)
    positions = sorted(rng.randint(0, len(whole)) for _ in range(rng.randint(1, 12)))
    return [whole[start:end] for start, end in zip([0, *positions], [*positions, len(whole)], strict=True)]


def _with_whole_line_ends(pieces: Sequence[bytes]) -> list[bytes]:
    """Return the pieces without a split CR LF. With one, the reply would depend on when the halves arrive."""
    mended: list[bytes] = []
    for piece in pieces:
        if mended and mended[-1].endswith(b"\r") and piece.startswith(b"\n"):
            mended[-1] += b"\n"
            piece = piece[1:]
        mended.append(piece)
    return mended


def _few_bytes(_rng: Random, events: Sequence[bytes]) -> list[bytes]:
    """Return pieces of 7 bytes, some of which end within a character, and then the rest."""
    whole = b"".join(events)
    return [*(whole[start : start + 7] for start in range(0, min(len(whole), 210), 7)), whole[210:]]


_SPLITS: Final[Mapping[str, Callable[[Random, Sequence[bytes]], list[bytes]]]] = {
    "by-event": lambda _rng, events: list(events),
    "at-once": lambda _rng, events: [b"".join(events)],
    "odd": _at_random_positions,
    "few-bytes": _few_bytes,
}
