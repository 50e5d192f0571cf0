//! `MatMulNBits`: a product with a constant matrix of few bits, which is unpacked when compiling. Where each column is one block it stays integers,
//! dequantised.
//!
//! B is `[columns, blocks, block_size * bits / 8]` bytes: each column in blocks along the rows, low bits first, every block with a scale and a zero
//! point (packed in the same way for each column, or given as floats).

use onnxc_ir::op::{Import, ImportCx, OpError, OpResult};
use onnxc_ir::{Attr, Attrs, DType, Tensor};

use super::{absent, import};
use crate::common::elements::from_f64s;
use crate::composed::Build;

/// `MatMulNBits`.
pub(crate) const MATMUL_NBITS: Import = import("MatMulNBits", |cx| {
    let a = cx.input(0)?;
    absent(cx, 4, "g_idx")?;
    let bias = cx.opt_input(5);
    let format = Format::of(cx)?;
    let weights = match format.integers(cx)? {
        Some((values, scales)) => {
            let inputs = [Some(cx.constant(values)), Some(cx.constant(scales)), None];
            cx.node("dequantize_linear", &inputs, Attrs::default().with("axis", Attr::Int(1)))?[0]
        }
        None => {
            let weights = format.weights(cx)?;
            cx.constant(weights)
        }
    };
    let mut b = Build(cx);
    let mut y = b.op("matmul", &[a, weights])?;
    if let Some(bias) = bias {
        y = b.op("add", &[y, bias])?;
    }
    Ok(vec![y])
});

/// Attributes.
struct Format {
    rows: usize,
    columns: usize,
    bits: usize,
    block: usize,
}

impl Format {
    fn of(cx: &dyn ImportCx) -> OpResult<Format> {
        let attr = |name: &str, default: i64| -> OpResult<usize> {
            let value = cx.attrs().int(name).unwrap_or(default);
            let fits = usize::try_from(value).ok().filter(|v| (1..1 << 31).contains(v));
            fits.ok_or_else(|| OpError::new(format!("{name} is {value}, which is no extent")))
        };
        let format =
            Format { rows: attr("K", 0)?, columns: attr("N", 0)?, bits: attr("bits", 4)?, block: attr("block_size", 0)? };
        if ![2, 4, 8].contains(&format.bits) || !(format.block * format.bits).is_multiple_of(8) {
            let reason = format!("{} bits in blocks of {} are not supported", format.bits, format.block);
            return Err(OpError::new(reason).help("2, 4 or 8 bits in blocks of whole bytes"));
        }
        Ok(format)
    }

    fn blocks(&self) -> usize {
        self.rows.div_ceil(self.block)
    }

    /// Element `i` of packed bytes.
    fn unpack(&self, bytes: &[u8], i: usize) -> f64 {
        let at = i * self.bits;
        f64::from(bytes[at / 8] >> (at % 8) & (0xff >> (8 - self.bits)) as u8)
    }

    /// The matrix as `[rows, columns]` of the scales' type.
    fn weights(&self, cx: &dyn ImportCx) -> OpResult<Tensor> {
        let packed = constant(cx, 1, "B", self.packed_bytes())?;
        let scales = constant(cx, 2, "scales", (self.columns * self.blocks()) as u128)?;
        let values = scales.to_f64s().ok_or_else(|| OpError::new("scales must be floats"))?;
        if packed.dtype() != DType::U8 {
            return Err(OpError::new(format!("B is of type {}, it must be u8", packed.dtype())));
        }
        let zeros = self.zeros(cx)?;
        let middle = (1 << (self.bits - 1)) as f64;
        let value = |i: usize| {
            let (row, column) = (i / self.columns, i % self.columns);
            let block = column * self.blocks() + row / self.block;
            let q = self.unpack(packed.bytes(), block * self.block + row % self.block);
            (q - zeros.as_ref().map_or(middle, |z| z[block])) * values[block]
        };
        let all = (0..self.rows * self.columns).map(value);
        from_f64s(scales.dtype(), &[self.rows as u64, self.columns as u64], all)
    }

    /// The matrix as signed bytes `[rows, columns]` with an f32 scale for each column, if columns are blocks and their zero points leave bytes.
    fn integers(&self, cx: &dyn ImportCx) -> OpResult<Option<(Tensor, Tensor)>> {
        let packed = constant(cx, 1, "B", self.packed_bytes())?;
        let scales = constant(cx, 2, "scales", (self.columns * self.blocks()) as u128)?;
        if self.blocks() != 1 || scales.dtype() != DType::F32 || packed.dtype() != DType::U8 {
            return Ok(None);
        }
        let zeros = self.zeros(cx)?.unwrap_or_else(|| vec![(1 << (self.bits - 1)) as f64; self.columns]);
        let value = |i: usize| {
            let (row, column) = (i / self.columns, i % self.columns);
            let value = self.unpack(packed.bytes(), column * self.block + row) - zeros[column];
            (value.fract() == 0.0 && (-128.0..=127.0).contains(&value)).then_some(value as i8)
        };
        let values: Option<Vec<i8>> = (0..self.rows * self.columns).map(value).collect();
        let scales = scales.reshaped(&[self.columns as u64]).expect("internal: as many as columns");
        Ok(values.map(|values| (Tensor::from_vec(&[self.rows as u64, self.columns as u64], values), scales)))
    }

    /// Bytes of B. Attributes are any numbers until the constants have shown that they are extents.
    fn packed_bytes(&self) -> u128 {
        [self.blocks(), self.block, self.bits].iter().fold(self.columns as u128, |n, f| n * *f as u128) / 8
    }

    /// The zero point of every block.
    fn zeros(&self, cx: &dyn ImportCx) -> OpResult<Option<Vec<f64>>> {
        if cx.opt_input(3).is_none() {
            return Ok(None);
        }
        let (n, blocks) = (self.columns * self.blocks(), self.blocks());
        if cx.ty(3)?.dtype != DType::U8 {
            let floats = constant(cx, 3, "zero_points", n as u128)?.to_f64s();
            return floats.map(Some).ok_or_else(|| OpError::new("zero_points must be u8 or floats"));
        }
        let stride = (blocks * self.bits).div_ceil(8);
        let packed = constant(cx, 3, "zero_points", (self.columns * stride) as u128)?;
        let bytes = packed.bytes();
        Ok(Some((0..n).map(|i| self.unpack(&bytes[i / blocks * stride..], i % blocks)).collect()))
    }
}

/// Operand `i`, which must be a constant of `n` elements.
fn constant(cx: &dyn ImportCx, i: usize, what: &str, n: u128) -> OpResult<Tensor> {
    cx.input(i)?;
    let tensor = cx.const_input(i).ok_or_else(|| {
        OpError::new(format!("{what} is not known when compiling, which is not supported"))
            .help("make it an initialiser of the model")
    })?;
    if tensor.len() as u128 != n {
        return Err(OpError::new(format!("{what} has {} elements, the attributes ask for {n}", tensor.len())));
    }
    Ok(tensor)
}
