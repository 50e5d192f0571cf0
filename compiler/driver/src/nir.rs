//! Graphs as files: `.nir` text with the large constants in a side file `.nir.blobs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use onnxc_ir::op::OpSet;
use onnxc_ir::tensor::Bytes;
use onnxc_ir::{DType, Graph, Tensor, parse, text};

use crate::fault::{Diagnostic, Done, Fault};

const MAGIC: &[u8; 8] = b"nirblob1";

/// The side file of a `.nir` file.
fn side_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".blobs");
    name.into()
}

/// Writes a graph; the side file only when it is needed.
pub fn write(path: &Path, graph: &Graph) -> std::io::Result<()> {
    fs::write(path, text::print(graph))?;
    let blobs = text::blobs(graph);
    if blobs.is_empty() {
        return Ok(());
    }
    let mut out = MAGIC.to_vec();
    for (hash, tensor) in &blobs {
        out.extend(hash.to_le_bytes());
        out.extend((tensor.dtype().onnx_code() as u32).to_le_bytes());
        out.extend((tensor.shape().len() as u32).to_le_bytes());
        tensor.shape().iter().for_each(|d| out.extend(d.to_le_bytes()));
        match tensor.strings() {
            Some(strings) => strings.iter().for_each(|s| {
                out.extend((s.len() as u64).to_le_bytes());
                out.extend(s);
            }),
            None => out.extend(tensor.bytes()),
        }
    }
    fs::write(side_file(path), out)
}

/// Reads a graph.
pub fn read(path: &Path) -> Done<Graph> {
    let text = fs::read_to_string(path).map_err(|e| Fault::file(path, e))?;
    let side = side_file(path);
    let blobs = if side.exists() {
        let bytes = fs::read(&side).map_err(|e| Fault::file(&side, e))?;
        parse_blobs(&bytes).ok_or_else(|| Fault::file(&side, "damaged"))?
    } else {
        BTreeMap::new()
    };
    let graph = parse::parse(&text, OpSet(onnxc_ops::ALL), &|hash| blobs.get(&hash).cloned());
    let graph = graph.map_err(|e| {
        let line: usize = text.split_inclusive('\n').take(e.line - 1).map(str::len).sum();
        let mut diagnostic = Diagnostic::new("nir::syntax", e.message);
        diagnostic.source = Some((text.clone(), line + e.column - 1));
        Fault::Model(vec![diagnostic])
    })?;
    onnxc_ir::verify::verify(&graph)
        .map_err(|problems| Fault::Model(problems.into_iter().map(|p| Diagnostic::new("nir::verify", p)).collect()))?;
    Ok(graph)
}

fn parse_blobs(bytes: &[u8]) -> Option<BTreeMap<u64, Tensor>> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let mut take = |n: usize| -> Option<&[u8]> {
        let (head, tail) = rest.split_at_checked(n)?;
        rest = tail;
        Some(head)
    };
    let mut blobs = BTreeMap::new();
    while let Some(hash) = take(8) {
        let hash = u64::from_le_bytes(hash.try_into().ok()?);
        let dtype = DType::from_onnx(u32::from_le_bytes(take(4)?.try_into().ok()?) as i32)?;
        let rank = u32::from_le_bytes(take(4)?.try_into().ok()?);
        let mut shape = Vec::new();
        for _ in 0..rank {
            shape.push(u64::from_le_bytes(take(8)?.try_into().ok()?));
        }
        let elements = onnxc_ir::tensor::element_count(&shape)?;
        let tensor = if dtype == DType::Str {
            let mut strings = Vec::new();
            for _ in 0..elements {
                let length = u64::from_le_bytes(take(8)?.try_into().ok()?);
                strings.push(take(usize::try_from(length).ok()?)?.to_vec());
            }
            Tensor::from_strings(&shape, strings)?
        } else {
            let data = take(usize::try_from(dtype.bytes_for(elements)?).ok()?)?;
            Tensor::from_bytes(dtype, shape, Bytes::new(data.to_vec()))?
        };
        blobs.insert(hash, tensor);
    }
    Some(blobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_constants_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g.nir");
        let mut graph = Graph::new("g");
        let a = graph.add_const("a", Tensor::from_vec(&[2, 20], (0..40).map(|i| i as f32).collect()));
        let s = graph.add_const("s", Tensor::from_strings(&[17], vec![b"x y".to_vec(); 17]).unwrap());
        graph.outputs = vec![a, s];
        write(&path, &graph).unwrap();
        assert_eq!(read(&path).unwrap(), graph);
    }

    #[test]
    fn syntax_errors_say_where() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g.nir");
        fs::write(&path, "graph @g() {\n  %a = nonsense\n  return %a\n}\n").unwrap();
        let Err(Fault::Model(list)) = read(&path) else { panic!("accepted") };
        assert_eq!(list[0].code, "nir::syntax");
        assert!(list[0].source.as_ref().unwrap().1 > 12, "{list:?}");
    }
}
