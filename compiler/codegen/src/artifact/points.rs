//! The points of a bundle: their table in the object, and what header and binding say of them.

use std::fmt::Write as _;

use cranelift_module::{DataDescription, DataId, Linkage, Module};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use onnxc_ir::plan::Point;
use onnxc_runtime::abi;

use super::{Facts, descriptor, names};
use crate::error::{Error, Result};
use crate::generate::{Exports, symbol};
use crate::machine::FuncIx;

/// Adds to a module the descriptors of all points, whose functions are `exports` and, for the weights that they share, `unpack`; and `NAME_points` with
/// `NAME_point_count`.
pub(crate) fn define(module: &mut dyn Module, facts: &Facts, exports: &[Exports], unpack: Option<FuncIx>) -> Result<()> {
    let fail = |e: cranelift_module::ModuleError| Error::Object(format!("{e:?}"));
    let one = |((_, facts), exports): (&(Point, Facts), &Exports)| {
        descriptor::define(module, facts, (*exports, unpack), Linkage::Local)
    };
    let models: Vec<DataId> = facts.points.iter().zip(exports).map(one).collect::<Result<_>>()?;
    let size = size_of::<abi::onnxc_point>();
    let (mut bytes, mut texts) = (Vec::new(), Vec::new());
    for (point, of) in &facts.points {
        // Where the name is and where the model is: addresses.
        bytes.extend([0; 16]);
        bytes.extend(point.seconds.to_le_bytes());
        bytes.extend(point.drop.unwrap_or(-1.0).to_le_bytes());
        bytes.extend(of.arena_bytes.to_le_bytes());
        bytes.extend(point.weights_bytes.to_le_bytes());
    }
    for (point, _) in &facts.points {
        texts.push(bytes.len());
        bytes.extend(point.name.bytes().chain([0]));
    }
    let id = module.declare_data(&format!("{}_points", symbol(&facts.name)), Linkage::Export, false, false).map_err(fail)?;
    let mut data = DataDescription::new();
    data.set_align(8);
    data.define(bytes.into_boxed_slice());
    let own = module.declare_data_in_data(id, &mut data);
    for (i, (text, model)) in texts.into_iter().zip(models).enumerate() {
        data.write_data_addr((i * size) as u32, own, text as i64);
        let model = module.declare_data_in_data(model, &mut data);
        data.write_data_addr((i * size + 8) as u32, model, 0);
    }
    module.define_data(id, &data).map_err(fail)?;
    let count =
        module.declare_data(&format!("{}_point_count", symbol(&facts.name)), Linkage::Export, false, false).map_err(fail)?;
    let mut data = DataDescription::new();
    data.set_align(4);
    data.define(Box::new((facts.points.len() as u32).to_le_bytes()));
    module.define_data(count, &data).map_err(fail)
}

/// What a comment says of a point.
fn describe(point: &Point) -> String {
    let drop = point.drop.map_or("what it loses is not known".to_string(), |d| format!("loses {:.2} %", 100.0 * d));
    format!("\"{}\": {:.4} ms predicted, {drop}", names::comment(&point.name), 1e3 * point.seconds)
}

/// The macros of the points in a header.
pub(super) fn macros(w: &mut String, facts: &Facts, upper: &str) {
    w.push_str("\n/* Points: first argument of functions, places in the table of points. Sizes above are enough for each. */\n");
    let _ = writeln!(w, "#define {upper}_POINT_COUNT {}", facts.points.len());
    let fields = names::fields(facts.points.iter().map(|(p, _)| p.name.as_str()));
    for (i, ((point, of), field)) in facts.points.iter().zip(fields).enumerate() {
        let _ = writeln!(w, "/* {} */", describe(point));
        let _ = writeln!(w, "#define {upper}_POINT_{} {i}", field.to_ascii_uppercase());
        let _ = writeln!(w, "#define {upper}_POINT_{i}_ARENA_BYTES {}", of.arena_bytes);
        let _ = writeln!(w, "#define {upper}_POINT_{i}_STACK_BYTES {}", of.stack_bytes);
        let _ = writeln!(w, "#define {upper}_POINT_{i}_WEIGHTS_BYTES {}", point.weights_bytes);
    }
}

/// The declarations of a bundle in a header.
pub(super) fn declarations(w: &mut String, facts: &Facts, weights: &str) {
    let (name, upper) = (&facts.name, facts.name.to_ascii_uppercase());
    let _ = writeln!(
        w,
        "\n/* One inference of a point: 0, or an ONNXC_ status; ONNXC_POINT where there is no such point. Safe from many threads, each with its own \
         arena.{weights} */"
    );
    let _ = writeln!(w, "int32_t {name}_run(uint32_t point, const onnxc_call *call);");
    let _ = writeln!(w, "\n/* Fills in what a call of a point needs: 0, or an ONNXC_ status. dims: as in onnxc_call. */");
    let _ = writeln!(w, "int32_t {name}_sizes(uint32_t point, const uint64_t *dims, onnxc_sizes *sizes);");
    let _ = writeln!(w, "\n/* What there is to choose from; each point has a descriptor of its own. */");
    let _ = writeln!(w, "extern const onnxc_point {name}_points[{upper}_POINT_COUNT];");
    let _ = writeln!(w, "extern const uint32_t {name}_point_count;");
}

