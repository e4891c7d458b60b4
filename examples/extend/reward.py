"""A reward: the closer an answer is to 50 words, the better; an answer without a last full stop gets 0."""


def brief(answer: str, **_: object) -> float:
    """Score an answer from 0 to 1. The other arguments are query, reference and kind (general, comply or refuse).

    The function may be async.
    """
    if not answer.rstrip().endswith((".", "!", "?")):
        return 0.0
    return 1 / (1 + abs(len(answer.split()) - 50) / 50)
