//! Sizes on the command line.

/// A limit of size.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Size {
    /// A multiple of the constants' bytes.
    Times(f64),
    /// Bytes.
    Bytes(u64),
}

/// `1.5x`, `600M`
pub(super) fn size(text: &str) -> Result<Size, String> {
    let wrong = || format!("`{text}`: write it as 1.5x, or as bytes: 4096, 300K, 20M, 1G");
    match text.strip_suffix('x') {
        Some(times) => times.parse().ok().filter(|t: &f64| t.is_finite() && *t >= 0.0).map(Size::Times).ok_or_else(wrong),
        None => bytes(text).map(Size::Bytes).map_err(|_| wrong()),
    }
}

/// `4096`, `300K` or `300KB`, which is 300 * 1024
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}`: write it as bytes: 4096, 300K, 20M, 1G");
    let short = text.strip_suffix('B').filter(|t| t.ends_with(['K', 'M', 'G'])).unwrap_or(text);
    let units = [('K', 10), ('M', 20), ('G', 30)];
    let (digits, shift) = units.iter().find_map(|(unit, shift)| Some((short.strip_suffix(*unit)?, *shift))).unwrap_or((short, 0));
    digits.parse().ok().and_then(|n: u64| n.checked_mul(1 << shift)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!((size("2x"), size("20M"), size("7")), (Ok(Size::Times(2.0)), Ok(Size::Bytes(20 << 20)), Ok(Size::Bytes(7))));
        assert_eq!((size("200KB"), bytes("1MB"), bytes("12")), (Ok(Size::Bytes(200 << 10)), Ok(1 << 20), Ok(12)));
        assert!(bytes("1x").is_err() && bytes("12B").is_err() && bytes("KB").is_err());
        assert!(size("x").is_err() && size("-1x").is_err() && size("20m").is_err() && size("").is_err());
    }
}
