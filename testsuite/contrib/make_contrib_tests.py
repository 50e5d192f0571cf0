#!/usr/bin/env python3
"""Write tests of the operators of com.microsoft and ai.onnx.ml: OUT/<name>/model.onnx, test_data_set_0/{input_i,output_j}.pb, tolerance.

The outputs are those of ONNX Runtime without graph optimisation, for inputs from fixed seeds. Where ONNX Runtime has no CPU kernel, a second model of
ONNX's own operators says what is expected. `tolerance` holds the largest max|a-b| / max|b|: 8-bit results may be one step off, because ONNX Runtime's
kernels round ties and multiply in their own ways.
usage: make_contrib_tests.py OUT [SUBSTRING]
"""
import os
import shutil
import sys
import zlib

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

MS, ML = "com.microsoft", "ai.onnx.ml"
FLOAT, BYTES = 1e-4, 1e-2
CASES = {}


class Case:
    """A model under construction: inputs and initialisers by name, nodes in order."""

    def __init__(self, name):
        self.random = np.random.default_rng(zlib.crc32(name.encode()))
        self.inputs, self.constants, self.nodes, self.outputs = {}, {}, [], []
        self.tolerance, self.expected, self.opset = FLOAT, None, 17

    def f32(self, *shape, low=-2.0, high=2.0):
        return self.random.uniform(low, high, shape).astype(np.float32)

    def ints(self, dtype, *shape, low=None, high=None):
        info = np.iinfo(dtype)
        low, high = (info.min if low is None else low), (info.max if high is None else high)
        return self.random.integers(low, high, shape, endpoint=True).astype(dtype)

    def data(self, value):
        """An input of the graph."""
        name = f"x{len(self.inputs)}"
        self.inputs[name] = np.asarray(value)
        return name

    def const(self, value):
        """An initialiser."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def node(self, op, inputs, n=1, domain=MS, **attrs):
        """A node whose results are outputs of the graph; `n` may be a list that tells which are wanted."""
        wanted = n if isinstance(n, list) else [True] * n
        names = [f"y{len(self.outputs) + i}" if w else "" for i, w in enumerate(wanted)]
        self.nodes.append(helper.make_node(op, inputs, names, domain=domain, **attrs))
        self.outputs += [name for name in names if name]
        return names

    def graph(self, nodes):
        info = lambda n, v: helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        inits = [numpy_helper.from_array(v, n) for n, v in self.constants.items()]
        outputs = [onnx.ValueInfoProto(name=n) for n in self.outputs]
        return helper.make_graph(nodes, "contrib", [info(n, v) for n, v in self.inputs.items()], outputs, inits)

    def model(self, nodes):
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MS, 1), helper.make_opsetid(ML, 3)]
        return helper.make_model(self.graph(nodes), opset_imports=opsets, ir_version=8)


def case(function):
    CASES[function.__name__] = function
    return function


def many(name, variants):
    """One case for each variant: `name_variant`."""
    def add(function):
        for key, args in variants.items():
            CASES[f"{name}_{key}"] = lambda c, args=args: function(c, *args)
        return function
    return add


def answers(case, nodes):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    # Without VNNI its faster kernels saturate sums of two products; the optimisation that takes others belongs to this level.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(case.model(nodes).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, case.inputs)


def write(folder, name):
    c = Case(name)
    CASES[name](c)
    outputs = answers(c, c.expected or c.nodes)
    model = c.model(c.nodes)
    for info, value in zip(model.graph.output, outputs):
        info.CopyFrom(helper.make_tensor_value_info(info.name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape))
    data = os.path.join(folder, name, "test_data_set_0")
    shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
    os.makedirs(data)
    onnx.save(model, os.path.join(folder, name, "model.onnx"))
    for stem, values in (("input", c.inputs.values()), ("output", outputs)):
        for i, v in enumerate(values):
            with open(f"{data}/{stem}_{i}.pb", "wb") as f:
                f.write(numpy_helper.from_array(np.asarray(v), f"{stem}_{i}").SerializeToString())
    with open(os.path.join(folder, name, "tolerance"), "w") as f:
        f.write(f"{c.tolerance}\n")


# ---- products and activations

@many("fused_matmul", {"plain": ((2, 3, 4), (2, 4, 5), {}), "trans_a": ((2, 4, 3), (2, 4, 5), {"transA": 1}),
                       "trans_both": ((4, 3), (5, 4), {"transA": 1, "transB": 1, "alpha": 0.5}),
                       "trans_batch": ((3, 2, 4), (2, 4, 5), {"transBatchA": 1})})
def _(c, a, b, attrs):
    c.node("FusedMatMul", [c.data(c.f32(*a)), c.data(c.f32(*b))], **attrs)


@many("fused_gemm", {"relu": ("Relu", {}), "leaky": ("LeakyRelu", {"activation_alpha": 0.1}), "tanh": ("Tanh", {"transB": 1}),
                     "sigmoid": ("Sigmoid", {"alpha": 0.5, "beta": 2.0}),
                     "hard_sigmoid": ("HardSigmoid", {"activation_alpha": 0.3, "activation_beta": 0.4}),
                     "elu": ("Elu", {"activation_alpha": 0.7}), "softplus": ("Softplus", {})})
def _(c, activation, attrs):
    b = c.f32(5, 4) if "transB" in attrs else c.f32(4, 5)
    c.node("FusedGemm", [c.data(c.f32(3, 4)), c.const(b), c.const(c.f32(5))], activation=activation, **attrs)


@many("fused_conv", {"relu": ("Relu", [], 0), "residual": ("Relu", [], 1), "clip": ("Clip", [0.0, 6.0], 0), "leaky": ("LeakyRelu", [0.2], 0),
                     "hard_sigmoid": ("HardSigmoid", [0.3, 0.4], 0), "tanh": ("Tanh", [], 0)})
def _(c, activation, params, residual):
    inputs = [c.data(c.f32(1, 3, 7, 7)), c.const(c.f32(4, 3, 3, 3)), c.const(c.f32(4))]
    if residual:
        inputs.append(c.data(c.f32(1, 4, 7, 7)))
    attrs = {"activation_params": params} if params else {}
    c.node("FusedConv", inputs, activation=activation, kernel_shape=[3, 3], pads=[1, 1, 1, 1], **attrs)


@many("nhwc", {"conv": ("NhwcConv", "", {"strides": [2, 2]}), "fused_conv": ("NhwcFusedConv", "Relu", {"strides": [2, 2]}),
               "grouped_conv": ("NhwcConv", "", {"group": 2})})
def _(c, op, activation, attrs):
    channels = 4 if "group" in attrs else 3
    x, w, b = c.data(c.f32(1, 7, 7, channels)), c.const(c.f32(4, 3, 3, channels // attrs.get("group", 1))), c.const(c.f32(4))
    attrs = dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1], **attrs)
    (y,) = c.node(op, [x, w, b], **attrs, **({"activation": activation} if activation else {}))
    c.expected = [helper.make_node("Transpose", [x], ["t"], perm=[0, 3, 1, 2]), helper.make_node("Transpose", [w], ["u"], perm=[0, 3, 1, 2]),
                  helper.make_node("Conv", ["t", "u", b], ["v"], **attrs), helper.make_node(activation or "Identity", ["v"], ["r"]),
                  helper.make_node("Transpose", ["r"], [y], perm=[0, 2, 3, 1])]


@case
def gelu(c):
    c.node("Gelu", [c.data(c.f32(3, 17, low=-4, high=4))])


@case
def quick_gelu(c):
    c.node("QuickGelu", [c.data(c.f32(3, 17, low=-4, high=4))], alpha=1.5)


@many("fast_gelu", {"plain": (False,), "bias": (True,)})
def _(c, bias):
    c.node("FastGelu", [c.data(c.f32(3, 17))] + ([c.const(c.f32(17))] if bias else []))


@case
def bias_gelu(c):
    c.node("BiasGelu", [c.data(c.f32(2, 3, 17)), c.const(c.f32(17))])


@case
def bias_add(c):
    x, bias, skip = c.data(c.f32(2, 5, 16)), c.const(c.f32(16)), c.data(c.f32(2, 5, 16))
    (y,) = c.node("BiasAdd", [x, bias, skip])
    c.expected = [helper.make_node("Sum", [x, bias, skip], [y])]


# ---- normalisations

@many("skip_layer_norm", {"plain": (1, 0, [True]), "bias": (1, 1, [True]), "sum": (1, 1, [True, False, False, True]), "no_beta": (0, 0, [True]),
                          "broadcast": (1, 0, [True], (1, 5, 16)), "broadcast_2d": (1, 0, [True], (5, 16))})
def _(c, beta, bias, wanted, skip=(2, 5, 16)):
    inputs = [c.data(c.f32(2, 5, 16)), c.data(c.f32(*skip)), c.const(c.f32(16)), c.const(c.f32(16)) if beta else ""]
    c.node("SkipLayerNormalization", inputs + ([c.const(c.f32(16))] if bias else []), wanted, epsilon=1e-3)


@many("skip_simplified", {"plain": (0, [True]), "bias": (1, [True]), "sum": (1, [True, False, False, True])})
def _(c, bias, wanted):
    inputs = [c.data(c.f32(2, 5, 16)), c.data(c.f32(2, 5, 16)), c.const(c.f32(16))]
    c.node("SkipSimplifiedLayerNormalization", inputs + ([c.const(c.f32(16))] if bias else []), wanted, epsilon=1e-3)


@many("simplified_layer_norm", {"plain": (1, {}), "inverse": (2, {}), "axis": (1, {"axis": 1})})
def _(c, n, attrs):
    scale = (5, 16) if attrs else (16,)
    c.node("SimplifiedLayerNormalization", [c.data(c.f32(2, 5, 16)), c.const(c.f32(*scale))], n, domain="", epsilon=1e-3, **attrs)


@case
def layer_norm_opset_12(c):
    c.opset = 12
    c.node("LayerNormalization", [c.data(c.f32(2, 5, 16)), c.const(c.f32(16)), c.const(c.f32(16))], domain="", axis=-1, epsilon=1e-3)


@many("embed_layer_norm", {"all": (1, 1, 0, [True, True, True]), "no_segment": (0, 0, 0, [True, True]), "positions": (1, 0, 1, [True, True]),
                           "plain": (1, 0, 0, [True, True])})
def _(c, segment, mask, positions, wanted):
    ids = lambda high: c.data(c.ints(np.int32, 2, 5, low=0, high=high))
    inputs = [ids(10), ids(1) if segment else "", c.const(c.f32(11, 16)), c.const(c.f32(7, 16)), c.const(c.f32(2, 16)) if segment else "",
              c.const(c.f32(16)), c.const(c.f32(16)), c.data(np.array([[1, 1, 1, 0, 0], [1] * 5], np.int32)) if mask else "",
              c.data(c.ints(np.int32, 2, 5, low=0, high=6)) if positions else ""]
    while not inputs[-1]:
        inputs.pop()
    c.node("EmbedLayerNormalization", inputs, wanted, epsilon=1e-3)


# ---- attention

MASKS = {"none": None, "ends": np.array([3, 5], np.int32), "spans": np.array([4, 5, 1, 2], np.int32),
         "keys": np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]], np.int32),
         "pairs": (np.arange(50).reshape(2, 5, 5) % 3 > 0).astype(np.int32)}


@many("attention", {**{f"mask_{k}": (m, {}) for k, m in MASKS.items()}, **{f"causal_{k}": (m, {"unidirectional": 1}) for k, m in MASKS.items()},
                    "scale": (None, {"scale": 0.3}), "sizes": (None, {"qkv_hidden_sizes": [8, 8, 12]}),
                    "fill": (MASKS["keys"], {"mask_filter_value": -2.0})})
def _(c, mask, attrs):
    width = sum(attrs.get("qkv_hidden_sizes", [8, 8, 8]))
    inputs = [c.data(c.f32(2, 5, 6)), c.const(c.f32(6, width)), c.const(c.f32(width))]
    c.node("Attention", inputs + ([c.data(mask)] if mask is not None else []), num_heads=2, **attrs)


@many("attention_past", {"plain": ({},), "causal": ({"unidirectional": 1},)})
def _(c, attrs):
    mask = np.array([[1] * 8, [0, 0, 1, 1, 1, 1, 1, 1]], np.int32)
    inputs = [c.data(c.f32(2, 5, 6)), c.const(c.f32(6, 24)), c.const(c.f32(24)), c.data(mask), c.data(c.f32(2, 2, 2, 3, 4))]
    c.node("Attention", inputs, 2, num_heads=2, **attrs)


@case
def attention_bias(c):
    inputs = [c.data(c.f32(2, 5, 6)), c.const(c.f32(6, 24)), c.const(c.f32(24)), "", "", c.data(c.f32(2, 2, 5, 5))]
    c.node("Attention", inputs, num_heads=2)


@many("multi_head", {"plain": (0, None, {}), "bias": (1, None, {}), "ends": (1, np.array([3, 6], np.int32), {}),
                     "keys": (1, np.array([[1, 1, 1, 0, 0, 1], [1] * 6], np.int32), {}), "scale": (0, None, {"scale": 0.3})})
def _(c, bias, mask, attrs):
    inputs = [c.data(c.f32(2, 5, 8)), c.data(c.f32(2, 6, 8)), c.data(c.f32(2, 6, 12)), c.const(c.f32(28)) if bias else "",
              c.data(mask) if mask is not None else ""]
    while not inputs[-1]:
        inputs.pop()
    c.node("MultiHeadAttention", inputs, num_heads=2, **attrs)


@many("multi_head_self", {"causal": ({"unidirectional": 1},), "plain": ({},), "pairs": ({}, MASKS["pairs"])})
def _(c, attrs, mask=None):
    inputs = [c.data(c.f32(2, 5, 8)), c.data(c.f32(2, 5, 8)), c.data(c.f32(2, 5, 8)), "", "" if mask is None else c.data(mask), c.data(c.f32(1, 2, 5, 5))]
    c.node("MultiHeadAttention", inputs, num_heads=2, **attrs)


def unpacked(c, x, parts, hidden):
    """Nodes and names of the parts of a packed operand, in ONNX's own operators: ONNX Runtime has packed forms on GPUs only."""
    nodes, to = [], c.const(np.array([0, 0, hidden], np.int64))
    for i in range(parts):
        nodes.append(helper.make_node("Gather", [x, c.const(np.int64(i))], [f"{x}_g{i}"], axis=3))
        nodes.append(helper.make_node("Reshape", [f"{x}_g{i}", to], [f"{x}_p{i}"]))
    return nodes, [f"{x}_p{i}" for i in range(parts)]


