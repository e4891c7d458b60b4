"""Everything that can go wrong while serving, and how each is said in OpenAI's shape. Knows no request and no backend.

    ProxyError                       status, type and code are class attributes
      BadRequestError        400     the request cannot be served as it is
      UnauthorizedError      401     no key, or not one of ours
      ForbiddenError         403     the admin listener is not for this page or name
      UnknownModelError      404     no backend lists the model
      UnknownRouteError      404     not in the table of served paths
      UnknownExperimentError 404     no experiment of this name runs here
      MethodError            405     the path exists, the method does not
      ReloadRefusedError     409     what was to be served instead is not right
      SlowRequestError       408     the body did not arrive in time
      TooLargeError          413     the body is larger than allowed
      UnsupportedMediaError  415     not JSON, or compressed
      RateLimitError         429     the key has used up its requests or tokens (Retry-After)
      OverloadedError        503     too many requests in flight (Retry-After)
      DrainingError          503     shutting down (Retry-After)
      NoStatisticsError      501     the extra `experiments` is not installed
      StoreDownError         503     feedback cannot be kept now (Retry-After)
      BackendUnavailableError 502    no backend could be reached
      BackendProtocolError   502     the backend's reply is not a reply
      BackendTimeoutError    504     the backend did not answer in time
    StartupError                     the server cannot start; the message names the flag or the file
      EmbeddedError                  the embedded model cannot run

Messages go to clients: never a key, a prompt, or a stack trace.
"""

from collections.abc import Sequence
from math import ceil

import orjson

from index.errors import DrpoError


class ProxyError(DrpoError):
    """A request ends here, with `status` (HTTP), `type` and `code` (OpenAI error body); `param` names the field."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to the error."""
        return {}

    @property
    def body(self) -> dict[str, object]:
        """OpenAI's error object."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}

    @property
    def json(self) -> bytes:
        """The error object as JSON."""
        return orjson.dumps(self.body)


class BadRequestError(ProxyError):
    """The request cannot be served as it is."""

    status = 400
    type = "invalid_request_error"


class UnauthorizedError(ProxyError):
    """No key, or not one of ours."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        """How to say who one is (RFC 6750, 3)."""
        return {"WWW-Authenticate": "Bearer"}


class ForbiddenError(ProxyError):
    """The admin listener is not for this page or name."""

    status = 403
    type = "permission_error"
    code = "forbidden"


class UnknownModelError(ProxyError):
    """No backend lists the model."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class UnknownRouteError(ProxyError):
    """The path is not in the table of served paths."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class UnknownExperimentError(ProxyError):
    """No experiment of this name runs here."""

    status = 404
    type = "invalid_request_error"
    code = "experiment_not_found"


class MethodError(ProxyError):
    """The path is served, with another method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        self.allowed = ", ".join(allowed)
        super().__init__(f"This path takes {self.allowed}.")

    @property
    def headers(self) -> dict[str, str]:
        """What the path takes (RFC 9110, 10.2.1)."""
        return {"Allow": self.allowed}


class ReloadRefusedError(ProxyError):
    """What was to be served instead is not right; what was served before still is."""

    status = 409
    type = "invalid_request_error"
    code = "reload_refused"


class SlowRequestError(ProxyError):
    """The body did not arrive before the deadline."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class TooLargeError(ProxyError):
    """The body is larger than allowed."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedMediaError(ProxyError):
    """The body is compressed, or not of the type that the path takes."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class RateLimitError(ProxyError):
    """A key has used up what it may in a minute. wait: seconds until the request would be let in."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait

    @property
    def headers(self) -> dict[str, str]:
        """When to come back, in whole seconds."""
        return {"Retry-After": str(ceil(self.wait))}


class OverloadedError(ProxyError):
    """As many requests are in flight as are allowed."""

    status = 503
    type = "overloaded_error"
    code = "overloaded"

    @property
    def headers(self) -> dict[str, str]:
        """When to come back, in seconds."""
        return {"Retry-After": "1"}


class DrainingError(OverloadedError):
    """The server is shutting down."""

    code = "draining"


class NoStatisticsError(ProxyError):
    """What statistics are computed with is not installed."""

    status = 501
    code = "statistics_not_installed"

    def __init__(self, missing: str | None) -> None:
        super().__init__(f"Statistics need {missing or 'a library'}: pip install 'drpo-proxy[experiments]'.")


class StoreDownError(OverloadedError):
    """Feedback cannot be kept now; nothing of it was, as far as is known, and sending it again does no harm."""

    code = "store_unavailable"


class BackendUnavailableError(ProxyError):
    """No backend that serves the model could be reached."""

    status = 502
    type = "backend_error"
    code = "backend_unavailable"


class BackendProtocolError(ProxyError):
    """What the backend sent is not a reply that can be passed on."""

    status = 502
    type = "backend_error"
    code = "backend_protocol"


class BackendTimeoutError(ProxyError):
    """The backend did not answer in time."""

    status = 504
    type = "backend_error"
    code = "backend_timeout"


class StartupError(DrpoError):
    """The server cannot start; the message names the flag or the file, and what to do."""


class EmbeddedError(StartupError):
    """The embedded model cannot run."""


class StoreError(DrpoError):
    """What experiments bring cannot be kept, or read, now."""


class StoreRefusedError(StoreError):
    """The store is well and does not take a row."""
