"""Tests of the taste: it is learned from ratings and pairs, with words where they matter, and never from chance."""

import random
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from optimizer.core.errors import DataError
from optimizer.data.preferences import REGENERATED, AnswerRatings, PreferencePair, Preferences, read_preferences
from optimizer.data.taste import WORDS, learn_taste

WORD_LIST = ["tea", "rain", "iron", "chess", "honey", "stars", "bread", "ships", "maps", "wool", "gold", "rivers"]
LONG, SHORT = "There are many things that one could perhaps say about this. " * 3, "Yes. It is so."


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORD_LIST, k=rng.randint(4, 30))) + rng.choice(".!?")


def rated(count: int, likes: str, noise: float = 0.0, seed: int = 0) -> Preferences:
    """Return ratings of users who like answers that end with `likes`, or that contain the word `likes`."""
    rng = random.Random(seed)
    answers = [sentence(rng) for _ in range(count)]
    return liked_or_not([(answer, (likes in answer) != (rng.random() < noise)) for answer in answers])


def liked_or_not(rated: Sequence[tuple[str, bool]], count: int = 1) -> Preferences:
    """Return answers that `count` users like, or dislike."""
    counts = {True: (count, 0), False: (0, count)}
    return Preferences(
        ratings=tuple(AnswerRatings(f"Q {n}?", one, *counts[liked]) for n, (one, liked) in enumerate(rated))
    )


def pairs(chosen: str, rejected: str, count: int) -> tuple[PreferencePair, ...]:
    return tuple(PreferencePair(f"Q {n}?", f"{chosen} {n}", f"{rejected} {n}", REGENERATED) for n in range(count))


def test_pairs_alone_show_a_taste() -> None:
    taste = learn_taste(Preferences(pairs(SHORT, LONG, 40)))
    assert taste is not None
    assert taste.agreement == 1.0
    assert taste.chance(SHORT) > 0.5 > taste.chance(LONG)


def test_ratings_alone_show_a_taste_in_spite_of_noise() -> None:
    taste = learn_taste(rated(200, "?", noise=0.15))
    assert taste is not None
    assert taste.ranking[0][0] == "a closing question"
    assert taste.chance("Tea and rain are wet?") > 0.6
    assert taste.chance("Tea and rain are wet.") < 0.4


def test_a_word_that_the_form_does_not_know_is_learned_but_not_named() -> None:
    taste = learn_taste(rated(300, "honey", noise=0.1))
    assert taste is not None
    assert "honey" in taste.words
    assert WORDS in dict(taste.ranking)
    assert "honey" not in str(taste), "a word may be private"
    assert taste.chance("bread ships honey gold.") > 0.6 > 0.4 > taste.chance("bread ships wool gold.")


def test_taste_is_found_although_likes_are_rare() -> None:
    rng = random.Random(1)
    answers = [sentence(rng)[:-1] + ("?" if n % 25 == 0 else ".") for n in range(200)]
    taste = learn_taste(liked_or_not([(answer, answer.endswith("?")) for answer in answers], 5))
    assert taste is not None
    assert taste.chance("Tea is wet?") > taste.chance("Tea is wet.")


@pytest.mark.parametrize("kind", ["ratings", "pairs"])
def test_chance_seldom_looks_like_a_taste(kind: str) -> None:
    found = 0
    for seed in range(60):
        rng = random.Random(seed)
        if kind == "ratings":
            random_thumbs = liked_or_not([(sentence(rng), rng.random() < 0.5) for _ in range(80)])
        else:
            drawn = (PreferencePair(f"Q {n}?", sentence(rng), sentence(rng), REGENERATED) for n in range(80))
            random_thumbs = Preferences(tuple(drawn))
        found += learn_taste(random_thumbs) is not None
    assert found <= 6, "at most one in forty is expected"


def test_few_observations_show_no_taste() -> None:
    assert learn_taste(Preferences(pairs(SHORT, LONG, 19))) is None
    assert learn_taste(rated(19, "?")) is None
    undecided = tuple(AnswerRatings(f"Q {n}?", SHORT, 1, 1) for n in range(100))
    assert learn_taste(Preferences(ratings=undecided)) is None


def test_ratings_that_are_all_likes_show_no_taste() -> None:
    assert learn_taste(Preferences(ratings=tuple(AnswerRatings(f"Q {n}?", SHORT, 1, 0) for n in range(50)))) is None


def test_file_keeps_pairs_ratings_and_comments(tmp_path: Path) -> None:
    found = Preferences(pairs("a", "b", 1), ("Be brief.",), (AnswerRatings("Q?", "A.", 2, 1),))
    (tmp_path / "p.jsonl").write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in found.as_json))
    assert read_preferences(tmp_path / "p.jsonl") == found
    (tmp_path / "p.jsonl").write_text('{"query": "Q?", "answer": "A.", "likes": -1, "dislikes": 0}\n')
    with pytest.raises(DataError, match="likes"):
        read_preferences(tmp_path / "p.jsonl")
