//! Seeded mutations of protobuf messages: the same seed gives the same bytes on every machine.
//!
//! Half of the mutations change bytes, half change the tree of fields and encode it again, so that lengths stay right and the damage
//! reaches what lies behind the parser. The tree is read without a schema: bytes that happen to be a valid message are taken as one.
//! The bounded test of the importer and its fuzz target (`compiler/onnx/fuzz`) share this file, so it needs the standard library only.

use crate::wire::{Msg, Value, fields};

/// Bytes that no mutation grows beyond.
pub const MAX_BYTES: usize = 1 << 16;

/// Messages nested deeper than this stay bytes.
const MAX_DEPTH: u32 = 24;

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.draw() % n as u64) as usize
    }
}

/// Numbers that are edges of something: of types, of ONNX's enumerations, of limits.
const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    3,
    6,
    7,
    9,
    11,
    16,
    18,
    26,
    127,
    255,
    1 << 16,
    i32::MAX as u64,
    u32::MAX as u64,
    1 << 40,
    i64::MAX as u64,
    i64::MIN as u64,
    u64::MAX,
];

#[derive(Clone, Debug)]
enum Content {
    Int(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(Vec<u8>),
    Message(Vec<Field>),
}

#[derive(Clone, Debug)]
struct Field {
    number: u32,
    content: Content,
}

fn tree(bytes: &[u8], depth: u32) -> Option<Vec<Field>> {
    let field = |(number, value): (u32, Value<'_>)| {
        let content = match value {
            Value::Varint(v) => Content::Int(v),
            Value::Fixed64(v) => Content::Fixed64(v),
            Value::Fixed32(v) => Content::Fixed32(v),
            Value::Bytes(b) => match tree(b, depth + 1).filter(|t| depth < MAX_DEPTH && !t.is_empty()) {
                Some(inner) => Content::Message(inner),
                None => Content::Bytes(b.to_vec()),
            },
        };
        Field { number, content }
    };
    Some(fields(bytes).ok()?.into_iter().map(field).collect())
}

fn encode(fields: &[Field]) -> Msg {
    fields.iter().fold(Msg::new(), |m, f| match &f.content {
        Content::Int(v) => m.int(f.number, *v as i64),
        Content::Fixed64(v) => m.raw_after_tag(f.number, 1, &v.to_le_bytes()),
        Content::Fixed32(v) => m.raw_after_tag(f.number, 5, &v.to_le_bytes()),
        Content::Bytes(b) => m.bytes(f.number, b),
        Content::Message(inner) => m.msg(f.number, &encode(inner)),
    })
}

/// Number of lists of fields below, this one included.
fn lists(fields: &[Field]) -> usize {
    let inner = |f: &Field| if let Content::Message(m) = &f.content { lists(m) } else { 0 };
    1 + fields.iter().map(inner).sum::<usize>()
}

/// The list of fields with number `at`, counted in depth-first order.
fn list_at<'a>(fields: &'a mut Vec<Field>, at: &mut usize) -> Option<&'a mut Vec<Field>> {
    if *at == 0 {
        return Some(fields);
    }
    *at -= 1;
    fields.iter_mut().find_map(|f| match &mut f.content {
        Content::Message(m) => list_at(m, at),
        _ => None,
    })
}

/// Any list of fields.
fn any_list<'a>(root: &'a mut Vec<Field>, rng: &mut Rng) -> &'a mut Vec<Field> {
    let mut at = rng.below(lists(root));
    list_at(root, &mut at).expect("the number is below the number of lists")
}

/// Every piece of bytes below, names and strings above all.
fn strings<'a>(fields: &'a [Field], out: &mut Vec<&'a [u8]>) {
    for f in fields {
        match &f.content {
            Content::Bytes(b) => out.push(b),
            Content::Message(m) => strings(m, out),
            _ => {}
        }
    }
}

fn change(content: &mut Content, known: &[Vec<u8>], rng: &mut Rng) {
    match content {
        Content::Int(v) if rng.below(3) == 0 => *v = v.wrapping_add(rng.below(5) as u64).wrapping_sub(2),
        Content::Int(v) => *v = NUMBERS[rng.below(NUMBERS.len())],
        Content::Fixed64(v) => *v = rng.draw(),
        Content::Fixed32(v) => *v = rng.draw() as u32,
        // Names of other things: references go astray, operators change places.
        Content::Bytes(b) if !known.is_empty() && rng.below(2) == 0 => b.clone_from(&known[rng.below(known.len())]),
        Content::Bytes(b) => bytes_once(b, rng),
        Content::Message(_) => *content = Content::Bytes(vec![rng.draw() as u8; rng.below(9)]),
    }
}

fn tree_once(root: &mut Vec<Field>, other: &[Field], rng: &mut Rng) {
    let mut all = Vec::new();
    strings(root, &mut all);
    let known: Vec<Vec<u8>> = all.into_iter().map(<[u8]>::to_vec).collect();
    let list = any_list(root, rng);
    let kind = rng.below(8);
    if list.is_empty() || kind == 7 {
        let mut other = other.to_vec();
        let from = any_list(&mut other, rng);
        if !from.is_empty() {
            let graft = from.swap_remove(rng.below(from.len()));
            list.insert(rng.below(list.len() + 1), graft);
        }
        return;
    }
    let (i, j) = (rng.below(list.len()), rng.below(list.len()));
    match kind {
        0 => drop(list.remove(i)),
        1 => list.insert(j, list[i].clone()),
        2 => list.swap(i, j),
        3 => list[i].number = 1 + rng.below(16) as u32,
        _ => change(&mut list[i].content, &known, rng),
    }
}

fn bytes_once(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.below(bytes.len() + 1);
    match rng.below(4) {
        0 => bytes.insert(at, rng.draw() as u8),
        1 => bytes.truncate(at),
        2 => drop(bytes.drain(at..(at + rng.below(9)).min(bytes.len()))),
        _ => {
            if let Some(b) = bytes.get_mut(at) {
                *b ^= 1 << rng.below(8);
            }
        }
    }
}

/// `model` with one to four mutations; parts of `other` may be grafted in.
pub fn mutate(model: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = model.to_vec();
    for _ in 0..=rng.below(4) {
        match tree(&bytes, 0).filter(|_| rng.below(4) != 0) {
            Some(mut root) => {
                tree_once(&mut root, &tree(other, 0).unwrap_or_default(), rng);
                bytes = encode(&root).0;
            }
            None => bytes_once(&mut bytes, rng),
        }
    }
    bytes.truncate(MAX_BYTES);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_a_tree_gives_the_message_back() {
        let m =
            Msg::new().int(1, -3).msg(7, &Msg::new().int(4, 9).float(2, 1.5)).bytes(8, "no message").raw_after_tag(3, 1, &[7; 8]);
        let root = tree(&m.0, 0).expect("a message");
        assert_eq!(encode(&root), m);
        assert_eq!(lists(&root), 2);
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_others_differ() {
        let m = Msg::new().int(1, 5).msg(7, &Msg::new().int(4, 9).bytes(2, "name")).0;
        let run = |seed| mutate(&m, &m, &mut Rng(seed));
        assert!((0..50).all(|s| run(s) == run(s)));
        let different: std::collections::BTreeSet<Vec<u8>> = (0..50).map(run).collect();
        assert!(different.len() > 25, "{}", different.len());
    }
}
