"""The errors of the proxy. A client gets a ProxyError as an error object in OpenAI's format.

    ProxyError                       ends a request; each subclass defines its HTTP status, type and code
      BadRequestError        400     the request is not valid, or its model cannot serve it
      UnauthorizedError      401     no key, or an unknown key
      ForbiddenError         403     the admin listener refuses the request: it names a foreign host or origin
      UnknownModelError      404     the model is not served
      UnknownRouteError      404     the path is not served
      UnknownExperimentError 404     no experiment has this name
      MethodError            405     the path is not served with this method
      ReloadRefusedError     409     the new configuration is not valid
      SlowRequestError       408     the headers or the body of the request did not arrive in time
      TooLargeError          413     the body of the request is larger than the limit
      UnsupportedMediaError  415     the body is compressed, or has a media type that the path does not take
      RateLimitError         429     the rate limit of the key is reached (Retry-After)
      OverloadedError        503     the server is too busy (Retry-After)
      DrainingError          503     the server is shutting down (Retry-After)
      NoStatisticsError      501     the extra `experiments` is not installed
      StoreDownError         503     the store of experiments is not available now (Retry-After)
      BackendUnavailableError 502    the backend closed the connection before it answered
        BackendNotReadyError 503     no backend can be reached, or none lists the model yet (Retry-After)
      BackendProtocolError   502     the backend's reply is not valid
      BackendReportedError   502     the backend reports an error; it has the backend's status if there is one
      BackendTimeoutError    504     the backend did not answer in time
    StartupError                     the server cannot start; the message names the flag or the file with the problem
      EmbeddedError                  the embedded model cannot run
    StoreError                       the store of experiments cannot be written or read now
      StoreRefusedError              the store can be reached, but its database rejected a row

"(Retry-After)" marks the errors whose reply has this header. Clients read the messages, so a message never contains a
key, a prompt or a stack trace. The module does not depend on requests or on backends.
"""

from collections.abc import Sequence
from math import ceil

import orjson

from index.errors import DrpoError


class ProxyError(DrpoError):
    """An error that ends a request.

    Attributes:
        status: The HTTP status.
        type: The `type` of OpenAI's error object.
        code: The `code` of OpenAI's error object.
        param: The name of the wrong field in the request; None if the error is not about one field.
        wait: Seconds until the client may send the request again; None if it is not known.
    """

    status = 500
    type = "server_error"
    code: str | None = None
    wait: float | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param

    @property
    def headers(self) -> dict[str, str]:
        """The headers that the error reply has in addition to Content-Type, such as Retry-After in whole seconds."""
        return {} if self.wait is None else {"Retry-After": str(max(1, ceil(self.wait)))}

    @property
    def outcome(self) -> str:
        """How a request with this error ended: one of a few fixed words, for the log and for metrics."""
        return self.code or "bad_request"

    @property
    def body(self) -> dict[str, object]:
        """OpenAI's error object."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}

    @property
    def json(self) -> bytes:
        """The error object, serialized as JSON."""
        return orjson.dumps(self.body)


class BadRequestError(ProxyError):
    """The request is not valid, or its model cannot serve it."""

    status = 400
    type = "invalid_request_error"


class UnauthorizedError(ProxyError):
    """The request has no key, or an unknown one."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        """The header WWW-Authenticate, which names the authentication scheme (RFC 6750, section 3)."""
        return {"WWW-Authenticate": "Bearer"}


class ForbiddenError(ProxyError):
    """The admin listener refuses the request, because its Host or Origin header names another machine or web page."""

    status = 403
    type = "permission_error"
    code = "forbidden"


class UnknownModelError(ProxyError):
    """No backend lists the model. On the operator page, the error means that no bundle serves the model."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class UnknownRouteError(ProxyError):
    """The server does not serve the path."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class UnknownExperimentError(ProxyError):
    """No experiment has this name."""

    status = 404
    type = "invalid_request_error"
    code = "experiment_not_found"


class MethodError(ProxyError):
    """The path is served, but not with the method of the request."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        self.allowed = ", ".join(allowed)
        super().__init__(f"This path takes {self.allowed}.")

    @property
    def headers(self) -> dict[str, str]:
        """The header Allow, which lists the methods of the path (RFC 9110, section 10.2.1)."""
        return {"Allow": self.allowed}


class ReloadRefusedError(ProxyError):
    """The new configuration is not valid, and the old one stays in use."""

    status = 409
    type = "invalid_request_error"
    code = "reload_refused"


class SlowRequestError(ProxyError):
    """The headers or the body of a request did not arrive before the deadline."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class TooLargeError(ProxyError):
    """The body of the request is larger than the limit (--max-body-bytes)."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedMediaError(ProxyError):
    """The body of the request is compressed, or has a media type that the path does not take."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class RateLimitError(ProxyError):
    """The rate limit of a key is reached."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class OverloadedError(ProxyError):
    """The server cannot take the request now, for example because too many requests are in flight."""

    status = 503
    type = "overloaded_error"
    code = "overloaded"
    wait = 1.0


class DrainingError(OverloadedError):
    """The server is shutting down."""

    code = "draining"


class NoStatisticsError(ProxyError):
    """The extra `experiments`, which installs the libraries for statistics, is not installed."""

    status = 501
    code = "statistics_not_installed"

    def __init__(self, missing: str | None) -> None:
        super().__init__(f"Statistics need {missing or 'a library'}. Run: pip install 'drpo-proxy[experiments]'")


class StoreDownError(OverloadedError):
    """The store of experiments is not available now. A client may safely send the same feedback again."""

    code = "store_unavailable"


class BackendUnavailableError(ProxyError):
    """The backend closed the connection before it answered. The backend may have begun to generate.

    A backend that refuses a small request of the proxy itself, such as a question to a model, also raises this error.
    """

    status = 502
    type = "backend_error"
    code = "backend_unavailable"


class BackendNotReadyError(BackendUnavailableError):
    """No backend can be reached, or a backend that may serve the model has not listed its models yet."""

    status = 503

    def __init__(self, message: str, *, wait: float = 5.0, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.wait = wait


class BackendProtocolError(ProxyError):
    """The backend's reply is not valid, so it cannot be relayed."""

    status = 502
    type = "backend_error"
    code = "backend_protocol"


class BackendReportedError(ProxyError):
    """The backend reports an error. The message, the type and the code are the backend's."""

    status = 502
    type = "backend_error"

    def __init__(self, message: str, *, status: int, kind: str, code: str | None, param: str | None) -> None:
        super().__init__(message, param=param)
        self.status, self.type, self.code = status, kind, code

    @property
    def outcome(self) -> str:
        """The word `backend_error`. The code is not used, because a backend may send any string."""
        return "backend_error"


class BackendTimeoutError(ProxyError):
    """The backend did not answer in time."""

    status = 504
    type = "backend_error"
    code = "backend_timeout"


class StartupError(DrpoError):
    """The server cannot start. The message names the wrong flag or file, and says what the operator can do about it."""


class EmbeddedError(StartupError):
    """The embedded model cannot run."""


class StoreError(DrpoError):
    """The store of experiments cannot be written or read now."""


class StoreRefusedError(StoreError):
    """The store can be reached, but its database rejected a row."""
