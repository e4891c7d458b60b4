"""Tests that the URL of an endpoint is read as the base URL that it begins with."""

import pytest

from index.base_urls import without_endpoint
from optimizer.models.http_client import join_url

ENDPOINTS = ("chat/completions", "completions", "responses", "embeddings", "models")


@pytest.mark.parametrize("end", ["", "/", *(f"/{name}{slash}" for name in ENDPOINTS for slash in ("", "/"))])
def test_base_url_may_be_given_with_an_endpoint(end: str) -> None:
    assert without_endpoint("http://h:1/v1" + end) == "http://h:1/v1"
    assert join_url("http://h:1/v1" + end, "chat/completions") == "http://h:1/v1/chat/completions"
    assert join_url("http://h:1/v1" + end, "/tokenize") == "http://h:1/tokenize"


@pytest.mark.parametrize("url", ["http://h/gateway/models", "http://completions:1/v1", "http://h/v1beta", "http://h"])
def test_other_url_stays_as_it_is(url: str) -> None:
    assert without_endpoint(url) == url
