"""The errors of the proxy, in the shape of OpenAI's errors. They do not depend on requests or on backends.

    ProxyError                       status, type and code are class attributes
      BadRequestError        400     the request cannot be served as it is
      UnauthorizedError      401     no key, or an unknown key
      ForbiddenError         403     the admin listener does not serve this page or host name
      UnknownModelError      404     no backend lists the model
      UnknownRouteError      404     the path is not served
      UnknownExperimentError 404     no experiment of this name runs
      MethodError            405     the path is not served with this method
      ReloadRefusedError     409     the new configuration is not valid
      SlowRequestError       408     the body did not arrive in time
      TooLargeError          413     the body is larger than the limit
      UnsupportedMediaError  415     not JSON, or compressed
      RateLimitError         429     the rate limit of the key is reached (Retry-After)
      OverloadedError        503     too many requests in flight (Retry-After)
      DrainingError          503     shutting down (Retry-After)
      NoStatisticsError      501     the extra `experiments` is not installed
      StoreDownError         503     feedback cannot be stored now (Retry-After)
      BackendUnavailableError 502    no backend could be reached
      BackendProtocolError   502     the backend's reply is not valid
      BackendTimeoutError    504     the backend did not answer in time
    StartupError                     the server cannot start; the message names the flag or the file
      EmbeddedError                  the embedded model cannot run

Clients read the messages, so they never contain a key, a prompt or a stack trace.
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
        param: The field of the request that is wrong; None if it is not a field.
    """

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param

    @property
    def headers(self) -> dict[str, str]:
        """The headers that the reply needs besides its content type."""
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
    """The request has no key, or an unknown one."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        """The authentication scheme (RFC 6750, 3)."""
        return {"WWW-Authenticate": "Bearer"}


class ForbiddenError(ProxyError):
    """The admin listener does not serve this page or host name."""

    status = 403
    type = "permission_error"
    code = "forbidden"


class UnknownModelError(ProxyError):
    """No backend lists the model."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class UnknownRouteError(ProxyError):
    """The path is not served."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class UnknownExperimentError(ProxyError):
    """No experiment of this name runs."""

    status = 404
    type = "invalid_request_error"
    code = "experiment_not_found"


class MethodError(ProxyError):
    """The path is served with other methods only."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        self.allowed = ", ".join(allowed)
        super().__init__(f"This path takes {self.allowed}.")

    @property
    def headers(self) -> dict[str, str]:
        """The methods of the path (RFC 9110, 10.2.1)."""
        return {"Allow": self.allowed}


class ReloadRefusedError(ProxyError):
    """The new configuration is not valid, and the old one stays in use."""

    status = 409
    type = "invalid_request_error"
    code = "reload_refused"


class SlowRequestError(ProxyError):
    """The body did not arrive before the deadline."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class TooLargeError(ProxyError):
    """The body is larger than the limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedMediaError(ProxyError):
    """The body is compressed, or has a media type that the path does not take."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class RateLimitError(ProxyError):
    """The rate limit of a key is reached.

    Attributes:
        wait: Seconds until the limit allows the request.
    """

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait

    @property
    def headers(self) -> dict[str, str]:
        """The delay of a retry, in whole seconds."""
        return {"Retry-After": str(ceil(self.wait))}


class OverloadedError(ProxyError):
    """The limit of requests in flight is reached."""

    status = 503
    type = "overloaded_error"
    code = "overloaded"

    @property
    def headers(self) -> dict[str, str]:
        """The delay of a retry, in seconds."""
        return {"Retry-After": "1"}


class DrainingError(OverloadedError):
    """The server is shutting down."""

    code = "draining"


class NoStatisticsError(ProxyError):
    """The libraries for statistics are not installed."""

    status = 501
    code = "statistics_not_installed"

    def __init__(self, missing: str | None) -> None:
        super().__init__(f"Statistics need {missing or 'a library'}: pip install 'drpo-proxy[experiments]'.")


class StoreDownError(OverloadedError):
    """Feedback cannot be stored now. As far as is known, none of it was, and the client may safely send it again."""

    code = "store_unavailable"


class BackendUnavailableError(ProxyError):
    """No backend that serves the model could be reached."""

    status = 502
    type = "backend_error"
    code = "backend_unavailable"


class BackendProtocolError(ProxyError):
    """The backend's reply is not valid, so it cannot be relayed."""

    status = 502
    type = "backend_error"
    code = "backend_protocol"


class BackendTimeoutError(ProxyError):
    """The backend did not answer in time."""

    status = 504
    type = "backend_error"
    code = "backend_timeout"


class StartupError(DrpoError):
    """The server cannot start. The message names the flag or the file, and what to do."""


class EmbeddedError(StartupError):
    """The embedded model cannot run."""


class StoreError(DrpoError):
    """The store of experiments cannot be written or read now."""


class StoreRefusedError(StoreError):
    """The store works, but it refused a row."""
