"""Holds the facts about a request that the log, the metrics, the trace and experiments need.

A ReplyResult (proxy/inference/reply_progress.py) holds the facts about the reply to the request.
"""

from typing import NamedTuple

from proxy.core.tracing import Trace
from proxy.inference.plan import Plan


class RequestContext(NamedTuple):
    """The facts about one request. It is a named tuple, because that is faster to create than a frozen dataclass.

    Attributes:
        request_id: The client's X-Request-Id, or an id that the proxy generated.
        route: The path of the endpoint.
        client: The name of the client's API key; None if no keys are required.
        trace: The span of the request; None if traces are not exported.
        body: The client's body. It is empty if neither the log nor the store keeps the body, or if the body is a form.
        plan: The plan of the request; None if the request failed before its plan was made.
    """

    request_id: str
    route: str
    client: str | None
    trace: Trace | None
    body: bytes
    plan: Plan | None