@case
def multi_head_packed(c):
    x = c.data(c.f32(2, 5, 2, 3, 4))
    (y,) = c.node("MultiHeadAttention", [x], num_heads=2)
    nodes, names = unpacked(c, x, 3, 8)
    c.expected = nodes + [helper.make_node("MultiHeadAttention", names, [y], domain=MS, num_heads=2)]


@case
def multi_head_packed_kv(c):
    q, x = c.data(c.f32(2, 5, 8)), c.data(c.f32(2, 6, 2, 2, 4))
    (y,) = c.node("MultiHeadAttention", [q, x], num_heads=2)
    nodes, names = unpacked(c, x, 2, 8)
    c.expected = nodes + [helper.make_node("MultiHeadAttention", [q, *names], [y], domain=MS, num_heads=2)]


@case
def multi_head_cross(c):
    c.node("MultiHeadAttention", [c.data(c.f32(2, 5, 8)), c.data(c.f32(2, 2, 6, 4)), c.data(c.f32(2, 2, 6, 4)), c.const(c.f32(24))], num_heads=2)


@many("multi_head_past", {"one": (1, {}), "three": (3, {}), "causal": (3, {"unidirectional": 1})})
def _(c, n, attrs):
    inputs = [c.data(c.f32(2, n, 8)), c.data(c.f32(2, n, 8)), c.data(c.f32(2, n, 8)), "", "", "", c.data(c.f32(2, 2, 4, 4)), c.data(c.f32(2, 2, 4, 4))]
    c.node("MultiHeadAttention", inputs, 3, num_heads=2, **attrs)


