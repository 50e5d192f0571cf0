//! Declared types of graph inputs and outputs, with `--dim` and `--shape` applied.

use onnx_protobuf::{ValueInfoProto, tensor_shape_proto::dimension, type_proto};
use onnxc_ir::{DType, Dim, DimBindings, TensorType};

use crate::options::Options;

/// A declared type; the shape may be missing altogether. That of a sequence or an optional is what it holds.
#[derive(Clone)]
pub struct Declared {
    /// Element type.
    pub dtype: DType,
    /// Extents if the rank is known; those without name and value get a generated name.
    pub shape: Option<Vec<Dim>>,
    /// A sequence of such tensors.
    pub sequence: bool,
    /// It may be absent.
    pub optional: bool,
}

impl Declared {
    /// What it is, in a sentence.
    pub fn kind(&self) -> &'static str {
        if self.sequence { "a sequence" } else { "a tensor" }
    }

    /// The type of one tensor of a sequence. A name of an extent means the same everywhere only where it is given a value.
    pub fn element(&self, name: &str, bound: &DimBindings) -> Declared {
        let own = |(i, dim): (usize, &Dim)| {
            let dim = dim.bind(bound);
            if dim.as_const().is_some() { dim } else { Dim::sym(&format!("?{name}_{i}")) }
        };
        let shape = self.shape.as_ref().map(|all| all.iter().enumerate().map(own).collect());
        Declared { dtype: self.dtype, shape, sequence: false, optional: false }
    }
}

const NO_TENSOR: &str = "is not supported: maps, sparse tensors, and sequences or optionals in sequences";

/// What a value info declares. `Ok(None)` where it declares nothing.
pub fn declared(info: &ValueInfoProto) -> Result<Option<Declared>, String> {
    let Some(value) = info.type_.as_ref().and_then(|t| t.value.as_ref()) else { return Ok(None) };
    let (tensor, sequence, optional) = held(value).map_err(|e| format!("its type {e}"))?;
    let dtype = match (DType::from_onnx(tensor.elem_type), tensor.elem_type) {
        (Some(t), _) => t,
        (None, 0) => return Err("its element type is missing".into()),
        (None, n) => return Err(format!("its element type {n} is unknown")),
    };
    let Some(proto) = tensor.shape.as_ref() else { return Ok(Some(Declared { dtype, shape: None, sequence, optional })) };
    let unnamed = |i: usize| Dim::sym(&format!("?{}_{i}", info.name));
    let dim = |(i, d): (usize, &onnx_protobuf::tensor_shape_proto::Dimension)| match &d.value {
        // Some exporters write -1 for "unknown".
        Some(dimension::Value::DimValue(-1)) => Ok(unnamed(i)),
        Some(dimension::Value::DimValue(n)) => {
            u64::try_from(*n).map(Dim::Const).map_err(|_| format!("dimension {i} of its shape is negative: {n}"))
        }
        // Some exporters write a question mark for every dimension that they do not know.
        Some(dimension::Value::DimParam(name)) if !name.is_empty() && !name.starts_with('?') => Ok(Dim::sym(name)),
        _ => Ok(unnamed(i)),
    };
    let shape = proto.dim.iter().enumerate().map(dim).collect::<Result<_, _>>()?;
    Ok(Some(Declared { dtype, shape: Some(shape), sequence, optional }))
}

/// The tensor type that a type is or holds, whether as a sequence, whether as an optional.
pub fn held(mut value: &type_proto::Value) -> Result<(&type_proto::Tensor, bool, bool), &'static str> {
    use type_proto::Value;
    const INCOMPLETE: &str = "does not say what it holds";
    let (mut sequence, mut optional) = (false, false);
    if let Value::OptionalType(held) = value {
        optional = true;
        value = held.elem_type.as_ref().and_then(|t| t.value.as_ref()).ok_or(INCOMPLETE)?;
    }
    if let Value::SequenceType(held) = value {
        sequence = true;
        value = held.elem_type.as_ref().and_then(|t| t.value.as_ref()).ok_or(INCOMPLETE)?;
    }
    let Value::TensorType(tensor) = value else { return Err(NO_TENSOR) };
    Ok((tensor, sequence, optional))
}

/// The extents of a declared type, if all are known once dimensions are bound.
pub fn fixed(info: &ValueInfoProto, bound: &DimBindings) -> Option<Vec<u64>> {
    let declared = declared(info).ok()?.filter(|d| !d.sequence)?;
    declared.shape?.iter().map(|d| d.bind(bound).as_const()).collect()
}

/// Symbols that `--shape` fixes: where it gives an extent, the declared name of that extent has this value everywhere.
pub fn bind_shapes(inputs: &[ValueInfoProto], options: &Options, bound: &mut DimBindings) -> Result<(), String> {
    for info in inputs {
        let (Some(given), Ok(Some(Declared { shape: Some(shape), sequence: false, .. }))) =
            (options.shapes.get(&info.name), declared(info))
        else {
            continue;
        };
        for (dim, n) in shape.iter().zip(given) {
            if let (Dim::Sym(name), Some(n)) = (dim, n.as_const()) {
                match bound.insert(name.to_string(), n) {
                    Some(before) if before != n => {
                        return Err(format!(
                            "dimension {name} is given two extents: {before} and, by --shape of input {:?}, {n}",
                            info.name
                        ));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// The type of a tensor among the graph's inputs.
pub fn input_type(name: &str, declared: &Declared, options: &Options, bound: &DimBindings) -> Result<TensorType, String> {
    let Declared { dtype, shape, .. } = declared.clone();
    let given = options.shapes.get(name);
    let mut ty = match (shape, given) {
        (Some(shape), _) => TensorType { dtype, shape },
        (None, Some(given)) => TensorType::new(dtype, given.clone()),
        (None, None) => return Err(format!("its rank is unknown; give its shape: --shape {name}=1,3,224,224")),
    };
    if let Some(given) = given {
        let fits = ty.rank() == given.len() && ty.shape.iter().zip(given).all(|(d, n)| d.as_const().is_none() || d == n);
        if !fits {
            let given: Vec<String> = given.iter().map(Dim::to_string).collect();
            return Err(format!("--shape {name}={} does not fit its type {ty}", given.join(",")));
        }
        ty = TensorType::new(dtype, given.clone());
    }
    ty.shape = ty.shape.iter().map(|d| d.bind(bound)).collect();
    let limits = &options.limits;
    if ty.rank() > limits.rank {
        return Err(format!("it has {} dimensions, the limit is {}", ty.rank(), limits.rank));
    }
    let bytes = ty.least_bytes().filter(|b| *b <= limits.tensor_bytes);
    bytes.ok_or_else(|| format!("its type {ty} is too large: the limit is {} bytes", limits.tensor_bytes))?;
    Ok(ty)
}
