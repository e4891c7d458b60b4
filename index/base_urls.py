"""The base URLs of servers with OpenAI's API, such as http://127.0.0.1:8000/v1."""

import re
from typing import Final

_ENDPOINT: Final = re.compile(r"/(?:chat/)?completions$|(?<=/v1)/(?:responses|embeddings|models)$")


def without_endpoint(url: str) -> str:
    """Return a URL without a slash or the name of an endpoint at its end.

    Users often give the URL of an endpoint in place of the base URL, because they copy it from a command that worked.
    """
    return _ENDPOINT.sub("", url.rstrip("/"))
