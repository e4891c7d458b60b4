"""Writes stores for tests of the harvest, with the store of the proxy itself."""

import json
from collections.abc import Sequence
from typing import Any

from proxy.experiments.records import Content, Exposure, Feedback, Judgement
from proxy.experiments.store.dsn import StoreDsn
from proxy.experiments.store.store import Batch, Store

Turn = tuple[str, str]


def turns(*texts: str) -> list[dict[str, str]]:
    """Return messages that begin with the user and alternate."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


def chat_reply(text: str) -> str:
    return json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]})


def stream_reply(text: str) -> str:
    words = text.split(" ")
    parts = [word if number == 0 else f" {word}" for number, word in enumerate(words)]
    events = [json.dumps({"choices": [{"index": 0, "delta": {"content": part}}]}) for part in parts]
    return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])


class Recording:
    """Collects requests, and writes them to a store."""

    def __init__(self, *, logs_content: bool = True) -> None:
        self._logs_content = logs_content
        self._exposures: list[Exposure] = []
        self._contents: list[Content] = []
        self._judgements: list[Judgement] = []
        self._feedback: list[Feedback] = []

    def add(
        self,
        user: str,
        messages: str | Sequence[dict[str, Any]],
        answer: str,
        *,
        vote: float | None = None,
        comment: str = "",
        judged: tuple[float, str | None] | None = None,
        body: str | None = None,
        asked: str | None = None,
        knows_person: bool = True,
        **fields: Any,
    ) -> str:
        """Add one request, and return its request id."""
        number = len(self._exposures) + 1
        request_id = f"r{number}"
        values: dict[str, Any] = {
            "experiment": "tone",
            "arm": "new",
            "propensity": 0.5,
            "override": False,
            "model": "m",
            "variant": "aligned",
            "bundle": None,
            "asked": b"c" if knows_person else None,
            "latency": 1.0,
            "time_to_first_token": None,
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "ended_by_itself": True,
            "truncated": False,
            "error": False,
            "client_gone": False,
            "time": 1_000.0 + number,
            **fields,
        }
        identity = b"%016d" % number
        exposure = Exposure(
            id=identity, unit=user.encode(), request_id=request_id, completion_id=f"c{number}", **values
        )
        self._exposures.append(exposure)
        if self._logs_content:
            sent = turns(messages) if isinstance(messages, str) else list(messages)
            request = asked or json.dumps({"model": "m", "messages": sent})
            self._contents.append(Content(identity, request, body or chat_reply(answer)))
        if vote is not None:
            self._feedback.append(Feedback(request_id, "thumbs_up", vote, None, 2_000.0 + number))
        if comment:
            self._feedback.append(Feedback(f"c{number}", "comment", None, comment, 2_000.0 + number))
        if judged:
            self._judgements.append(Judgement(identity, "old", judged[0], "critic", 2_000.0, judged[1]))
        return request_id

    def rate(self, subject: str, value: float, metric: str = "thumbs_up") -> None:
        """Add feedback on a request id or a completion id."""
        self._feedback.append(Feedback(subject, metric, value, None, 3_000.0))

    def write(self, dsn: StoreDsn) -> None:
        """Write everything to a store."""
        with Store(dsn) as store:
            store.write(Batch(self._exposures, self._contents, self._judgements, self._feedback))
