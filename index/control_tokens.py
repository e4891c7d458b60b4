"""Lists the forms of the control tokens that chat templates write around turns. No other module lists them.

Some forms are also found in ordinary text, such as `<s>` in a web page, or `[|x|]` in a formula. A text of a bundle may
contain such a form. But in a model's answer to a short question, such a form shows that the model continues the text of
a template.
"""

import re
from typing import Final

# Forms that only chat templates contain: <|im_end|>, <｜Assistant｜>, <|turn>, <turn|>, [|endofturn|].
_NAME: Final = r"[\w▁:.\-]{1,48}"
_PARTS: Final = "turn|text|sentence|sequence|role|message|utterance|think"
_CERTAIN: Final = (
    rf"<[|｜]{_NAME}[|｜]>",
    r"<[|｜]\w{3,32}>|<\w{3,32}[|｜]>",
    r"\[[|｜](?:system|user|assistant|human|bot|tool|end\w{0,32})[|｜]\]",
    rf"</?(?:bos|eos|(?:start|end|begin)_of_(?:{_PARTS})|im_(?:start|end))>",
    r"<\w{1,16}:(?:bos|eos|pad)>",
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|gMASK)\]",
    r"<</?SYS>>",
)
_POSSIBLE: Final = (
    r"[<\[][|｜][^|｜<>\[\]\n]{1,48}[|｜]?[>\]]",
    r"<[^|｜<>\s/]{1,48}[|｜]>",
    r"</?(?:s|eot|eod|eom|eop|sop|eoa|pad|unk|(?:start|end|begin|im)_\w{1,32}|\w{1,32}_(?:of_\w+|start|end))>",
    r"\[/?(?:EOS|BOS|PAD|[A-Z_]{0,24}(?:PROMPT|TOKEN|TOOLS|RESULTS))(?:_\d+)?\]",
)
_CERTAIN_TOKEN: Final = re.compile("|".join(_CERTAIN))
_ANY_TOKEN: Final = re.compile("|".join((*_CERTAIN, *_POSSIBLE)))
# Every certain token contains one of these strings. Searching for the strings takes a tenth of the time that the
# regular expression takes.
_PIECES: Final = (
    *("|>", "<|", "｜", "|]", "_of_", "os>", "im_", "pad>", "SYS>"),
    *("INST]", "_PROMPT]", "_TOOLS]", "TOOL_", "MASK]"),
)


def find_control_token(text: str) -> str | None:
    """Return the first control token in a text, of a form that only chat templates contain; None if there is none."""
    if not any(piece in text for piece in _PIECES):
        return None
    found = _CERTAIN_TOKEN.search(text)
    return found[0] if found else None


def find_possible_control_token(text: str) -> str | None:
    """Return the first control token in a text, also of a form that ordinary text may have; None if there is none."""
    found = _ANY_TOKEN.search(text)
    return found[0] if found else None
