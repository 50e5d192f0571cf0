"""Compiled models on targets that are not here: what compiles and links for them, and an emulator that counts the instructions it executes.

For foreign_compressed.py and accuracy/foreign.py. Needs cross compilers, qemu with plugins, and onnxc (ONNXC, else the release build).
"""
import json, os, re, subprocess
import numpy as np
HERE = os.path.dirname(os.path.abspath(__file__)); ROOT = os.path.dirname(HERE)
ONNXC = os.environ.get("ONNXC", os.path.join(ROOT, "target", "release", "onnxc"))
V = "rv64,v=true,vlen={},vext_spec=v1.0"
TARGETS = {  # triple, CPU, compiler, emulator
    "a64": ("aarch64-unknown-linux-gnu", "armv8.2-a", "aarch64-linux-gnu-gcc", ["qemu-aarch64"]),
    "rv128": ("riscv64gc-unknown-linux-gnu", "rv64gcv", "riscv64-linux-gnu-gcc", ["qemu-riscv64", "-cpu", V.format(128)]),
    "rv256": ("riscv64gc-unknown-linux-gnu", "rv64gcv", "riscv64-linux-gnu-gcc", ["qemu-riscv64", "-cpu", V.format(256)]),
}
HOST = ("x86_64-unknown-linux-gnu", "native", os.environ.get("CC", "cc"), [])
# The interface of the emulator's plugins, version 1, as far as it is needed: adds up the instructions of translated blocks.
PLUGIN = r"""
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
struct qemu_plugin_tb;
__attribute__((visibility("default"))) int qemu_plugin_version = 1;
extern void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t, void (*)(uint64_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
extern void qemu_plugin_register_atexit_cb(uint64_t, void (*)(uint64_t, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
static uint64_t count;
static void translated(uint64_t id, struct qemu_plugin_tb *tb) { (void)id; qemu_plugin_register_vcpu_tb_exec_inline(tb, 0, &count, qemu_plugin_tb_n_insns(tb)); }
static void ended(uint64_t id, void *p) { (void)id; (void)p; fprintf(stderr, "instructions %llu\n", (unsigned long long)count); }
__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv) {
    (void)info; (void)argc; (void)argv; qemu_plugin_register_vcpu_tb_trans_cb(id, translated); qemu_plugin_register_atexit_cb(id, ended, NULL); return 0;
}
"""

def counter(folder):
    """builds the plugin that counts"""
    source, plugin = os.path.join(folder, "count.c"), os.path.join(folder, "count.so")
    with open(source, "w") as f: f.write(PLUGIN)
    subprocess.run([HOST[2], "-shared", "-fPIC", "-O1", "-o", plugin, source], check=True)
    return plugin

def on(machine): return ["--target", machine[0], "--cpu", machine[1]]

def build(path, machine, flags, folder, onnxc=ONNXC):
    """compiles a model and links the program that runs it, folder/program"""
    os.makedirs(folder, exist_ok=True)
    subprocess.run([onnxc, "compile", path, "-o", f"{folder}/model.a", "--name", "model", *on(machine), *flags], check=True)
    subprocess.run([machine[2], "-std=gnu11", "-O2", "-static", "-I", folder, '-DMODEL_HEADER="model.h"', "-DMODEL=model_model", os.path.join(HERE, "adapters", "bench_main.c"), f"{folder}/model.a", "-lm", "-lpthread", "-o", f"{folder}/program"], check=True)

def planned(path, machine, flags, onnxc=ONNXC):
    """milliseconds and multiplications of an inference, as the compiler plans it: those that Winograd's algorithm or lists of what is not zero save are not counted"""
    said = subprocess.run([onnxc, "inspect", "--layers", "--json", path, *on(machine), *flags], check=True, capture_output=True, text=True).stdout
    layers = json.loads(said)["layers"]
    return sum(l["predicted_ms"] for l in layers), round(sum(l["product_flops"] + l["int8_ops"] for l in layers) / 2)

def execute(machine, folder, inputs, plugin, command):
    """gives folder/program a command; `inputs`: a folder with input_<i>.npy"""
    counted = ["-plugin", plugin] if plugin else []
    ran = subprocess.run([*machine[3], *counted, f"{folder}/program", inputs, "1"], input=command + "\n", text=True, capture_output=True)
    assert ran.returncode == 0, ran
    found = re.search(r"instructions (\d+)", ran.stderr)
    return int(found.group(1)) if found else None

def instructions(machine, folder, inputs, plugin):
    """of one inference: the program starts with one, and `run 0` is another"""
    once, twice = (execute(machine, folder, inputs, plugin, command) for command in ("end", "run 0"))
    return twice - once

def outputs(machine, folder, inputs):
    """of one inference, in their order"""
    execute(machine, folder, inputs, None, f"out {folder}")
    return [np.load(f"{folder}/output_{i}.npy") for i in range(len(json.load(open(f"{folder}/model.json"))["outputs"]))]
