"""A reward that is higher if the answer has nearly 50 words. It is 0 if the last sentence does not end."""


def brief(answer: str, **_: object) -> float:
    """Score an answer from 0 to 1. The other arguments are query, reference and kind (general, comply or refuse).

    The function may be async.
    """
    if not answer.rstrip().endswith((".", "!", "?")):
        return 0.0
    return 1 / (1 + abs(len(answer.split()) - 50) / 50)
