"""Writes compiler/onnx/src/schemas.txt: what the ONNX standard says of every operator and version.

One line per operator and version: domain (- for ai.onnx), name, first opset, `x` if it ends there, smallest and largest number of
inputs and of outputs (* for any), then attributes as name:type with `!` where required. Needs the Python package `onnx`.
"""
import pathlib

import onnx.defs

KINDS = {"FLOAT": "f", "INT": "i", "STRING": "s", "TENSOR": "t", "GRAPH": "g", "FLOATS": "F", "INTS": "I", "STRINGS": "S",
         "TENSORS": "T", "GRAPHS": "G", "SPARSE_TENSOR": "p", "SPARSE_TENSORS": "P", "TYPE_PROTO": "y", "TYPE_PROTOS": "Y"}

# Operators that ONNX Runtime adds to ai.onnx, as its exports contain them; LayerNormalization came to ONNX with opset 17 only.
OF_ONNXRUNTIME = ["- LayerNormalization 1 2 3 1 3 axis:i epsilon:f stash_type:i",
                  "- SimplifiedLayerNormalization 1 2 2 1 2 axis:i epsilon:f stash_type:i"]


def most(n):
    return "*" if n > 1000 else str(n)


def line(s):
    attrs = [f"{n}:{KINDS[str(a.type).split('.')[-1]]}{'!' if a.required else ''}" for n, a in sorted(s.attributes.items())]
    words = [s.domain or "-", s.name, str(s.since_version) + ("x" if s.deprecated else ""), str(s.min_input), most(s.max_input),
             str(s.min_output), most(s.max_output)]
    return " ".join(words + attrs)


def main():
    schemas = sorted(onnx.defs.get_all_schemas_with_history(), key=lambda s: (s.domain, s.name, s.since_version))
    head = f"# testsuite/zoo/gen_schemas.py, onnx {onnx.__version__}, newest opset {onnx.defs.onnx_opset_version()}"
    out = pathlib.Path(__file__).parents[2] / "compiler/onnx/src/schemas.txt"
    lines = [line(s) for s in schemas if "training" not in s.domain] + OF_ONNXRUNTIME
    lines.sort(key=lambda text: (text.split()[0], text.split()[1], int(text.split()[2].rstrip("x"))))
    out.write_text("\n".join([head] + lines) + "\n")


main()
