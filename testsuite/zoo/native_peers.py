"""Engines of bench_peers.py through their C interfaces: `ort-c`, `openvino-c`.

Below a millisecond the calls of a Python binding are a part of what is measured.  These engines are set up from Python (ctypes) and
called in a loop of C (native_timer.c), as onnxc's models are: inputs in place, outputs in buffers that stay.
The wheels bring the libraries but no headers: of ONNX Runtime's interface, a table of functions whose order never changes, only
the places are named here; OpenVINO's are exported functions.
"""
import ctypes as C, glob, os, subprocess
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
# Places in the table `OrtApi`.
ORT_ERROR, ORT_ENV, ORT_SESSION, ORT_RUN, ORT_OPTIONS, ORT_SEVERITY, ORT_INTRA, ORT_INTER, ORT_TENSOR, ORT_MEMORY = 2, 3, 7, 9, 10, 22, 24, 25, 49, 69
# Numbers of element types in ONNX.
ELEMENT = {"float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}


def timer(tmp):
    """the function of native_timer.c"""
    path = os.path.join(tmp, "native_timer.so")
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", os.path.join(HERE, "native_timer.c"), "-o", path], check=True)
    f = C.CDLL(path).time_calls
    f.restype = C.c_size_t
    return f


def loop(tmp, function, words, mask, failed):
    """`many(n)`: nanoseconds of n calls of a C function"""
    time_calls, args = timer(tmp), (C.c_size_t * 8)(*words)
    def many(n):
        ns = (C.c_uint64 * n)()
        status = time_calls(C.cast(function, C.c_void_p), args, C.c_size_t(mask), C.c_long(n), ns)
        if status: raise RuntimeError(failed(status))
        return list(ns)
    return many


def first_outputs(path, feeds):
    """outputs of ONNX Runtime's binding: names, and arrays to write to"""
    import onnxruntime as ort
    so = ort.SessionOptions(); so.intra_op_num_threads = 1; so.log_severity_level = 4
    s = ort.InferenceSession(path, so, providers=["CPUExecutionProvider"])
    names = [i.name for i in s.get_inputs()]
    outs = s.run(None, {n: feeds[n] for n in names})
    return names, [o.name for o in s.get_outputs()], [np.ascontiguousarray(o) for o in outs]


def ort(path, feeds, threads, tmp):
    import onnxruntime
    names, out_names, outs = first_outputs(path, feeds)
    lib = C.CDLL(glob.glob(os.path.join(os.path.dirname(onnxruntime.__file__), "capi", "libonnxruntime.so*"))[0])
    lib.OrtGetApiBase.restype = C.POINTER(C.c_void_p)
    get_api = C.CFUNCTYPE(C.c_void_p, C.c_uint32)(lib.OrtGetApiBase()[0])
    table = C.cast(get_api(1), C.POINTER(C.c_void_p))
    message = C.CFUNCTYPE(C.c_char_p, C.c_void_p)(table[ORT_ERROR])
    failed = lambda status: "ONNX Runtime: " + message(status).decode()
    def call(place, *args):
        status = C.CFUNCTYPE(C.c_void_p, *map(type, args))(table[place])(*args)
        if status: raise RuntimeError(failed(status))
    def make(place, *args):
        made = C.c_void_p(); call(place, *args, C.cast(C.byref(made), C.c_void_p)); return made
    pointers = lambda values: (C.c_void_p * len(values))(*[v.value for v in values])
    strings = lambda texts: (C.c_char_p * len(texts))(*[t.encode() for t in texts])
    env = make(ORT_ENV, C.c_int(4), C.c_char_p(b"bench"))
    options = make(ORT_OPTIONS)
    call(ORT_SEVERITY, options, C.c_int(4)); call(ORT_INTRA, options, C.c_int(threads)); call(ORT_INTER, options, C.c_int(1))
    session = make(ORT_SESSION, env, C.c_char_p(path.encode()), options)
    memory = make(ORT_MEMORY, C.c_int(0), C.c_int(0))
    def tensor(a):
        shape = (C.c_int64 * max(1, a.ndim))(*a.shape)
        return make(ORT_TENSOR, memory, C.c_void_p(a.ctypes.data), C.c_size_t(a.nbytes), C.cast(shape, C.c_void_p), C.c_size_t(a.ndim), C.c_int(ELEMENT[a.dtype.name]))
    held = [np.ascontiguousarray(feeds[n]) for n in names]
    keep = (strings(names), pointers([tensor(a) for a in held]), strings(out_names), pointers([tensor(a) for a in outs]), held)
    at = lambda i: C.cast(keep[i], C.c_void_p).value
    words = [session.value, 0, at(0), at(1), len(names), at(2), len(out_names), at(3)]
    many = loop(tmp, table[ORT_RUN], words, 2**64 - 1, failed)
    def result(): many(1); return [a.copy() for a in outs]
    result.keep = keep
    return (lambda: many(1)), result, many


def openvino(path, feeds, threads, tmp):
    import openvino as ov
    m = ov.Core().read_model(path); name = lambda i: next(x for x in i.names if x in feeds)
    m.reshape({name(i): list(feeds[name(i)].shape) for i in m.inputs})
    fixed = os.path.join(tmp, "fixed.xml"); ov.save_model(m, fixed, compress_to_fp16=False)
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
    compiled = ov.Core().compile_model(m, "CPU", settings); request = compiled.create_infer_request()
    for i in compiled.inputs: request.set_tensor(i, ov.Tensor(feeds[name(i)]))
    request.infer(); like = [request.get_tensor(o).data.copy() for o in compiled.outputs]
    lib = C.CDLL(glob.glob(os.path.join(os.path.dirname(ov.__file__), "libs", "libopenvino_c.so*"))[0])
    def call(f, *args):
        status = getattr(lib, f)(*args)
        if status: raise RuntimeError(f"OpenVINO: {f}: status {status}")
    core, model, made, req = C.c_void_p(), C.c_void_p(), C.c_void_p(), C.c_void_p()
    call("ov_core_create", C.byref(core))
    call("ov_core_read_model", core, C.c_char_p(fixed.encode()), None, C.byref(model))
    text = lambda v: C.c_char_p(("NO" if v is False else str(v)).encode())
    pairs = [t for k, v in settings.items() for t in (C.c_char_p(k.encode()), text(v))]
    call("ov_core_compile_model", core, model, C.c_char_p(b"CPU"), C.c_size_t(len(pairs)), C.byref(made), *pairs)
    call("ov_compiled_model_create_infer_request", made, C.byref(req))
    def data(f, i):
        t, p = C.c_void_p(), C.c_void_p()
        call(f, req, C.c_size_t(i), C.byref(t)); call("ov_tensor_data", t, C.byref(p)); return p.value
    for i, port in enumerate(m.inputs):
        a = np.ascontiguousarray(feeds[name(port)]); C.memmove(data("ov_infer_request_get_input_tensor_by_index", i), a.ctypes.data, a.nbytes)
    many = loop(tmp, lib.ov_infer_request_infer, [req.value] + [0] * 7, 2**32 - 1, lambda status: f"OpenVINO: status {status}")
    def result():
        many(1)
        for j, a in enumerate(like): C.memmove(a.ctypes.data, data("ov_infer_request_get_output_tensor_by_index", j), a.nbytes)
        return [a.copy() for a in like]
    return (lambda: many(1)), result, many
