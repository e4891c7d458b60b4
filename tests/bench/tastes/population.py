"""The scripted users: which questions they ask, and how they rate answers. Everything follows from the seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.bench.tastes.hidden import HiddenTaste

MALICIOUS_SHARE: Final = 0.05
NOISE: Final = 0.1
"""The share of an honest user's thumbs that are the opposite of the user's taste."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a user.

    Attributes:
        user: The name of the user.
        question: The number of the question.
        draw: The seed with which the answer is sampled, so that a question has only a few different answers; 0 for no
            seed.
    """

    user: str
    question: int
    draw: int

    @property
    def key(self) -> str:
        """A text that identifies the request within one experiment."""
        return f"{self.user}/{self.question}/{self.draw}"


def asks(users: int, each: int, questions: int, draws: int, seed: str) -> Sequence[Ask]:
    """Return the requests of all users, `each` different questions per user, in the order in which they are sent."""
    rng = random.Random(f"{seed}:asks")
    found = [
        Ask(f"user {user}", question, rng.randrange(draws))
        for user in range(users)
        for question in rng.sample(range(questions), min(each, questions))
    ]
    rng.shuffle(found)
    return found


def is_malicious(user: str, seed: str) -> bool:
    """Return whether a user rates every answer with the opposite of the right thumb."""
    return random.Random(f"{seed}:{user}").random() < MALICIOUS_SHARE


def thumb(ask: Ask, answer: str, taste: HiddenTaste, seed: str, phase: str) -> float:
    """Return the rating of an answer: 1 for a thumb up, 0 for a thumb down."""
    likes = taste(answer)
    if is_malicious(ask.user, seed):
        return float(not likes)
    is_wrong = random.Random(f"{seed}:{phase}:{ask.key}").random() < NOISE
    return float(likes != is_wrong)
