"""Tests of API keys: reading the file, identifying keys, and limiting the use of a key."""

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.auth import Account, Key, Keyring, new_key, read_keys
from proxy.core.errors import RateLimitError, StartupError, UnauthorizedError
from proxy.core.shared_state import LocalState


class Clock:
    """A clock whose time changes only when a test sets `now`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "keys"
    file.write_text(text, encoding="utf-8")
    return file


def test_new_key_is_identified_by_a_line_that_does_not_contain_it(tmp_path: Path) -> None:
    key, line = new_key("alice")
    keys = read_keys(written(tmp_path, f"# ours\n\n{line} requests_per_minute=2\n"))
    assert Keyring(keys, Clock(), LocalState()).identify(f"Bearer {key}")[0] == "alice"
    assert keys[0].requests_per_minute == 2
    assert key not in line
    assert new_key("alice")[0] != key


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic {key}", "{key}", "Bearer {key}x"]
)
def test_unknown_or_malformed_key_is_refused(given: str | None) -> None:
    key, line = new_key("alice")
    name, digest = line.split()
    ring = Keyring([Key(name, bytes.fromhex(digest))], Clock(), LocalState())
    with pytest.raises(UnauthorizedError):
        ring.identify(given.format(key=key) if given else given)
    assert ring.identify(f"bearer  {key} ")[0] == "alice"


GOOD = "a" * 64


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "contains no key"),
        ("# nothing\n", "contains no key"),
        ("alice secret-key-itself\n", "line 1: expected NAME SHA256"),
        (f"alice {GOOD}\nbob\n", "line 2: expected NAME SHA256"),
        (f"al/ice {GOOD}\n", "line 1: expected NAME"),
        (f"alice {GOOD} requests_per_minute=0\n", "line 1: expected requests_per_minute=N"),
        (f"alice {GOOD} request_per_minute=5\n", "line 1: expected requests_per_minute=N"),
        (f"alice {GOOD}\nalice {'b' * 64}\n", "the same name"),
        (f"alice {GOOD}\nbob {GOOD}\n", "the same key"),
        (None, "cannot be read"),
    ],
)
def test_error_in_the_keys_file_names_the_line_without_its_text(tmp_path: Path, text: str | None, says: str) -> None:
    file = tmp_path / "missing" if text is None else written(tmp_path, text)
    with pytest.raises(StartupError, match=says) as caught:
        read_keys(file)
    assert "secret-key-itself" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a\n", "x" * 65, "ü"])
def test_invalid_key_name_is_refused(name: str) -> None:
    with pytest.raises(StartupError, match="a name has"):
        new_key(name)


def account(clock: Clock, **limits: int) -> Account:
    return Account(Key("alice", sha256(b"x").digest(), **limits), clock, LocalState())


def test_requests_beyond_the_limit_are_refused_until_the_bucket_refills() -> None:
    clock = Clock()
    alice = account(clock, requests_per_minute=2)
    alice.enter()
    alice.enter()
    with pytest.raises(RateLimitError) as caught:
        alice.enter()
    assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "30"})
    assert str(caught.value).endswith("Wait 30 s.")
    clock.now += 30
    alice.enter()
    with pytest.raises(RateLimitError):
        alice.enter()


def test_reserved_tokens_are_settled_by_usage() -> None:
    clock = Clock()
    alice = account(clock, tokens_per_minute=100)
    alice.reserve(80)
    with pytest.raises(RateLimitError):
        alice.reserve(30)
    alice.settle(80, 10)
    alice.reserve(90)
    alice.settle(90, 150)
    with pytest.raises(RateLimitError) as caught:
        alice.reserve(10)
    assert caught.value.wait == pytest.approx(42)


def test_request_larger_than_the_limit_is_admitted_by_a_full_bucket_and_charged() -> None:
    clock = Clock()
    alice = account(clock, tokens_per_minute=100)
    alice.reserve(250)
    clock.now += 60
    with pytest.raises(RateLimitError):
        alice.reserve(1)
    clock.now += 31
    alice.reserve(1)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 40)), max_size=40), st.integers(1, 60))
def test_any_minute_admits_at_most_twice_the_limit(steps: list[tuple[float, int]], limit: int) -> None:
    """A token bucket admits at most its capacity, plus the amount that is added to it within the minute."""
    clock = Clock()
    alice = account(clock, requests_per_minute=limit)
    let_in: list[float] = []
    for pause, tries in steps:
        clock.now += pause
        for _ in range(tries):
            try:
                alice.enter()
            except RateLimitError:
                break
            let_in.append(clock.now)
    for start in let_in:
        assert sum(start <= moment < start + 60 for moment in let_in) <= 2 * limit + 1


def test_reload_keeps_the_usage_of_keys_and_drops_removed_keys() -> None:
    clock = Clock()
    first, line = new_key("alice")
    alice = Key("alice", bytes.fromhex(line.split()[1]), requests_per_minute=1)
    second, line = new_key("bob")
    bob = Key("bob", bytes.fromhex(line.split()[1]))
    shared = LocalState()
    Keyring([alice, bob], clock, shared).identify(f"Bearer {first}")[1].enter()
    ring = Keyring([alice], clock, shared)
    with pytest.raises(RateLimitError):
        ring.identify(f"Bearer {first}")[1].enter()
    with pytest.raises(UnauthorizedError):
        ring.identify(f"Bearer {second}")
