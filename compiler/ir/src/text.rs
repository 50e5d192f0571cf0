//! The text form of graphs (`.nir`): printing. [`crate::parse`] reads it back; `docs/ir.md` has the grammar.

use std::fmt::{self, Write};

use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::{Attr, Attrs, Graph, Node, ValueId};
use crate::tensor::Tensor;

/// Constants with more elements print as a hash; the values go to a side file.
pub const INLINE_ELEMENTS: usize = 16;

/// Prints `graph`; large constants as `blob(hash)`.
pub fn print(graph: &Graph) -> String {
    let mut out = String::new();
    write_graph(&mut out, graph, 0).expect("internal: writing to a string");
    out
}

/// The constants that [`print`] leaves out, bodies included, by the hash that it prints.
pub fn blobs(graph: &Graph) -> Vec<(u64, Tensor)> {
    let mut found: Vec<(u64, Tensor)> = Vec::new();
    let mut add = |t: &Tensor| {
        if t.len() > INLINE_ELEMENTS && found.iter().all(|(h, _)| *h != t.fingerprint()) {
            found.push((t.fingerprint(), t.clone()));
        }
    };
    graph.values.iter().filter_map(|v| v.constant.as_ref()).for_each(&mut add);
    let attrs = graph.nodes.iter().flat_map(|n| n.attrs.0.values());
    let mut bodies = Vec::new();
    for attr in attrs {
        match attr {
            Attr::Tensor(t) => add(t),
            Attr::Graph(g) => bodies.push(g),
            _ => {}
        }
    }
    for body in bodies {
        for (hash, tensor) in blobs(body) {
            if found.iter().all(|(h, _)| *h != hash) {
                found.push((hash, tensor));
            }
        }
    }
    found
}

fn write_graph(out: &mut String, graph: &Graph, depth: usize) -> fmt::Result {
    let pad = "  ".repeat(depth);
    write!(out, "graph @{}(", quoted(&graph.name))?;
    for (i, id) in graph.inputs.iter().enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        write!(out, "{comma}{}: {}", name(graph, *id), graph.ty(*id))?;
    }
    out.push(')');
    for (i, (symbol, (low, high))) in graph.bounds.iter().enumerate() {
        write!(out, "{}{} in {low} to {high}", if i > 0 { ", " } else { " where " }, Dim::sym(symbol))?;
    }
    out.push_str(" {\n");
    for (i, value) in graph.values.iter().enumerate() {
        if let Some(tensor) = &value.constant {
            let id = ValueId(i as u32);
            writeln!(out, "{pad}  {} = const {} {}", name(graph, id), value.ty, literal(tensor))?;
        }
    }
    for node in &graph.nodes {
        write_node(out, graph, node, depth)?;
    }
    let outputs: Vec<String> = graph.outputs.iter().map(|id| name(graph, *id)).collect();
    writeln!(out, "{pad}  return {}", outputs.join(", "))?;
    write!(out, "{pad}}}")?;
    if depth == 0 {
        out.push('\n');
    }
    Ok(())
}

fn write_node(out: &mut String, graph: &Graph, node: &Node, depth: usize) -> fmt::Result {
    let results: Vec<String> = node.outputs.iter().map(|id| name(graph, *id)).collect();
    let operands: Vec<String> = node.inputs.iter().map(|i| i.map_or("_".to_string(), |id| name(graph, id))).collect();
    write!(out, "{}  {} = {}", "  ".repeat(depth), results.join(", "), node.op.name)?;
    if !operands.is_empty() {
        write!(out, " {}", operands.join(", "))?;
    }
    write_attrs(out, &node.attrs, depth)?;
    let types: Vec<String> = node.outputs.iter().map(|id| graph.ty(*id).to_string()).collect();
    write!(out, " : {}", types.join(", "))?;
    for origin in &node.origins {
        write!(out, " @{origin:?}")?;
    }
    out.push('\n');
    Ok(())
}