/// The constants of a binding.
pub(super) fn constants(w: &mut String, facts: &Facts) {
    let unused = "#[allow(dead_code)]\n";
    let n = facts.points.len();
    let _ = writeln!(w, "/// Points of the bundle.\n{unused}pub const POINT_COUNT: usize = {n};");
    let quoted: Vec<String> = facts.points.iter().map(|(p, _)| format!("{:?}", p.name)).collect();
    let _ = writeln!(w, "/// Their names.\n{unused}pub const POINT_NAMES: [&str; {n}] = [{}];", quoted.join(", "));
    let sizes: Vec<String> = facts.points.iter().map(|(_, of)| of.arena_bytes.to_string()).collect();
    let _ = writeln!(
        w,
        "/// What each of them needs of an [`Arena`].\n{unused}pub const POINT_ARENA_BYTES: [usize; {n}] = [{}];\n",
        sizes.join(", ")
    );
}

/// What an archive or object says of one of its points.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Name.
    pub name: String,
    /// Predicted seconds of an inference.
    pub seconds: f64,
    /// What it loses, 0 to 1, where that is known.
    pub drop: Option<f64>,
    /// Size of its arena.
    pub arena_bytes: u64,
    /// Bytes of weights that it reads.
    pub weights_bytes: u64,
}

/// The prefix of a bundle and its points, from the bytes of an archive or object; `None` where there is no table of points.
///
/// # Errors
/// [`Error::Object`] for what is neither an archive nor an object, and for a table that leads nowhere.
pub fn listed(file: &[u8]) -> Result<Option<(String, Vec<Listed>)>> {
    let fail = |e: object::Error| Error::Object(e.to_string());
    if !file.starts_with(object::archive::MAGIC.as_slice()) {
        return of_object(file);
    }
    for member in object::read::archive::ArchiveFile::parse(file).map_err(fail)?.members() {
        if let Some(found) = of_object(member.map_err(fail)?.data(file).map_err(fail)?)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn of_object(file: &[u8]) -> Result<Option<(String, Vec<Listed>)>> {
    let fail = |e: object::Error| Error::Object(e.to_string());
    let file = object::File::parse(file).map_err(fail)?;
    let Some((table, prefix)) = file.symbols().find_map(|s| {
        let prefix = s.name().ok()?.strip_suffix("_points")?.to_string();
        file.symbol_by_name(&format!("{prefix}_point_count")).is_some().then_some((s, prefix))
    }) else {
        return Ok(None);
    };
    let wrong = || Error::Object(format!("the table {prefix}_points leads out of the file"));
    let section = table.section_index().and_then(|i| file.section_by_index(i).ok()).ok_or_else(wrong)?;
    let count = file.symbol_by_name(&format!("{prefix}_point_count")).ok_or_else(wrong)?;
    let home = count.section_index().and_then(|i| file.section_by_index(i).ok()).ok_or_else(wrong)?;
    let at = |data: &[u8], at: u64| data.get(at as usize..)?.first_chunk::<8>().copied();
    let n = home.data().map_err(fail)?.get(count.address() as usize..).and_then(|d| d.first_chunk::<4>().copied());
    let (n, data) = (u32::from_le_bytes(n.ok_or_else(wrong)?), section.data().map_err(fail)?);
    let mut points = Vec::new();
    for i in 0..u64::from(n) {
        let entry = table.address().wrapping_add(i * size_of::<abi::onnxc_point>() as u64);
        let address = section.relocations().find(|(offset, _)| *offset == entry).map(|r| r.1).ok_or_else(wrong)?;
        let object::RelocationTarget::Symbol(to) = address.target() else { return Err(wrong()) };
        let text = file.symbol_by_index(to).map_err(fail)?.address().wrapping_add_signed(address.addend());
        let text = data.get(text as usize..).and_then(|t| t.split(|b| *b == 0).next()).ok_or_else(wrong)?;
        let word = |place: u64| at(data, entry.wrapping_add(place)).ok_or_else(wrong);
        let drop = f64::from_le_bytes(word(24)?);
        points.push(Listed {
            name: String::from_utf8_lossy(text).into_owned(),
            seconds: f64::from_le_bytes(word(16)?),
            drop: Some(drop).filter(|d| *d >= 0.0),
            arena_bytes: u64::from_le_bytes(word(32)?),
            weights_bytes: u64::from_le_bytes(word(40)?),
        });
    }
    Ok(Some((prefix, points)))
}