@many("qattention", {"plain": (np.uint8, 0, None, {}), "zero": (np.uint8, 1, MASKS["ends"], {}), "causal": (np.uint8, 1, MASKS["keys"], {"unidirectional": 1}),
                     "columns": (np.uint8, 2, None, {})})
def _(c, t, zero, mask, attrs):
    n = (24,) if zero == 2 else ()
    inputs = [c.data(c.ints(t, 2, 5, 6)), c.const(c.ints(np.int8, 6, 24)), c.const(c.f32(24)), c.const(np.float32(0.02)), c.const(c.f32(*n, low=0.01, high=0.02)),
              "" if mask is None else c.data(mask), c.const(t(110)) if zero else "", c.const(np.zeros(n, np.int8)) if zero else ""]
    while not inputs[-1]:
        inputs.pop()
    c.node("QAttention", inputs, num_heads=2, **attrs)


@many("rotary_embedding", {"plain": ((2, 5, 16), (2, 5), {}), "offset": ((2, 5, 16), (1,), {}), "heads": ((2, 3, 5, 8), (2, 5), {}),
                           "interleaved": ((2, 5, 16), (2, 5), {"interleaved": 1}), "part": ((2, 5, 16), (2, 5), {"num_heads": 2, "rotary_embedding_dim": 4}),
                           "heads_offset": ((2, 3, 5, 8), (1,), {})})
