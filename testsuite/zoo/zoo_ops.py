#!/usr/bin/env python3
"""List what models use: zoo_ops.py MODEL.onnx...

Per model: opsets, inputs that are not initialisers and outputs with their types and (symbolic) dims, dynamic dims,
and the operator types with their counts (subgraphs included, marked by `in Parent.attribute`).
"""
import collections, os, sys, onnx

def graph_ops(g, where, c):
    for n in g.node:
        c[((n.domain + ".") if n.domain not in ("", "ai.onnx") else "") + n.op_type + where] += 1
        for a in n.attribute:
            for sub in ([a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs): graph_ops(sub, f" (in {n.op_type}.{a.name})", c)

def show(v):
    if not v.type.HasField("tensor_type"): return f"{v.name}: {v.type.WhichOneof('value')}"
    t = v.type.tensor_type
    dims = [str(d.dim_value) if d.HasField("dim_value") else (d.dim_param or "?") for d in t.shape.dim] if t.HasField("shape") else ["(no shape)"]
    return f"{v.name}: {onnx.TensorProto.DataType.Name(t.elem_type).lower()}[{','.join(dims)}]"

def main(paths):
    for p in paths:
        m = onnx.load(p, load_external_data=False); g = m.graph; c = collections.Counter(); graph_ops(g, "", c)
        init = {i.name for i in g.initializer} | {i.values.name for i in g.sparse_initializer}
        dyn = sorted({d.dim_param or "?" for v in list(g.input) + list(g.output) if v.type.HasField("tensor_type") for d in v.type.tensor_type.shape.dim if not d.HasField("dim_value")})
        print(f"== {os.path.basename(p)}  {os.path.getsize(p)} bytes  ir {m.ir_version}  opset " + ", ".join(f"{o.domain or 'ai.onnx'}={o.version}" for o in m.opset_import)
              + f"  {len(g.node)} nodes, {len(g.initializer)} initialisers ({sum(1 for i in g.input if i.name in init)} also inputs), {len(m.functions)} functions")
        for i in g.input:
            if i.name not in init: print("  in  " + show(i))
        for o in g.output: print("  out " + show(o))
        print("  dynamic dims: " + (", ".join(dyn) or "none"))
        print("  ops: " + ", ".join(f"{k} {v}" for k, v in sorted(c.items(), key=lambda kv: (-kv[1], kv[0]))))

if __name__ == "__main__":
    if len(sys.argv) < 2: sys.exit(__doc__)
    main(sys.argv[1:])
