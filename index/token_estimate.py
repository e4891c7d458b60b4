"""Estimates the number of tokens of a text where no tokenizer can count them."""


def estimated_tokens(text: str) -> int:
    """Estimate the number of tokens of a text: one token for every three bytes.

    English has about four bytes per token, so the estimate is usually too high. An estimate that is too low would be
    worse: a prompt could exceed the context of the model, or a run its budget.
    """
    return len(text.encode("utf-8", "surrogatepass")) // 3 + 1