def _(c, shape, positions, attrs):
    half = attrs.get("rotary_embedding_dim", 8) // 2
    at = c.data(np.array([3], np.int64) if positions == (1,) else c.ints(np.int64, *positions, low=0, high=9))
    c.node("RotaryEmbedding", [c.data(c.f32(*shape)), at, c.const(c.f32(10, half, low=-1, high=1)), c.const(c.f32(10, half, low=-1, high=1))], **attrs)


@many("cdist", {"square": ("sqeuclidean", np.float32), "root": ("euclidean", np.float32), "f64": ("euclidean", np.float64)})
def _(c, metric, t):
    c.node("CDist", [c.data(c.f32(7, 5).astype(t)), c.const(c.f32(9, 5).astype(t))], metric=metric)


# ---- 8 bits

def params(c, dtype, scale):
    """Scale and zero point, constants."""
    return [c.const(np.float32(scale)), c.const(np.asarray(7 if dtype == np.int8 else 120, dtype))]


TYPES = {"u8": (np.uint8,), "i8": (np.int8,)}


@many("qlinear_add", TYPES)
def _(c, t):
    c.tolerance = BYTES
    a, b = c.data(c.ints(t, 2, 3, 17)), c.data(c.ints(t, 3, 1))
    c.node("QLinearAdd", [a, *params(c, t, 0.03), b, *params(c, t, 0.05), *params(c, t, 0.06)])


@many("qlinear_mul", TYPES)
def _(c, t):
    c.tolerance = BYTES
    a, b = c.data(c.ints(t, 2, 3, 17)), c.const(c.ints(t, 17))
    c.node("QLinearMul", [a, *params(c, t, 0.03), b, *params(c, t, 0.05), *params(c, t, 0.1)])


@many("qlinear_concat", TYPES)
def _(c, t):
    c.tolerance = BYTES
    a, b = c.data(c.ints(t, 2, 3, 5)), c.data(c.ints(t, 2, 4, 5))
    c.node("QLinearConcat", [*params(c, t, 0.05), a, *params(c, t, 0.03), b, *params(c, t, 0.05)], axis=1)


@many("qlinear_sigmoid", TYPES)
def _(c, t):
    c.tolerance = BYTES
    c.node("QLinearSigmoid", [c.data(c.ints(t, 2, 33)), *params(c, t, 0.05), c.const(np.float32(1 / 256)), c.const(np.asarray(np.iinfo(t).min, t))])


@many("qlinear_leaky_relu", TYPES)
def _(c, t):
    c.tolerance = BYTES
    c.node("QLinearLeakyRelu", [c.data(c.ints(t, 2, 33)), *params(c, t, 0.05), *params(c, t, 0.04)], alpha=0.1)


