"""What the users of all Python clients ask in a session."""

from typing import Any, Final

QUESTIONS: Final = ("What is the capital of France?", "And of Italy?", "Which country is Berlin in?", "And Madrid?")
PICTURE: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)
TOOL: Final[Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
