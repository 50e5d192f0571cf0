//! Inputs and outputs of models in files: folders of `input_<i>.npy` or `.pb`, and `.npz` files by name.

pub mod npy;
pub mod pb;
mod ports;

use std::fs;
use std::path::Path;

use onnxc_codegen::Contents;
use onnxc_ir::{Tensor, TensorType};

use crate::fault::{Done, Fault};
pub use ports::{Place, Side, places, sides, with_lengths};

/// The kind of files that inputs came in; outputs go out in the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `input_<i>.npy`.
    Npy,
    /// `input_<i>.pb`.
    Pb,
    /// One `.npz` file.
    Npz,
}

/// A model's input or output: name and type.
pub type Slot = (String, TensorType);

/// Reads the tensors of one side of a model from a folder (`<stem>_<i>`) or an `.npz` file (by name).
pub fn read(path: &Path, stem: &str, side: &Side) -> Done<(Vec<Tensor>, Kind)> {
    let (tensors, kind) = if path.is_dir() { read_folder(path, stem, side)? } else { (read_npz(path, &side.slots)?, Kind::Npz) };
    for ((name, ty), tensor) in side.slots.iter().zip(&tensors) {
        let got = TensorType::fixed(tensor.dtype(), tensor.shape());
        if !onnxc_ir::interp::accepts(ty, &got) {
            return Err(Fault::model(
                "data::type",
                format!("{stem} {name:?}: the model has {ty}, {} gives {got}", path.display()),
            ));
        }
    }
    Ok((tensors, kind))
}

fn read_folder(folder: &Path, stem: &str, side: &Side) -> Done<(Vec<Tensor>, Kind)> {
    let mut tensors = vec![None; side.slots.len()];
    let mut kind = Kind::Npy;
    for (i, port) in side.ports.iter().enumerate() {
        let (npy, pb) = (folder.join(format!("{stem}_{i}.npy")), folder.join(format!("{stem}_{i}.pb")));
        // An optional that is not given needs no file.
        if port.optional && port.tensors.is_empty() && !npy.exists() && !pb.exists() {
            continue;
        }
        let all = if npy.exists() {
            ports::read_port(&npy, port)?
        } else if pb.exists() {
            kind = Kind::Pb;
            ports::read_port(&pb, port)?
        } else {
            let n = side.ports.len();
            return Err(Fault::file(&npy, format!("there is neither this file nor its .pb; the model has {n} {stem}s")));
        };
        for (at, tensor) in port.tensors.iter().zip(all) {
            if let Some(at) = at {
                tensors[*at] = Some(tensor);
            }
        }
    }
    let all: Option<Vec<Tensor>> = tensors.into_iter().collect();
    Ok((all.ok_or_else(|| Fault::Internal(format!("an {stem} belongs to nothing")))?, kind))
}

/// Reads one tensor from a `.npy` file, or from a `.pb` file (a `TensorProto`).
pub fn read_tensor(path: &Path) -> Done<Tensor> {
    let bytes = read_file(path)?;
    if path.extension().is_some_and(|e| e == "pb") {
        return pb::parse(&bytes).map(|(_, tensor)| tensor).map_err(|e| Fault::file(path, e));
    }
    npy::parse(&bytes).map_err(|e| Fault::file(path, e))
}

fn read_npz(path: &Path, slots: &[Slot]) -> Done<Vec<Tensor>> {
    if !path.exists() {
        return Err(Fault::file(path, "there is no such folder or file"));
    }
    let arrays = npy::parse_npz(&read_file(path)?).map_err(|e| Fault::file(path, e))?;
    let find = |name: &str| arrays.iter().find(|a| a.0 == name).map(|a| a.1.clone());
    if let Some(all) = slots.iter().map(|(name, _)| find(name)).collect::<Option<Vec<_>>>() {
        return Ok(all);
    }
    let missing: Vec<&str> = slots.iter().map(|s| s.0.as_str()).filter(|n| find(n).is_none()).collect();
    Err(Fault::file(path, format!("no array named {}", missing.join(", "))))
}

/// Writes outputs: one file per output, or `outputs.npz`. Each file appears whole or not at all.
pub fn write(folder: &Path, kind: Kind, side: &Side, tensors: &[Tensor]) -> Done<()> {
    fs::create_dir_all(folder).map_err(|e| Fault::file(folder, e))?;
    if kind == Kind::Npz {
        let arrays: Vec<_> = side.slots.iter().map(|s| s.0.clone()).zip(tensors.iter().cloned()).collect();
        let path = folder.join("outputs.npz");
        return write_file(&path, &npy::encode_npz(&arrays).map_err(|e| Fault::file(&path, e))?);
    }
    for (j, port) in side.ports.iter().enumerate() {
        let own: Vec<Tensor> = port.tensors.iter().flatten().map(|at| tensors[*at].clone()).collect();
        // NumPy lacks some types (bfloat16, strings, sequences, optionals); those go out as protobuf.
        let array = match &own[..] {
            [tensor] if kind == Kind::Npy && !port.sequence && !port.optional => npy::encode(tensor).ok(),
            _ => None,
        };
        match array {
            Some(bytes) => write_file(&folder.join(format!("output_{j}.npy")), &bytes)?,
            None => {
                let bytes = pb::encode_held(&port.name, &own, port.sequence, port.optional);
                write_file(&folder.join(format!("output_{j}.pb")), &bytes)?;
            }
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> Done<Vec<u8>> {
    fs::read(path).map_err(|e| Fault::file(path, e))
}

/// Writes a file through a temporary one in the same folder.
pub fn write_file(path: &Path, bytes: &[u8]) -> Done<()> {
    write_with(path, |file| std::io::Write::write_all(file, bytes))
}

/// The same for contents that are made while they are written.
pub fn write_contents(path: &Path, contents: &Contents) -> Done<()> {
    write_with(path, |file| contents.write(file))
}

fn write_with(path: &Path, fill: impl FnOnce(&mut fs::File) -> std::io::Result<()>) -> Done<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = move || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut builder = tempfile::Builder::new();
        // The default is readable by the owner only; the umask takes away what the user does not want.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.prefix(".onnxc-").tempfile_in(folder)?;
        fill(file.as_file_mut())?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().map_err(|e| Fault::file(path, e))
}
