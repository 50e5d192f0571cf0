//! Sequences and optionals of the backend tests: which inputs and outputs of a model have such a type, and what their files hold.

use std::path::Path;

use crate::pb;
use crate::tensor::Tensor;
use crate::wire::{self, Msg, Value};

/// An input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name.
    pub name: String,
    /// Its type is a sequence.
    pub sequence: bool,
    /// Its type is an optional.
    pub optional: bool,
}

fn inner(message: &[u8], field: u32) -> Result<Vec<&[u8]>, String> {
    let all = wire::fields(message)?.into_iter();
    Ok(all.filter_map(|(f, v)| if let Value::Bytes(b) = v { (f == field).then_some(b) } else { None }).collect())
}

fn port(info: &[u8]) -> Result<Port, String> {
    let name = inner(info, 1)?.pop().map(|n| String::from_utf8_lossy(n).into_owned()).unwrap_or_default();
    let mut ty = inner(info, 2)?.pop().unwrap_or_default();
    // optional_type, sequence_type
    let held = inner(ty, 9)?.pop();
    if let Some(held) = held {
        ty = inner(held, 1)?.pop().unwrap_or_default();
    }
    Ok(Port { name, sequence: !inner(ty, 4)?.is_empty(), optional: held.is_some() })
}

/// Inputs that are not initialisers, and outputs.
pub fn of_model(model: &[u8]) -> Result<(Vec<Port>, Vec<Port>), String> {
    let graph = inner(model, 7)?.pop().ok_or("the model has no graph")?;
    let all = |field| inner(graph, field)?.into_iter().map(port).collect::<Result<Vec<Port>, String>>();
    let (mut inputs, outputs, names) = (all(11)?, all(12)?, pb::model_inputs(model)?);
    inputs.retain(|p| names.contains(&p.name));
    Ok((inputs, outputs))
}

impl Port {
    /// What a file holds; `None` is an empty optional.
    pub fn read(&self, path: &Path) -> Result<Option<Vec<Tensor>>, String> {
        let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut bytes = &bytes[..];
        if self.optional {
            match inner(bytes, if self.sequence { 5 } else { 3 })?.pop() {
                Some(value) => bytes = value,
                None => return Ok(None),
            }
        }
        let all = if self.sequence { inner(bytes, 3)? } else { vec![bytes] };
        all.into_iter().map(pb::parse).collect::<Result<_, _>>().map(Some)
    }

    /// Writes what [`Port::read`] reads.
    pub fn write(&self, path: &Path, tensors: &[Tensor]) -> Result<(), String> {
        let list = || tensors.iter().fold(Msg::new().int(2, 1), |m, t| m.bytes(3, pb::encode(t, "")));
        let (kind, field, inner) = match (self.sequence, tensors) {
            (true, _) => (3, 5, list().0),
            (false, [tensor]) => (1, 3, pb::encode(tensor, "")),
            (false, all) => return Err(format!("{} tensors for {:?}", all.len(), self.name)),
        };
        let bytes = if self.optional { Msg::new().int(2, kind).bytes(field, inner).0 } else { inner };
        std::fs::write(path, bytes).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Names of its tensors in a compiled model.
    pub fn names(&self, n: usize) -> Vec<String> {
        if self.sequence { (0..n).map(|i| format!("{}_{i}", self.name)).collect() } else { vec![self.name.clone(); n] }
    }

    /// The flag that fixes what the model leaves open, if one is needed.
    pub fn flag(&self, held: Option<&[Tensor]>) -> Option<String> {
        match held {
            None => Some(format!("--absent={}", self.name)),
            Some(all) => self.sequence.then(|| format!("--length={}={}", self.name, all.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_files_are_read_as_written() {
        let tensor = Msg::new().msg(1, &Msg::new().int(1, 1));
        let list = Msg::new().msg(4, &Msg::new().msg(1, &tensor));
        let maybe = Msg::new().msg(9, &Msg::new().msg(1, &list));
        let info = |name: &str, ty: &Msg| Msg::new().bytes(1, name).msg(2, ty);
        let graph = Msg::new().msg(11, &info("x", &tensor)).msg(11, &info("s", &list)).msg(12, &info("o", &maybe));
        let (inputs, outputs) = of_model(&Msg::new().msg(7, &graph).0).unwrap();
        let kinds: Vec<_> = inputs.iter().chain(&outputs).map(|p| (p.name.as_str(), p.sequence, p.optional)).collect();
        assert_eq!(kinds, [("x", false, false), ("s", true, false), ("o", true, true)]);
        let path = tempfile::NamedTempFile::new().unwrap();
        let all = [Tensor::f32(&[1], &[2.0]), Tensor::f32(&[0], &[])];
        for port in inputs.iter().chain(&outputs) {
            let some = if port.sequence { &all[..] } else { &all[..1] };
            port.write(path.path(), some).unwrap();
            assert_eq!(port.read(path.path()).unwrap().as_deref(), Some(some));
        }
        std::fs::write(path.path(), Msg::new().bytes(1, "o").0).unwrap();
        assert_eq!(outputs[0].read(path.path()), Ok(None));
        assert_eq!(outputs[0].flag(None).as_deref(), Some("--absent=o"));
    }
}