@many("qlinear_softmax", {"u8": (np.uint8, 13, -1), "i8": (np.int8, 13, 1), "flat": (np.uint8, 12, 1)})
def _(c, t, opset, axis):
    c.tolerance = BYTES
    to = [c.const(np.float32(1 / 256)), c.const(np.asarray(np.iinfo(t).min, t))]
    c.node("QLinearSoftmax", [c.data(c.ints(t, 2, 3, 5)), *params(c, t, 0.02), *to], axis=axis, opset=opset)


@many("qlinear_average_pool", {"u8": (np.uint8, 0, 0), "i8": (np.int8, 0, 0), "last": (np.uint8, 1, 0), "include": (np.uint8, 0, 1)})
def _(c, t, last, include):
    c.tolerance = BYTES
    x = c.data(c.ints(t, *((1, 7, 9, 3) if last else (1, 3, 7, 9))))
    c.node("QLinearAveragePool", [x, *params(c, t, 0.05), *params(c, t, 0.04)], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1],
           channels_last=last, count_include_pad=include)


@many("qlinear_global_average_pool", {"u8": (np.uint8, 0), "i8": (np.int8, 0), "last": (np.uint8, 1)})
def _(c, t, last):
    c.tolerance = BYTES
    x = c.data(c.ints(t, *((2, 7, 9, 3) if last else (2, 3, 7, 9))))
    c.node("QLinearGlobalAveragePool", [x, *params(c, t, 0.05), *params(c, t, 0.01)], channels_last=last)


@case
def qlinear_reduce_mean(c):
    c.tolerance = BYTES
    t = np.uint8
    x, to = c.data(c.ints(t, 2, 3, 7)), params(c, t, 0.02)
    inputs = [x, *params(c, t, 0.05), *to]
    (y,) = c.node("QLinearReduceMean", inputs, axes=[1, 2], keepdims=1)
    c.expected = [helper.make_node("DequantizeLinear", inputs[:3], ["r"]), helper.make_node("ReduceMean", ["r"], ["m"], axes=[1, 2], keepdims=1),
                  helper.make_node("QuantizeLinear", ["m", *to], [y])]


@case
def qlinear_where(c):
    c.tolerance = BYTES
    t = np.uint8
    c.node("QLinearWhere", [c.data(c.ints(np.int8, 2, 17, low=0, high=1).astype(bool)), c.data(c.ints(t, 2, 17)), *params(c, t, 0.05),
                            c.data(c.ints(t, 2, 17)), *params(c, t, 0.03), *params(c, t, 0.06)])


@many("qlinear_conv", {"last": (1,), "first": (0,)})
def _(c, last):
    c.tolerance = BYTES
    t = np.uint8
    x = c.data(c.ints(t, *((1, 7, 7, 3) if last else (1, 3, 7, 7))))
    # Short weights: without VNNI sums of two products of others saturate, and there is no precise kernel for this one.
    c.node("QLinearConv", [x, *params(c, t, 0.05), c.const(c.ints(np.int8, 4, 3, 3, 3, low=-64, high=64)), c.const(np.float32(0.01)), c.const(np.int8(0)),
                           *params(c, t, 0.2), c.const(c.ints(np.int32, 4, low=-300, high=300))], channels_last=last, kernel_shape=[3, 3])


