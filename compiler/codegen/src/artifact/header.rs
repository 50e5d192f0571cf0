//! The C header of a model: the ABI's structs, the model's symbols, its sizes as macros.

use std::fmt::Write as _;

use onnxc_ir::plan::{Io, OpenDim};

use super::{Coded, Facts, bytes, extents, names, points};

/// The text of `NAME.h`. It is self-contained; headers of several models may be included together.
pub fn header(facts: &Facts) -> String {
    let name = &facts.name;
    let upper = name.to_ascii_uppercase();
    let mut out = String::new();
    let w = &mut out;
    let _ = writeln!(w, "/* {}: made by {} for {}. Do not edit. */", names::comment(name), facts.producer, facts.target);
    w.push_str(onnxc_runtime::HEADER);
    let _ = writeln!(w, "\n#ifndef ONNXC_MODEL_{upper}_H\n#define ONNXC_MODEL_{upper}_H\n");
    w.push_str("#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n");
    let _ = writeln!(w, "/* Working memory that the caller provides. */");
    let _ = writeln!(w, "#define {upper}_ARENA_BYTES {}", facts.arena_bytes);
    let _ = writeln!(w, "#define {upper}_ARENA_ALIGN {}", facts.arena_align);
    let _ = writeln!(w, "/* Deepest stack of a run and of a task, hooks not counted. */");
    let _ = writeln!(w, "#define {upper}_STACK_BYTES {}", facts.stack_bytes);
    let _ = writeln!(w, "/* Most workers that parallel_for may use. */");
    let _ = writeln!(w, "#define {upper}_MAX_THREADS {}", facts.max_threads);
    let _ = writeln!(w, "#define {upper}_WEIGHTS_BYTES {}", facts.weights_bytes);
    let _ = writeln!(w, "\n#define {upper}_N_INPUTS {}", facts.inputs.len());
    let _ = writeln!(w, "#define {upper}_N_OUTPUTS {}", facts.outputs.len());
    for (kind, list) in [("INPUT", &facts.inputs), ("OUTPUT", &facts.outputs)] {
        for (i, io) in list.iter().enumerate() {
            let _ = writeln!(w, "/* {kind} {i}: {} */", describe(io, facts));
            let _ = writeln!(w, "#define {upper}_{kind}_{i}_BYTES {}", bytes(io));
        }
    }
    dims(w, facts, &upper);
    counts(w, facts, &upper);
    let weights = match (&facts.coded, facts.weights_are_passed()) {
        (_, false) => "",
        (Some(_), true) => " call->weights is what the weights were unpacked to.",
        (None, true) => " call->weights is the weight file's contents.",
    };
    if let Some(coded) = &facts.coded {
        unpack(w, facts, coded);
    }
    if facts.points.is_empty() {
        declarations(w, name, weights);
    } else {
        points::macros(w, facts, &upper);
        points::declarations(w, facts, weights);
    }
    let _ = writeln!(w, "\n#ifdef __cplusplus\n}}\n#endif\n\n#endif /* ONNXC_MODEL_{upper}_H */");
    out
}

/// Sizes of coded weights, and the function that decodes them.
fn unpack(w: &mut String, facts: &Facts, coded: &Coded) {
    let (name, upper) = (&facts.name, facts.name.to_ascii_uppercase());
    let _ = writeln!(w, "\n/* What the object has of the weights, and the deepest stack while they are decoded. */");
    let _ = writeln!(w, "#define {upper}_CODED_BYTES {}", coded.bytes);
    let _ = writeln!(w, "#define {upper}_UNPACK_STACK_BYTES {}", coded.unpack_stack_bytes);
    let _ = writeln!(
        w,
        "\n/* Decodes the weights into {upper}_WEIGHTS_BYTES of memory that is aligned to 64 bytes: 0, or an ONNXC_ status. Calls then pass this memory. */"
    );
    let _ = writeln!(w, "int32_t {name}_unpack(void *weights);");
}

/// The declarations of a single model.
fn declarations(w: &mut String, name: &str, weights: &str) {
    let _ =
        writeln!(w, "\n/* One inference: 0, or an ONNXC_ status. Safe from many threads, each with its own arena.{weights} */");
    let _ = writeln!(w, "int32_t {name}_run(const onnxc_call *call);");
    let _ = writeln!(w, "\n/* Fills in what a call needs: 0, or an ONNXC_ status. dims: as in onnxc_call. */");
    let _ = writeln!(w, "int32_t {name}_sizes(const uint64_t *dims, onnxc_sizes *sizes);");
    let _ = writeln!(w, "\n/* Everything about the model, for programs that do not know it. */");
    let _ = writeln!(w, "extern const onnxc_model {name}_model;");
}

/// The open dimensions: their places in `onnxc_call.dims`.
fn dims(w: &mut String, facts: &Facts, upper: &str) {
    if facts.dims.is_empty() {
        return;
    }
    w.push_str("\n/* Open dimensions: places in onnxc_call.dims. Sizes above are those of the largest. */\n");
    let _ = writeln!(w, "#define {upper}_N_DIMS {}", facts.dims.len());
    for (d, (dim, field)) in facts.dims.iter().zip(names::fields(facts.dims.iter().map(|d| d.name.as_str()))).enumerate() {
        let _ = writeln!(w, "/* \"{}\": {} */", names::comment(&dim.name), values(dim));
        let _ = writeln!(w, "#define {upper}_DIM_{} {d}", field.to_ascii_uppercase());
    }
}

/// The sizes that data decides on: their places in `onnxc_call.counts`.
fn counts(w: &mut String, facts: &Facts, upper: &str) {
    if facts.counts.is_empty() {
        return;
    }
    w.push_str(
        "\n/* Sizes that the data of a call decide on: places in onnxc_call.counts. Sizes above are those of the largest. */\n",
    );
    let _ = writeln!(w, "#define {upper}_N_COUNTS {}", facts.counts.len());
    for (i, ((name, bound), field)) in facts.counts.iter().zip(count_fields(facts)).enumerate() {
        let _ = writeln!(w, "/* \"{}\": at most {bound} */", names::comment(name));
        let _ = writeln!(w, "#define {upper}_COUNT_{} {i}", field.to_ascii_uppercase());
    }
}

/// Names of counts as fields and macros.
pub(super) fn count_fields(facts: &Facts) -> Vec<String> {
    names::fields(facts.counts.iter().map(|c| c.0.as_str()))
}

/// The values of an open dimension, as a comment.
pub(super) fn values(dim: &OpenDim) -> String {
    let one = |(first, last): &(u64, u64)| if first == last { first.to_string() } else { format!("{first} to {last}") };
    dim.ranges.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Name, type, shape and what else there is to say, as a comment.
pub(super) fn describe(io: &Io, facts: &Facts) -> String {
    let dims: Vec<String> = extents(io).iter().map(ToString::to_string).collect();
    let note = facts.notes.get(&io.name).map_or(String::new(), |n| format!(", {}", names::comment(n)));
    format!("\"{}\" {}[{}]{note}", names::comment(&io.name), io.ty.dtype.name(), dims.join(","))
}
