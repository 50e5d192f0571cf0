//! Static archives in the System V format with a symbol table, the same bytes every time.

use ar_archive_writer::{ArchiveKind, DEFAULT_OBJECT_READER, NewArchiveMember, write_archive_to_stream};

use crate::contents::Contents;
use crate::error::{Error, Result};

/// The field of a member's header that has its size, in decimal digits: where it begins and ends.
const SIZE: std::ops::Range<usize> = 48..58;
/// Bytes of a member's header.
const HEADER: usize = 60;

/// An archive of one object called `member`.
///
/// # Errors
/// [`Error::Object`] when the object cannot be read back, or is too large for the format.
pub fn archive(member: &str, object: &Contents) -> Result<Contents> {
    let mut out = std::io::Cursor::new(Vec::new());
    let members = [NewArchiveMember::new(&*object.head, &DEFAULT_OBJECT_READER, member.to_string())];
    write_archive_to_stream(&mut out, &members, ArchiveKind::Gnu, false, None)
        .map_err(|e| Error::Object(format!("archive: {e}")))?;
    let mut head = out.into_inner();
    if object.weights.bytes() > 0 {
        // The weights are the end of the one member, which is the last: its header says how long it is.
        let size = object.bytes().to_string();
        let whole = object.head.len().is_multiple_of(2) && object.weights.bytes().is_multiple_of(2);
        let fail = || Error::Object(format!("archive: a member of {size} bytes"));
        let header = head.len().checked_sub(object.head.len() + HEADER).filter(|_| whole).ok_or_else(fail)?;
        let field = head[header..][SIZE].iter_mut();
        (size.len() <= SIZE.len()).then_some(()).ok_or_else(fail)?;
        field.zip(size.bytes().chain(std::iter::repeat(b' '))).for_each(|(to, digit)| *to = digit);
    }
    Ok(Contents { head, weights: object.weights.clone() })
}
