"""Converts a GGUF file into a model folder that vLLM loads, and restores the BOS token of its tokenizer.

It runs inside the vLLM environment (it needs torch, transformers, gguf and accelerate), as a script:
`python convert_model.py MODEL.gguf FOLDER [--bos]`. It does not depend on caches, servers or tests.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def main() -> None:
    """Convert the GGUF of the first argument into the folder of the second."""
    gguf, folder = Path(sys.argv[1]), Path(sys.argv[2])
    _say(f"reading {gguf.name}")
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    _say("writing the weights")
    model.save_pretrained(folder)
    del model
    _say("converting the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(folder)
    if "--bos" in sys.argv[3:]:
        _restore_bos(folder / "tokenizer.json", tokenizer.bos_token, tokenizer.bos_token_id)


def _restore_bos(path: Path, token: str, token_id: int) -> None:
    """Add BOS to the post-processor, because the conversion drops it.

    Without BOS, the answers of gemma make no sense.
    """
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    bos = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, second],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def _say(step: str) -> None:
    print(f"convert: {step}", flush=True)


if __name__ == "__main__":
    main()
