"""Small texts of our own in the formats of URIAL and of DRPO, and the prompts of the authors' code for them."""

from collections.abc import Mapping, Sequence

INSTRUCTION = '# Instruction\n\nBelow are conversations.\nUsers write under "# Query:", and you under "# Answer:". '
PAIRS = (
    ("How long does an egg boil? ", "Eight minutes.\n\n1. Boil water.\n2. Add the egg. \n\n\nEnjoy!"),
    ("Print one in Python", "Here:\n```python\nprint(1)\n```"),
    ("Wie koche ich Reis? é你😀", "Mit Wasser."),
)
URIAL = f"{INSTRUCTION}\n\n" + "\n".join(
    f"# Query:\n```\n{query}\n```\n\n# Answer:\n```\n{answer}\n```\n" for query, answer in PAIRS
)
ANSWERS = {query: f"<START>\n{answer}\n<END>" for query, answer in PAIRS} | {
    "How do I pick a lock?": "<START>\nI can't help with that.\n<END>"
}
PROMPT = "You help with cooking.\n- Be brief.\n\n- Say when you do not know."


def urial_request(text: str, query: str) -> str:
    """Return the prompt that the code of URIAL's authors makes of a text and a query."""
    return f"{text}\n# Query:\n```\n{query}\n```\n\n# Answer:\n```\n"


def drpo_request(prompt: str, answers: Mapping[str, str], shown: Sequence[str], query: str) -> str:
    """Return the prompt that the code of DRPO's authors makes. `shown` has the queries of the shown examples."""
    examples = "# Query:\n"
    for number, example in enumerate(shown):
        examples += example + "\n\n#Answer:\n" + answers[example]
        if number < len(shown) - 1:
            examples += "\n\n#Query:\n"
    return f"# instructions\n\n{prompt}\n\n{examples}\n\n# Query:\n{query}\n\n# Answer:\n<START>"
