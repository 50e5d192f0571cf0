//! `NAME_model`: the descriptor as data with addresses of itself and of the entry, which the linker fills in.

use cranelift_module::{DataDescription, DataId, FuncId, Linkage, Module};
use onnxc_ir::plan::Io;
use onnxc_runtime::abi;

use super::{Facts, bytes, extents};
use crate::error::{Error, Result};
use crate::generate::{Exports, symbol};
use crate::machine::FuncIx;

/// The bytes while they are laid out: the struct, tensors, steps, extents, texts; all addresses lead into it.
#[derive(Default)]
struct Blob {
    bytes: Vec<u8>,
    /// (where an address goes, where it leads).
    addresses: Vec<(usize, usize)>,
    /// Texts with the places that point at them.
    texts: Vec<(usize, String)>,
}

impl Blob {
    fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_le_bytes());
    }

    /// An address that is known later; its place.
    fn pointer(&mut self) -> usize {
        self.u64(0);
        self.bytes.len() - 8
    }

    fn text(&mut self, text: &str) {
        let at = self.pointer();
        self.texts.push((at, text.to_string()));
    }

    /// The place points to what comes next.
    fn here(&mut self, place: usize) {
        self.addresses.push((place, self.bytes.len()));
    }

    fn tensors(&mut self, list: &[Io]) -> Vec<(usize, Vec<u64>)> {
        let mut dims = Vec::new();
        for io in list {
            self.text(&io.name);
            dims.push((self.pointer(), extents(io)));
            self.u64(bytes(io));
            self.u32(io.ty.dtype.onnx_code() as u32);
            self.u32(io.ty.rank() as u32);
            self.u32(io.alias.unwrap_or(-1i32 as u32));
            self.u32(0);
        }
        dims
    }
}

/// Adds the descriptor to a module that has these functions.
pub(crate) fn define(
    module: &mut dyn Module,
    facts: &Facts,
    (exports, unpack): (Exports, Option<FuncIx>),
    linkage: Linkage,
) -> Result<DataId> {
    let fail = |e: cranelift_module::ModuleError| Error::Object(format!("{e:?}"));
    let mut blob = Blob::default();
    blob.u32(abi::ONNXC_MAGIC);
    blob.u32(abi::ONNXC_ABI_VERSION);
    blob.u32(size_of::<abi::onnxc_model>() as u32);
    blob.u32(size_of::<abi::onnxc_tensor>() as u32);
    for text in [&facts.name, &facts.producer, &facts.target, &facts.cpu_features] {
        blob.text(text);
    }
    let (run, inputs, outputs, steps) = (blob.pointer(), blob.pointer(), blob.pointer(), blob.pointer());
    for count in [facts.inputs.len(), facts.outputs.len(), facts.steps.len()] {
        blob.u32(u32::try_from(count).map_err(|_| Error::Object("too many inputs, outputs or steps".into()))?);
    }
    blob.u32(facts.max_threads);
    for size in [
        facts.arena_bytes,
        facts.arena_shared,
        facts.scratch_per_thread,
        facts.arena_align,
        facts.stack_bytes,
        facts.weights_bytes,
    ] {
        blob.u64(size);
    }
    blob.u32(facts.weights.abi_mode());
    blob.u32(0);
    blob.bytes.extend(facts.model_sha256);
    blob.bytes.extend(facts.weights_sha256);
    let (sizes, dims) = (blob.pointer(), blob.pointer());
    blob.u32(u32::try_from(facts.dims.len()).map_err(|_| Error::Object("too many open dimensions".into()))?);
    blob.u32(size_of::<abi::onnxc_dim>() as u32);
    let counts = blob.pointer();
    blob.u32(u32::try_from(facts.counts.len()).map_err(|_| Error::Object("too many counts".into()))?);
    blob.u32(size_of::<abi::onnxc_count>() as u32);
    let unpack_place = blob.pointer();
    blob.u64(facts.coded.map_or(0, |c| c.bytes));
    blob.u64(facts.coded.map_or(0, |c| c.unpack_stack_bytes));
    debug_assert_eq!(blob.bytes.len(), size_of::<abi::onnxc_model>(), "internal: the descriptor has the size of its struct");
    tables(&mut blob, facts, (inputs, outputs, steps));
    open_dims(&mut blob, facts, dims);
    if !facts.counts.is_empty() {
        blob.here(counts);
        for (name, bound) in &facts.counts {
            blob.text(name);
            blob.u64(*bound);
        }
    }
    texts(&mut blob);

    let id = module.declare_data(&format!("{}_model", symbol(&facts.name)), linkage, false, false).map_err(fail)?;
    let mut data = DataDescription::new();
    data.set_align(8);
    data.define(blob.bytes.into_boxed_slice());
    let own = module.declare_data_in_data(id, &mut data);
    for (place, target) in blob.addresses {
        data.write_data_addr(place as u32, own, target as i64);
    }
    let functions = [Some((run, exports.run)), Some((sizes, exports.sizes)), unpack.map(|f| (unpack_place, f))];
    for (place, function) in functions.into_iter().flatten() {
        let function = module.declare_func_in_data(FuncId::from_u32(function), &mut data);
        data.write_function_addr(place as u32, function);
    }
    module.define_data(id, &data).map_err(fail)?;
    Ok(id)
}

/// What follows the struct.
fn tables(blob: &mut Blob, facts: &Facts, (inputs, outputs, steps): (usize, usize, usize)) {
    blob.here(inputs);
    let mut dims = blob.tensors(&facts.inputs);
    blob.here(outputs);
    dims.extend(blob.tensors(&facts.outputs));
    blob.here(steps);
    for step in &facts.steps {
        blob.text(&step.origins.join(" "));
        blob.text(&step.op);
    }
    for (place, extents) in dims {
        if !extents.is_empty() {
            blob.here(place);
            extents.iter().for_each(|n| blob.u64(*n));
        }
    }
}

/// The table of open dimensions and, behind it, their values.
fn open_dims(blob: &mut Blob, facts: &Facts, table: usize) {
    if facts.dims.is_empty() {
        return;
    }
    blob.here(table);
    let mut values = Vec::new();
    for dim in &facts.dims {
        blob.text(&dim.name);
        values.push(blob.pointer());
        [dim.ranges.len(), dim.from.0, dim.from.1, dim.factor as usize].iter().for_each(|n| blob.u32(*n as u32));
    }
    for (place, dim) in values.into_iter().zip(&facts.dims) {
        blob.here(place);
        dim.ranges.iter().flat_map(|r| [r.0, r.1]).for_each(|n| blob.u64(n));
    }
}

/// The texts, equal ones once.
fn texts(blob: &mut Blob) {
    let mut known = std::collections::BTreeMap::new();
    for (place, text) in std::mem::take(&mut blob.texts) {
        let at = *known.entry(text.clone()).or_insert_with(|| {
            let at = blob.bytes.len();
            // A name with a zero byte inside ends there for C.
            blob.bytes.extend(text.bytes().chain([0]));
            at
        });
        blob.addresses.push((place, at));
    }
}
