#!/usr/bin/env python3
"""What OpenVINO runs a model's layers with: JSON of {primitive: layers}, as its compiled model names them (`jit_avx512_f32`, `gemm_mlas_f32`).

usage: openvino_layers.py MODEL.onnx
Tells whether a cap on instructions (ONEDNN_MAX_CPU_ISA) holds for all of a model: it does not for layers that oneDNN's code does not do.
"""
import collections, json, sys
import openvino as ov

def main():
    core = ov.Core()
    compiled = core.compile_model(core.read_model(sys.argv[1]), "CPU", {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    text = lambda v: str(v.astype(str) if hasattr(v, "astype") else getattr(v, "value", v))
    print(json.dumps(collections.Counter(text(op.get_rt_info()["primitiveType"]) for op in compiled.get_runtime_model().get_ops())))

if __name__ == "__main__": main()
