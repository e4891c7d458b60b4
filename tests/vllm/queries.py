"""The queries of these tests: everyday questions that are not in the default bundle."""

from typing import Final

from openai.types.chat import ChatCompletionMessageParam

QUERIES: Final = (
    "Why do cats purr?",
    "Name three uses for baking soda around the house.",
    "Explain in two sentences how a refrigerator keeps food cold.",
    "What should I pack for a weekend hike in autumn?",
    "How do I get red wine out of a white tablecloth?",
    "Give me a short birthday wish for a colleague.",
    "What is the difference between a lake and a pond?",
    "How can I fall asleep faster?",
    "Suggest a name for a small bakery.",
    "Which planet has the most moons?",
    "How long should I boil an egg?",
    "Write one sentence about the sea.",
    "What does a plumber do?",
    "Is it safe to eat raw mushrooms?",
    "Tell me how to fold a paper plane.",
    "Why do leaves change colour?",
    "What is a good gift for a gardener?",
    "How do bees make honey?",
    "Give two reasons to learn a second language.",
    "What is the opposite of generous?",
    "How do I thank a teacher in a card?",
    "What causes thunder?",
    "Name a famous bridge.",
    "How often should I water a cactus?",
)


def asking(*turns: str) -> list[ChatCompletionMessageParam]:
    """Return a conversation of user and assistant in turn. The user begins."""
    messages: list[ChatCompletionMessageParam] = []
    for number, text in enumerate(turns):
        if number % 2:
            messages.append({"role": "assistant", "content": text})
        else:
            messages.append({"role": "user", "content": text})
    return messages
