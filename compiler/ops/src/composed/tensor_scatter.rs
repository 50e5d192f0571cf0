//! ONNX `TensorScatter`: new rows written into a cache, at a position of its own for each batch.

use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};
use onnxc_ir::{DType, ValueId};

use super::Build;
use crate::common::axes::axis;
use crate::common::sample::int_attrs;

/// ONNX `TensorScatter`.
pub(crate) const TENSOR_SCATTER: Import = Import { domain: "", name: "TensorScatter", opsets: (24, NEWEST), build };

fn build(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (cache, update, starts) = (cx.input(0)?, cx.input(1)?, cx.opt_input(2));
    let along = axis(cx.attrs().int("axis").unwrap_or(-2), cx.ty(0)?.rank())?;
    let circular = match cx.attrs().str("mode").unwrap_or("linear") {
        "linear" => false,
        "circular" => true,
        other => return Err(OpError::new(format!("mode {other:?} is unknown")).help("linear or circular")),
    };
    let mut b = Build(cx);
    let (whole, part) = (b.shape(cache)?, b.shape(update)?);
    let fits =
        whole.len() == part.len() && (0..whole.len()).all(|d| if d == along { part[d] <= whole[d] } else { part[d] == whole[d] });
    if !fits || along == 0 {
        return Err(OpError::new(format!("an update of type {} does not fit a cache of {}", b.ty(update), b.ty(cache))));
    }
    let mut shape = vec![1; part.len()];
    shape[along] = part[along];
    let places = b.range(part[along])?;
    let mut places = b.reshape(places, &shape)?;
    if let Some(s) = starts {
        let s = b.cast(s, DType::I64)?;
        let axes: Vec<i64> = (1..part.len() as i64).collect();
        let s = b.unsqueeze(s, &axes)?;
        places = b.op("add", &[places, s])?;
    }
    if circular {
        let size = b.int(whole[along] as i64);
        places = b.op("mod", &[places, size])?;
    }
    let all = b.ints(&part.iter().map(|d| *d as i64).collect::<Vec<_>>());
    let places = b.op("expand", &[places, all])?;
    Ok(vec![b.with("scatter_elements", &[cache, places, update], int_attrs(&[("axis", along as i64)]))?])
}
