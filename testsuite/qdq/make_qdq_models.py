#!/usr/bin/env python3
"""Write small quantised networks: OUT/<name>.onnx and OUT/data/<name>/{input_0,output_<j>}.npy.

A network is written once, in floats. Its first run through ONNX Runtime tells the range of every tensor; the second time each tensor gets a
QuantizeLinear and a DequantizeLinear, and constants become integers with a DequantizeLinear (but for the networks with float weights). Together the networks have every pattern that the compiler
turns into integer operators. Outputs are the integers themselves, of several places of the network, so that tests can compare bits. The expected ones are
those of ONNX Runtime without graph optimisation: the meaning that the graph has in floats.
usage: make_qdq_models.py OUT
"""
import os
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

OPSET = 21
TYPES = {np.uint8: TensorProto.UINT8, np.int8: TensorProto.INT8, np.int16: TensorProto.INT16}


class Net:
    """A graph under construction. Without `ranges` it is the float network, with every tensor an output."""

    def __init__(self, ranges=None, dtype=np.uint8, symmetric=False, float_weights=False, most_bits=8, short_pairs=False):
        self.random = np.random.default_rng(5)
        self.ranges, self.dtype, self.symmetric, self.float_weights, self.most_bits = ranges, dtype, symmetric, float_weights, most_bits
        self.short_pairs = short_pairs
        self.nodes, self.constants, self.outputs = [], [], []
        self.scales, self.counts = {}, {}

    def const(self, value):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def raw(self, op, inputs, **attrs):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}_{len(self.nodes)}", **attrs))
        return name

    def quantised(self, x, key, scale_of=None):
        """x as integers and back; `key` names the tensor in both runs, `scale_of` another tensor whose parameters it shares."""
        if self.ranges is None:
            self.outputs.append((key, x))
            return x
        info = np.iinfo(self.dtype)
        low, high = self.ranges[scale_of or key]
        low, high = min(low, 0.0), max(high, 0.0)
        if self.symmetric:
            scale, zero = max(-low, high) / info.max, 0
        else:
            scale = (high - low) / (info.max - info.min)
            zero = int(np.clip(round(info.min - low / scale), info.min, info.max))
        operands = [self.const(np.float32(scale)), self.const(self.dtype(zero))]
        q = self.raw("QuantizeLinear", [x] + operands)
        self.scales[key] = (q, operands)
        return self.raw("DequantizeLinear", [q] + operands)

    def op(self, op, inputs, quantise=True, like=None, **attrs):
        """A node; its tensor is called by the operator and how many of it were before."""
        key = f"{op}{self.counts.setdefault(op, 0)}"
        self.counts[op] += 1
        y = self.raw(op, inputs, **attrs)
        return self.named(y, key, like) if quantise else y

    def named(self, y, key, like=None):
        self.last = key
        return self.quantised(y, key, like)

    def weights(self, shape, axis=0, bits=8, unsigned=False, per_channel=True, scale=None):
        """Random weights: floats, or integers with their scales, per index of `axis`."""
        fan = max(1, int(np.prod(shape)) // shape[axis])
        w = (self.random.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)
        others = tuple(d for d in range(len(shape)) if d != axis)
        most = np.abs(w).max(axis=others, keepdims=True) if per_channel else np.abs(w).max().reshape([1] * len(shape))
        if unsigned:
            s, zero, low, high, dtype = most / 127, 131, 0, 255, np.uint8
        else:
            half = 2 ** ((bits if bits > 8 else min(bits, self.most_bits)) - 1)
            s, zero, low, high, dtype = most / (half - 1), 0, -half, half - 1, np.int16 if bits > 8 else np.int8
        s = s.astype(np.float32)
        q = np.clip(np.round(w / s) + zero, low, high)
        if self.short_pairs and not unsigned:
            # Two neighbouring channels add up to 128 at most, those of different signs aside.
            channels = np.moveaxis(q, 1 if axis == 0 else 0, 0)
            first, second = channels[0:len(channels) - 1:2], channels[1::2]
            second[:] = np.clip(second, -128 - np.minimum(first, 0), 128 - np.maximum(first, 0))
        if self.ranges is None or self.float_weights:
            return self.const(((q - zero) * s).astype(np.float32))
        scales = s.reshape(-1) if per_channel else np.float32(s.reshape(-1)[0])
        if bits == 4:
            name = f"c{len(self.constants)}"
            self.constants.append(helper.make_tensor(name, TensorProto.INT4, shape, q.astype(np.int8).reshape(-1)))
            q_name = name
        else:
            q_name = self.const(q.astype(dtype))
        zeros = []
        if unsigned:
            zeros = [self.const(np.full(scales.shape, zero, dtype) if per_channel else dtype(zero))]
        attrs = {"axis": axis} if per_channel else {}
        return self.raw("DequantizeLinear", [q_name, self.const(scales)] + zeros, **attrs)

    def conv(self, x, shape, bias=True, quantise=True, **kw):
        weights = {k: kw.pop(k) for k in ("bits", "unsigned", "per_channel") if k in kw}
        operands = [x, self.weights(shape, **weights)]
        b = (self.random.standard_normal(shape[0]) * 0.1).astype(np.float32)
        if bias:
            operands.append(self.const(b))
        return self.op("Conv", operands, quantise=quantise, **kw)

    def out(self, key):
        """The integers of a tensor become an output."""
        if self.ranges is not None:
            self.outputs.append((key, self.scales[key][0]))

    def model(self, shape, final):
        dtypes = TYPES[self.dtype]
        outs = [helper.make_tensor_value_info(t, TensorProto.FLOAT if self.ranges is None else dtypes, None) for _, t in self.outputs]
        outs.append(helper.make_tensor_value_info(final, TensorProto.FLOAT, None))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, "net", [x], outs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def images(n):
    """Convolutions of all kinds, residuals, pools, concatenation, gates."""
    x = n.named("x", "in")
    a = n.conv(x, [16, 3, 3, 3], pads=[1, 1, 1, 1], strides=[2, 2], quantise=False)
    a = n.op("Relu", [a])
    a = n.op("MaxPool", [a], like=n.last, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    n.out("MaxPool0")
    d = n.conv(a, [16, 1, 3, 3], group=16, pads=[1, 1, 1, 1], quantise=False)
    d = n.op("Clip", [d, n.const(np.float32(0)), n.const(np.float32(1.5))])
    n.out("Clip0")
    e = n.conv(d, [24, 16, 1, 1], bias=False)
    r = n.conv(e, [24, 24, 3, 3], pads=[1, 1, 1, 1], unsigned=True)
    s = n.op("Add", [r, e])
    n.out("Add0")
    s = n.op("Relu", [s])
    u = n.conv(s, [20, 24, 1, 1], unsigned=True, per_channel=False, strides=[2, 2])
    v = n.conv(s, [12, 12, 3, 3], group=2, pads=[1, 1, 1, 1], strides=[2, 2], bits=4)
    c = n.op("Concat", [u, v], axis=1)
    n.out("Concat0")
    h = n.op("HardSwish", [c])
    n.out("HardSwish0")
    m = n.op("GlobalAveragePool", [h])
    g = n.op("Sigmoid", [n.conv(m, [32, 32, 1, 1])])
    n.out("Sigmoid0")
    h = n.op("Mul", [h, g])
    n.out("Mul0")
    d = n.conv(h, [32, 1, 5, 5], group=32, pads=[2, 2, 2, 2], dilations=[1, 1], unsigned=True)
    p = n.op("AveragePool", [d], kernel_shape=[2, 2], strides=[2, 2])
    n.out("AveragePool0")
    f = n.op("Flatten", [p], like=n.last)
    y = n.op("Gemm", [f, n.weights([10, 288]), n.const((n.random.standard_normal(10) * 0.1).astype(np.float32))], transB=1)
    n.out("Gemm0")
    return y


def rows(n):
    """Matrix products, movement, functions by table."""
    x = n.named("x", "in")
    a = n.op("Reshape", [x, n.const(np.array([2, 18, 32], np.int64))], like="in")
    b = n.op("MatMul", [a, n.weights([32, 48], axis=1)])
    bias = n.const((n.random.standard_normal(48) * 0.1).astype(np.float32))
    b = n.op("Add", [b, bias])
    g = n.op("Gelu", [b])
    n.out("Gelu0")
    t = n.op("Transpose", [g], like=n.last, perm=[0, 2, 1])
    c = n.op("MatMul", [t, n.weights([18, 20], axis=1, bits=4)])
    n.out("MatMul1")
    h = n.op("Tanh", [c])
    n.out("Tanh0")
    s = n.op("Slice", [h] + [n.const(np.array([v], np.int64)) for v in (3, 40, 1)], like=n.last)
    l = n.op("LeakyRelu", [s], alpha=0.1)
    n.out("LeakyRelu0")
    q = n.op("Sub", [l, s])
    n.out("Sub0")
    z = n.op("MatMul", [q, n.weights([20, 7], axis=1, unsigned=True, per_channel=False)])
    n.out("MatMul2")
    # Weights that are stored the other way round.
    w = n.raw("Transpose", [n.weights([9, 7], axis=0)], perm=[1, 0])
    z = n.op("MatMul", [z, w])
    n.out("MatMul3")
    return z


def words(n):
    """Products of values of 16 bits: by weights of 8 and of 10 bits, with an activation and a residual behind them."""
    x = n.named("x", "in")
    a = n.op("Relu", [n.conv(x, [16, 3, 3, 3], pads=[1, 1, 1, 1], strides=[2, 2], quantise=False)])
    n.out("Relu0")
    b = n.conv(a, [24, 16, 1, 1])
    n.out("Conv1")
    r = n.conv(b, [24, 24, 3, 3], pads=[1, 1, 1, 1], bits=10)
    n.out("Conv2")
    s = n.op("Add", [r, b])
    n.out("Add0")
    u = n.conv(s, [21, 24, 3, 3], per_channel=False, strides=[2, 2], bias=False)
    n.out("Conv3")
    f = n.op("Flatten", [u], like=n.last)
    y = n.op("Gemm", [f, n.weights([10, 525]), n.const((n.random.standard_normal(10) * 0.1).astype(np.float32))], transB=1)
    n.out("Gemm0")
    return y


NETS = {
    "images": (images, [1, 3, 24, 24], dict()),
    "images_i8": (images, [1, 3, 24, 24], dict(dtype=np.int8, symmetric=True)),
    "images_7_bits": (images, [1, 3, 24, 24], dict(most_bits=7)),
    "images_pairs": (images, [1, 3, 24, 24], dict(short_pairs=True)),
    "images_float_weights": (images, [1, 3, 24, 24], dict(float_weights=True)),
    "words": (words, [1, 3, 24, 24], dict(dtype=np.int16, symmetric=True)),
    "rows": (rows, [2, 18, 32], dict()),
    "rows_i8": (rows, [2, 18, 32], dict(dtype=np.int8)),
    "rows_7_bits": (rows, [2, 18, 32], dict(most_bits=7)),
    "rows_pairs": (rows, [2, 18, 32], dict(short_pairs=True)),
    "rows_float_weights": (rows, [2, 18, 32], dict(float_weights=True)),
}


def run(model, x):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})


def main(out):
    for name, (build, shape, kind) in NETS.items():
        x = np.random.default_rng(9).standard_normal(shape).astype(np.float32)
        net = Net(most_bits=kind.get("most_bits", 8))
        final = build(net)
        values = run(net.model(shape, final), x)
        ranges = {key: (float(v.min()), float(v.max())) for (key, _), v in zip(net.outputs, values)}
        net = Net(ranges, **kind)
        model = net.model(shape, build(net))
        folder = f"{out}/data/{name}"
        os.makedirs(folder, exist_ok=True)
        onnx.save(model, f"{out}/{name}.onnx")
        np.save(f"{folder}/input_0.npy", x)
        results = run(model, x)
        for j, v in enumerate(results):
            np.save(f"{folder}/output_{j}.npy", v)
        print(f"ok   {name:10s} {len(model.graph.node)} nodes, outputs " + " ".join(f"{v.dtype}{list(v.shape)}" for v in results))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