@many("nhwc_max_pool", TYPES)
def _(c, t):
    c.node("NhwcMaxPool", [c.data(c.ints(t, 1, 7, 9, 3))], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


@many("qgemm", {"bytes": (1, 1, {}), "floats": (0, 1, {}), "trans": (1, 1, {"transA": 1, "transB": 1}), "alpha": (0, 0, {"alpha": 0.5})})
def _(c, quantised, bias, attrs):
    c.tolerance = BYTES if quantised else FLOAT
    t = np.uint8
    a, b = ((6, 3) if "transA" in attrs else (3, 6)), ((5, 6) if "transB" in attrs else (6, 5))
    inputs = [c.data(c.ints(t, *a)), *params(c, t, 0.05), c.const(c.ints(np.int8, *b)), c.const(c.f32(5, low=0.01, high=0.02)),
              c.const(np.zeros(5, np.int8)), c.const(c.ints(np.int32, 5, low=-300, high=300)) if bias else ""]
    inputs += params(c, t, 0.5) if quantised else []
    while not inputs[-1]:
        inputs.pop()
    c.node("QGemm", inputs, **attrs)


@many("dynamic_quantize_matmul", {"plain": (0, 0, 0), "bias": (1, 1, 0), "columns": (1, 1, 1), "i8": (0, 1, 0, np.int8)})
def _(c, zero, bias, columns, t=np.uint8):
    n = (5,) if columns else ()
    inputs = [c.data(c.f32(2, 3, 6)), c.const(c.ints(t, 6, 5)), c.const(c.f32(*n, low=0.01, high=0.02)),
              c.const(c.ints(t, *n, low=100, high=120)) if zero else "", c.const(c.f32(5)) if bias else ""]
    while not inputs[-1]:
        inputs.pop()
    c.node("DynamicQuantizeMatMul", inputs)


@many("matmul_integer_to_float", {"plain": (0, 0, 0), "bias": (1, 1, 0), "columns": (1, 1, 1)})
def _(c, zero, bias, columns):
    t, n = np.uint8, (5,) if columns else ()
    inputs = [c.data(c.ints(t, 2, 3, 6)), c.const(c.ints(t, 6, 5)), c.data(np.float32(0.02)), c.const(c.f32(*n, low=0.01, high=0.02)),
              c.data(np.uint8(9)) if zero else "", c.const(c.ints(t, *n, low=100, high=120)) if zero else "", c.const(c.f32(5)) if bias else ""]
    while not inputs[-1]:
        inputs.pop()
    c.node("MatMulIntegerToFloat", inputs)


@many("matmul_nbits", {"4": (4, 0, 0, 32, 16), "4_zero": (4, 1, 0, 80, 32), "4_bias": (4, 1, 1, 32, 16), "8": (8, 0, 0, 64, 32), "8_zero": (8, 1, 0, 96, 32),
                       "4_float_zero": (4, 2, 0, 64, 32), "4_column": (4, 1, 1, 32, 32), "8_column": (8, 0, 0, 50, 64)})
def _(c, bits, zero, bias, k, block):
    n, blocks = 5, -(-k // block)
    inputs = [c.data(c.f32(3, k)), c.const(c.ints(np.uint8, n, blocks, block * bits // 8)), c.const(c.f32(n * blocks, low=0.01, high=0.1))]
    zeros = {0: None, 1: c.ints(np.uint8, n * -(-blocks * bits // 8)), 2: c.f32(n * blocks, low=6, high=9)}[zero]
    inputs += ["" if zeros is None else c.const(zeros), "", c.const(c.f32(n)) if bias else ""]
    while not inputs[-1]:
        inputs.pop()
    c.node("MatMulNBits", inputs, K=k, N=n, bits=bits, block_size=block)


# ---- movements

@case
def gather_nd(c):
    c.node("GatherND", [c.data(c.f32(3, 4, 5)), c.data(np.array([[0, 1], [2, 3]], np.int64))])


@case
def pad(c):
    c.node("Pad", [c.data(c.f32(3, 4)), c.const(np.array([1, 0, 2, 3], np.int64)), c.const(np.float32(1.5))], mode="constant")


@case
def trilu(c):
    c.node("Trilu", [c.data(c.f32(2, 4, 5)), c.const(np.int64(1))], upper=0)


# ---- ai.onnx.ml: trees

def forest(c, trees, features, depth, tests=("BRANCH_LEQ",), missing=False):
    """Lists of random trees, and the (tree, node) of every leaf."""
    lists = {k: [] for k in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids", "missing_value_tracks_true")}
    leaves = []

    def grow(tree, level, ids):
        """Adds a subtree, parents before children; returns its number."""
        node = ids.pop(0)
        leaf = level == depth or (level > 0 and c.random.random() < 0.2)
        at = len(lists["nodeids"])
        row = [tree, node, 0 if leaf else int(c.random.integers(features)), "LEAF" if leaf else tests[int(c.random.integers(len(tests)))],
               0.0 if leaf else round(float(c.random.uniform(-1.5, 1.5)), 1), 0, 0, int(not leaf and missing and c.random.random() < 0.5)]
        for values, value in zip(lists.values(), row):
            values.append(value)
        if leaf:
            leaves.append((tree, node))
        else:
            lists["truenodeids"][at] = grow(tree, level + 1, ids)
            lists["falsenodeids"][at] = grow(tree, level + 1, ids)
        return node

    for tree in range(trees):
        grow(tree, 0, list(range(1 << depth + 1)))
    return {f"nodes_{k}": v for k, v in lists.items()}, leaves


def weights(c, prefix, leaves, ids, low=-1.0, high=1.0):
    """A weight of every leaf for every id."""
    pairs = [(leaf, i) for leaf in leaves for i in ids]
    values = [float(v) for v in c.f32(len(pairs), low=low, high=high)]
    return {f"{prefix}_treeids": [p[0][0] for p in pairs], f"{prefix}_nodeids": [p[0][1] for p in pairs], f"{prefix}_ids": [p[1] for p in pairs],
            f"{prefix}_weights": values}


def rows(c, n, features):
    """Values on splits too."""
    return np.round(c.f32(n, features), 1)


ALL_TESTS = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


@many("tree_regressor", {"plain": ({},), "base": ({"base_values": [0.5]},), "average": ({"aggregate_function": "AVERAGE"},),
                         "min": ({"aggregate_function": "MIN"},), "max": ({"aggregate_function": "MAX", "base_values": [0.5]},),
                         "three": ({"n_targets": 3},), "softmax": ({"n_targets": 3, "post_transform": "SOFTMAX"},),
                         "softmax_zero": ({"n_targets": 3, "post_transform": "SOFTMAX_ZERO"},), "logistic": ({"n_targets": 2, "post_transform": "LOGISTIC"},),
                         "tests": ({}, ALL_TESTS), "missing": ({}, ("BRANCH_LEQ",), True), "lt": ({}, ("BRANCH_LT",))})
def _(c, attrs, tests=("BRANCH_LEQ",), missing=False):
    nodes, leaves = forest(c, 5, 4, 4, tests, missing)
    x = rows(c, 33, 4)
    if missing:
        x[::3, 1], x[::4, 2] = np.nan, np.nan
    attrs = {"n_targets": 1, **attrs}
    c.node("TreeEnsembleRegressor", [c.data(x)], domain=ML, **nodes, **weights(c, "target", leaves, range(attrs["n_targets"])), **attrs)


@case
def tree_regressor_f64(c):
    nodes, leaves = forest(c, 5, 4, 4)
    c.node("TreeEnsembleRegressor", [c.data(rows(c, 33, 4).astype(np.float64))], domain=ML, n_targets=1, **nodes, **weights(c, "target", leaves, [0]))


@many("tree_classifier_of", {"f64": (np.float64,), "i64": (np.int64,), "i32": (np.int32,)})
def _(c, t):
    nodes, leaves = forest(c, 3, 4, 4)
    c.node("TreeEnsembleClassifier", [c.data(rows(c, 33, 4).astype(t))], 2, domain=ML, classlabels_int64s=[5, 7, 9], **nodes,
           **weights(c, "class", leaves, [0, 1, 2]))


@case
def tree_regressor_doubles(c):
    nodes, leaves = forest(c, 5, 4, 4)
    leaf_weights = weights(c, "target", leaves, [0])
    for lists, name in ((nodes, "nodes_values"), (leaf_weights, "target_weights")):
        lists[f"{name}_as_tensor"] = helper.make_tensor(name, TensorProto.DOUBLE, [len(lists[name])], lists.pop(name))
    c.node("TreeEnsembleRegressor", [c.data(rows(c, 33, 4).astype(np.float64))], domain=ML, n_targets=1, **nodes, **leaf_weights)


@many("tree_classifier", {"three": ([0, 1, 2], {}), "base": ([0, 1, 2], {"base_values": [0.1, 0.2, 0.3]}), "softmax": ([0, 1, 2], {"post_transform": "SOFTMAX"}),
                          "logistic": ([0, 1, 2], {"post_transform": "LOGISTIC"}), "softmax_zero": ([0, 1, 2], {"post_transform": "SOFTMAX_ZERO"}),
                          "single": ([0], {}), "single_logistic": ([0], {"post_transform": "LOGISTIC"}), "single_softmax": ([0], {"post_transform": "SOFTMAX"}),
                          "single_base": ([0], {"base_values": [0.3], "post_transform": "LOGISTIC"}),
                          "positive": ([0], {}, 0.0), "positive_logistic": ([0], {"post_transform": "LOGISTIC"}, 0.0),
                          "second": ([1], {}), "second_positive": ([1], {"post_transform": "SOFTMAX"}, 0.0)})
def _(c, ids, attrs, low=-1.0):
    nodes, leaves = forest(c, 3, 4, 4)
    labels = [5, 7, 9] if len(ids) == 3 else [5, 7]
    c.node("TreeEnsembleClassifier", [c.data(rows(c, 33, 4))], 2, domain=ML, classlabels_int64s=labels, **nodes,
           **weights(c, "class", leaves, ids, low=low, high=0.4 if low == 0.0 else 1.0), **attrs)


# ---- ai.onnx.ml: linear models and support vectors

@many("linear_regressor", {"plain": (1, {}), "three": (3, {}), "softmax": (3, {"post_transform": "SOFTMAX"}), "probit": (1, {"post_transform": "PROBIT"})})
def _(c, targets, attrs):
    probit = "post_transform" in attrs and attrs["post_transform"] == "PROBIT"
    coefficients = c.f32(targets * 4, low=0.0, high=0.1) if probit else c.f32(targets * 4)
    x = c.f32(9, 4, low=0.1, high=2.0)
    c.node("LinearRegressor", [c.data(x)], domain=ML, coefficients=coefficients.tolist(), intercepts=([0.1] if probit else c.f32(targets).tolist()),
           targets=targets, **attrs)


@many("linear_classifier", {"three": (3, [5, 7, 9], {}), "softmax": (3, [5, 7, 9], {"post_transform": "SOFTMAX"}),
                            "logistic": (3, [5, 7, 9], {"post_transform": "LOGISTIC"}), "two": (2, [5, 7], {}), "one": (1, [5, 7], {}),
                            "one_logistic": (1, [5, 7], {"post_transform": "LOGISTIC"}), "no_labels": (1, [], {}), "i64": (3, [5, 7, 9], {}, np.int64)})
def _(c, n, labels, attrs, t=np.float32):
    if labels:
        attrs = {**attrs, "classlabels_ints": labels}
    x = (3 * c.f32(9, 4)).astype(t)
    c.node("LinearClassifier", [c.data(x)], 2, domain=ML, coefficients=c.f32(n * 4).tolist(), intercepts=c.f32(n).tolist(), **attrs)


KERNELS = {"linear": ("LINEAR",), "poly": ("POLY",), "rbf": ("RBF",), "sigmoid": ("SIGMOID",)}


@many("svm_regressor", {**KERNELS, "one_class": ("RBF", {"one_class": 1})})
def _(c, kernel, attrs={}):
    c.node("SVMRegressor", [c.data(c.f32(9, 4))], domain=ML, kernel_type=kernel, kernel_params=[0.3, 0.5, 3.0], n_supports=6, rho=[0.2],
           support_vectors=c.f32(24).tolist(), coefficients=c.f32(6).tolist(), **attrs)


@case
def svm_regressor_coefficients(c):
    c.node("SVMRegressor", [c.data(c.f32(9, 4))], domain=ML, kernel_type="LINEAR", kernel_params=[0.0, 0.0, 0.0], n_supports=0, rho=[0.2],
           coefficients=c.f32(4).tolist(), support_vectors=[0.0])


@many("svm_classifier", {**{f"two_{k}": (v[0], [2, 3], {}) for k, v in KERNELS.items()}, "two_logistic": ("RBF", [2, 3], {"post_transform": "LOGISTIC"}),
                         "two_softmax": ("RBF", [2, 3], {"post_transform": "SOFTMAX"}), "three": ("RBF", [2, 3, 2], {}), "four": ("POLY", [3, 2, 3, 2], {}),
                         "four_logistic": ("LINEAR", [3, 2, 3, 2], {"post_transform": "LOGISTIC"}),
                         "two_probabilities": ("RBF", [2, 3], {}, True), "three_probabilities": ("LINEAR", [2, 3, 2], {}, True),
                         "five_probabilities": ("LINEAR", [2, 3, 2, 1, 2], {}, True),
                         "three_softmax_probabilities": ("RBF", [2, 3, 2], {"post_transform": "SOFTMAX"}, True)})
def _(c, kernel, counts, attrs, probabilities=False):
    classes, n = len(counts), sum(counts)
    pairs = classes * (classes - 1) // 2
    if probabilities:
        attrs = {**attrs, "prob_a": c.f32(pairs, low=-2.0, high=-1.0).tolist(), "prob_b": c.f32(pairs, low=-0.5, high=0.5).tolist()}
    c.node("SVMClassifier", [c.data(c.f32(17, 4))], 2, domain=ML, kernel_type=kernel, kernel_params=[0.3, 0.5, 3.0], vectors_per_class=counts,
           support_vectors=c.f32(n * 4).tolist(), coefficients=c.f32(n * (classes - 1)).tolist(), rho=c.f32(pairs).tolist(),
           classlabels_ints=[5, 7, 9, 11, 13][:classes], **attrs)


@many("svm_classifier_linear", {"plain": ({},), "logistic": ({"post_transform": "LOGISTIC"},)})
def _(c, attrs):
    c.node("SVMClassifier", [c.data(c.f32(17, 4))], 2, domain=ML, kernel_type="LINEAR", kernel_params=[0.0, 0.0, 0.0], rho=[0.2, 0.2, 0.2],
           coefficients=c.f32(12).tolist(), classlabels_ints=[5, 7, 9], **attrs)


# ---- ai.onnx.ml: preparations

@many("scaler", {"each": (4, np.float32), "one": (1, np.float32), "i64": (4, np.int64), "f64": (4, np.float64)})
def _(c, n, t):
    c.node("Scaler", [c.data((4 * c.f32(5, 4)).astype(t))], domain=ML, offset=c.f32(n).tolist(), scale=c.f32(n).tolist())


@many("normalizer", {"max": ("MAX",), "l1": ("L1",), "l2": ("L2",)})
def _(c, norm):
    x = c.f32(5, 4)
    x[2] = 0
    c.node("Normalizer", [c.data(x)], domain=ML, norm=norm)


@many("imputer", {"nan": (np.nan, 4), "one": (np.nan, 1), "value": (-1.0, 4)})
def _(c, old, n):
    x = c.f32(5, 4)
    x[::2, 1], x[1, :] = old, old
    c.node("Imputer", [c.data(x)], domain=ML, imputed_value_floats=c.f32(n).tolist(), replaced_value_float=old)


@case
def imputer_i64(c):
    c.node("Imputer", [c.data(c.ints(np.int64, 5, 4, low=0, high=3))], domain=ML, imputed_value_int64s=[7, 8, 9, 10], replaced_value_int64=2)


@case
def feature_vectorizer(c):
    c.node("FeatureVectorizer", [c.data(c.f32(5, 3)), c.data(c.f32(5, 2))], domain=ML, inputdimensions=[3, 2])


@many("one_hot_encoder", {"i64": (np.int64,), "f32": (np.float32,)})
def _(c, t):
    c.node("OneHotEncoder", [c.data(c.ints(np.int64, 5, 3, low=0, high=4).astype(t))], domain=ML, cats_int64s=[3, 1, 2], zeros=1)


def main():
    folder, only = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    failed = 0
    for name in CASES:
        if only in name:
            try:
                write(folder, name)
            except Exception as e:  # every case is tried, so that one run tells of all that fail
                failed += 1
                print(f"{name}: {type(e).__name__}: {str(e)[:300]}", file=sys.stderr)
    print(f"{len(CASES)} cases of com.microsoft and ai.onnx.ml in {folder}")
    sys.exit(1 if failed else 0)


main()
