//! The protobuf wire format in both directions, without a schema.
//!
//! Reading serves the `.pb` files of the ONNX tests and the names of a model's inputs.  Writing exists so that tests can
//! say exactly which bytes are wrong: a schema-driven encoder could not produce them.

/// The value of one field on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2: bytes, string, message or packed numbers.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

/// Splits `bytes` into fields; an error names the offset that made no sense.  Groups are refused.
pub fn fields(bytes: &[u8]) -> Result<Vec<(u32, Value<'_>)>, String> {
    let (mut at, mut out) = (0, Vec::new());
    while at < bytes.len() {
        let start = at;
        let bad = |what: &str| format!("byte {start}: {what}");
        let key = varint(bytes, &mut at).ok_or_else(|| bad("truncated tag"))?;
        let number = u32::try_from(key >> 3).map_err(|_| bad("field number out of range"))?;
        let value = match key & 7 {
            0 => Value::Varint(varint(bytes, &mut at).ok_or_else(|| bad("truncated varint"))?),
            1 => Value::Fixed64(u64::from_le_bytes(take(bytes, &mut at).ok_or_else(|| bad("truncated fixed64"))?)),
            2 => {
                let len = varint(bytes, &mut at).ok_or_else(|| bad("truncated length"))?;
                let end = usize::try_from(len).ok().and_then(|n| at.checked_add(n)).filter(|e| *e <= bytes.len());
                let end = end.ok_or_else(|| bad("length beyond the end"))?;
                let v = Value::Bytes(&bytes[at..end]);
                at = end;
                v
            }
            5 => Value::Fixed32(u32::from_le_bytes(take(bytes, &mut at).ok_or_else(|| bad("truncated fixed32"))?)),
            t => return Err(bad(&format!("wire type {t}"))),
        };
        out.push((number, value));
    }
    Ok(out)
}

fn take<const N: usize>(bytes: &[u8], at: &mut usize) -> Option<[u8; N]> {
    let v = *bytes.get(*at..)?.first_chunk::<N>()?;
    *at += N;
    Some(v)
}

/// Reads one varint at `at` and moves past it.
pub fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let [b] = take::<1>(bytes, at)?;
        value |= u64::from(b & 0x7f) << shift;
        if b < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The numbers of a repeated integer field, packed or not.
pub fn integers(value: Value<'_>) -> Result<Vec<u64>, String> {
    match value {
        Value::Varint(v) => Ok(vec![v]),
        Value::Bytes(b) => {
            let (mut at, mut out) = (0, Vec::new());
            while at < b.len() {
                out.push(varint(b, &mut at).ok_or("truncated packed varint")?);
            }
            Ok(out)
        }
        _ => Err("integers with a fixed wire type".into()),
    }
}

/// A message under construction: every method appends one field and returns the message, right or wrong.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Msg(pub Vec<u8>);

impl Msg {
    /// An empty message.
    pub fn new() -> Self {
        Self::default()
    }

    fn push_varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }

    /// A bare tag: field number and wire type, nothing after it.
    pub fn tag(mut self, field: u32, wire_type: u8) -> Self {
        self.push_varint(u64::from(field) << 3 | u64::from(wire_type));
        self
    }

    /// An integer field; negative numbers take ten bytes, as protobuf's int64 does.
    pub fn int(self, field: u32, v: i64) -> Self {
        let mut m = self.tag(field, 0);
        m.push_varint(v as u64);
        m
    }

    /// A length-delimited field.
    pub fn bytes(self, field: u32, v: impl AsRef<[u8]>) -> Self {
        let v = v.as_ref();
        let len = v.len() as u64;
        self.bytes_claiming(field, len, v)
    }

    /// A length-delimited field that claims `len` bytes and brings `v`.
    pub fn bytes_claiming(self, field: u32, len: u64, v: impl AsRef<[u8]>) -> Self {
        let mut m = self.tag(field, 2);
        m.push_varint(len);
        m.0.extend_from_slice(v.as_ref());
        m
    }

    /// A nested message.
    pub fn msg(self, field: u32, v: &Msg) -> Self {
        self.bytes(field, &v.0)
    }

    /// The same field once per message.
    pub fn msgs<'a>(self, field: u32, all: impl IntoIterator<Item = &'a Msg>) -> Self {
        all.into_iter().fold(self, |m, v| m.msg(field, v))
    }

    /// A 32-bit float field.
    pub fn float(self, field: u32, v: f32) -> Self {
        self.raw_after_tag(field, 5, &v.to_le_bytes())
    }

    /// Any bytes after a tag of any wire type.
    pub fn raw_after_tag(self, field: u32, wire_type: u8, v: &[u8]) -> Self {
        let mut m = self.tag(field, wire_type);
        m.0.extend_from_slice(v);
        m
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let m = Msg::new().int(1, -2).bytes(3, "abc").float(4, 1.0).msg(5, &Msg::new().int(1, 300));
        let f = fields(&m.0).unwrap();
        assert_eq!(f[0], (1, Value::Varint(-2i64 as u64)));
        assert_eq!(f[1], (3, Value::Bytes(b"abc")));
        assert_eq!(f[2], (4, Value::Fixed32(1.0f32.to_bits())));
        assert_eq!(f[3], (5, Value::Bytes(&[8, 0xac, 2])));
    }

    #[test]
    fn wrong_bytes_are_refused() {
        assert!(fields(&Msg::new().bytes_claiming(1, 9, "ab").0).unwrap_err().contains("beyond the end"));
        assert!(fields(&Msg::new().tag(1, 3).0).unwrap_err().contains("wire type 3"));
        assert!(fields(&[0x80; 11]).is_err());
    }
}
