"""What is known of a request apart from its reply: for the log line, metrics, the trace and experiments."""

from typing import NamedTuple

from proxy.core.tracing import Trace
from proxy.inference.plan import Plan


class RequestContext(NamedTuple):
    """One request. A tuple, because one is made for each request and a frozen dataclass takes longer.

    Attributes:
        request_id: The client's X-Request-Id, or an id that the proxy generated.
        route: The path of the endpoint.
        client: The name of the client's API key; None if no keys are required.
        trace: The span of the request; None if traces are not exported.
        body: The body as the client sent it, if contents are logged; else empty.
        plan: What was sent to the backend; None if the request failed before that was decided.
    """

    request_id: str
    route: str
    client: str | None
    trace: Trace | None
    body: bytes
    plan: Plan | None
