"""A reward of one's own: the nearer to 50 words, the better, and nothing without a full stop."""


def brief(answer: str, **_: object) -> float:
    """From 0 to 1. Also given: query, reference, kind (general, comply, refuse). May be a coroutine function."""
    if not answer.rstrip().endswith((".", "!", "?")):
        return 0.0
    return 1 / (1 + abs(len(answer.split()) - 50) / 50)