/// Attributes as a node prints them, with a space in front; nothing where there are none.
pub fn attrs(attrs: &Attrs) -> String {
    let mut out = String::new();
    write_attrs(&mut out, attrs, 0).expect("internal: writing to a string");
    out
}

fn write_attrs(out: &mut String, attrs: &Attrs, depth: usize) -> fmt::Result {
    if attrs.0.is_empty() {
        return Ok(());
    }
    out.push_str(" {");
    for (i, (key, attr)) in attrs.0.iter().enumerate() {
        write!(out, "{}{} = ", if i > 0 { ", " } else { "" }, quoted(key))?;
        write_attr(out, attr, depth + 1)?;
    }
    out.push('}');
    Ok(())
}

fn write_attr(out: &mut String, attr: &Attr, depth: usize) -> fmt::Result {
    match attr {
        Attr::Int(n) => write!(out, "{n}"),
        Attr::Float(x) => out.write_str(&float(f64::from(*x), DType::F32)),
        Attr::Str(s) => write!(out, "{s:?}"),
        Attr::Dims(v) => write!(out, "dims[{}]", list(v.iter().map(Dim::to_string))),
        Attr::Ints(v) => write!(out, "ints[{}]", list(v.iter().map(i64::to_string))),
        Attr::Floats(v) => write!(out, "floats[{}]", list(v.iter().map(|x| float(f64::from(*x), DType::F32)))),
        Attr::Strs(v) => write!(out, "strs[{}]", list(v.iter().map(|s| format!("{s:?}")))),
        Attr::Type(t) => write!(out, "type {t}"),
        Attr::Tensor(t) => write!(out, "tensor {}[{}] {}", t.dtype(), list(t.shape().iter().map(u64::to_string)), literal(t)),
        Attr::Graph(g) => write_graph(out, g, depth),
        Attr::Program(p) => write!(out, "program {:?}", p.to_string()),
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// `%name`, quoted where the name has other characters than letters, digits, `_`, `.`, `/`, `:` and `-`.
fn name(graph: &Graph, id: ValueId) -> String {
    format!("%{}", quoted(&graph.value(id).name))
}

fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
    if !name.is_empty() && name.chars().all(plain) { name.to_string() } else { format!("{name:?}") }
}

/// Values of a small constant, bit-exact; the hash of a large one.
fn literal(tensor: &Tensor) -> String {
    if let Some(strings) = tensor.strings() {
        return format!("strs[{}]", list(strings.iter().map(|s| format!("\"{}\"", s.escape_ascii()))));
    }
    if tensor.len() > INLINE_ELEMENTS {
        return format!("blob({:016x})", tensor.fingerprint());
    }
    let items: Option<Vec<String>> = match tensor.dtype() {
        DType::F32 | DType::F64 => tensor.to_f64s().map(|v| v.into_iter().map(|x| float(x, tensor.dtype())).collect()),
        DType::Bool | DType::U64 => None,
        t if t.is_int() => tensor.to_i64s().map(|v| v.iter().map(i64::to_string).collect()),
        _ => None,
    };
    match items {
        Some(items) => format!("[{}]", items.join(", ")),
        None => format!("hex({})", tensor.bytes().iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

/// Shortest text that reads back to the same bits; NaN and infinities by name, NaN payloads as bits.
fn float(x: f64, dtype: DType) -> String {
    let bits_differ = if dtype == DType::F32 {
        x.is_nan() && (x as f32).to_bits() != f32::NAN.to_bits()
    } else {
        x.is_nan() && x.to_bits() != f64::NAN.to_bits()
    };
    match x {
        _ if bits_differ && dtype == DType::F32 => format!("nan:{:08x}", (x as f32).to_bits()),
        _ if bits_differ => format!("nan:{:016x}", x.to_bits()),
        _ if x.is_nan() => "nan".to_string(),
        _ if x.is_infinite() => if x > 0.0 { "inf" } else { "-inf" }.to_string(),
        _ if dtype == DType::F32 => format!("{:?}", x as f32),
        _ => format!("{x:?}"),
    }
}
