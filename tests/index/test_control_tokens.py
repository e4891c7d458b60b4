"""Tests which texts are control tokens of chat templates.

The checks of bundles and of the kinds of models use the same table.
"""

import pytest

from index.control_tokens import find_control_token, find_possible_control_token
from index.layouts import find_marker

CERTAIN = [
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|END_OF_TURN_TOKEN|>"),
    *("<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜tool▁calls▁begin｜>"),
    *("<|turn>", "<turn|>", "<|channel>", "[|endofturn|]", "[|assistant|]", "<seed:eos>", "<|start_of_role|>"),
    *("<start_of_turn>", "<end_of_turn>", "<bos>", "</eos>", "<begin_of_text>", "<im_end>"),
    *("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[gMASK]"),
    *("<<SYS>>", "<</SYS>>"),
]
POSSIBLE = ["<s>", "</s>", "<pad>", "<sop>", "[EOS]", "<|not a name|>", "[MY_PROMPT]", "<end_of_line>"]


@pytest.mark.parametrize("token", CERTAIN)
def test_token_that_only_templates_contain_is_found_by_both_functions(token: str) -> None:
    text = f"Hello.\n{token}more"
    assert find_control_token(text) == token
    assert find_possible_control_token(text) == token
    assert find_marker(text) == token


@pytest.mark.parametrize("token", POSSIBLE)
def test_token_that_other_text_may_contain_is_found_only_as_a_possible_token(token: str) -> None:
    assert find_control_token(f"Hello {token} you") is None
    assert find_possible_control_token(f"Hello {token} you") == token


@pytest.mark.parametrize(
    "text",
    [
        *("E[|X|] <= E[|Y|]", "let a = [| 1; 2 |]", "x |> f <| y", "<ψ|φ>", "a <|> b", "if (a<b || c>d)", "[inst]"),
        *("｜全角｜", "TOOL_X = 1", "<b>end_of_file</b>", "pad>0", "<a href='x|y'>", "||x||", "E[|error|]"),
    ],
)
def test_ordinary_text_has_no_control_token(text: str) -> None:
    assert find_control_token(text) is None
    assert find_marker(text) is None
