//! Static archives in the System V format with a symbol table, the same bytes every time.

use ar_archive_writer::{ArchiveKind, DEFAULT_OBJECT_READER, NewArchiveMember, write_archive_to_stream};

use crate::error::{Error, Result};

/// An archive of one object called `member`.
///
/// # Errors
/// [`Error::Object`] when the object cannot be read back.
pub fn archive(member: &str, object: &[u8]) -> Result<Vec<u8>> {
    let mut out = std::io::Cursor::new(Vec::new());
    let members = [NewArchiveMember::new(object, &DEFAULT_OBJECT_READER, member.to_string())];
    write_archive_to_stream(&mut out, &members, ArchiveKind::Gnu, false, None)
        .map_err(|e| Error::Object(format!("archive: {e}")))?;
    Ok(out.into_inner())
}
