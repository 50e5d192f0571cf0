//! Constants of assembled functions: apart from the code, so that functions that differ in nothing else share it.

use std::collections::BTreeMap;

/// Bytes below the stack pointer where a function keeps its caller's `r15`.
pub(super) const HOME: i32 = 48;
/// Alignment of the constants.
const LINE: usize = 64;
/// `mov [rsp - HOME], r15`.
const SAVE: [u8; 5] = [0x4C, 0x89, 0x7C, 0x24, -(HOME as i8) as u8];
/// `lea r15, [rip + ...]`, without its four bytes of distance.
const POINT: [u8; 3] = [0x4C, 0x8D, 0x3D];
/// `jmp`, without its four bytes of distance.
const JUMP: u8 = 0xE9;

/// The code of a leaf function and its constants.
///
/// What the body is entered with: the arguments of the function and, if there are constants, `r15` as [`Assembled::entry`] leaves it. The body gives `r15`
/// back to the caller.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Assembled {
    /// Position-independent instructions up to the return.
    pub body: Vec<u8>,
    /// What `r15` points at or behind; empty if the body has none.
    pub constants: Pool,
}

/// Constants and the place among them that the code knows.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Pool {
    bytes: Vec<u8>,
    /// Bytes in front of the place that `r15` points at.
    origin: usize,
}

impl Pool {
    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Assembled {
    /// The function by itself: a position-independent leaf with its constants behind it.
    pub fn alone(&self) -> Vec<u8> {
        if self.constants.is_empty() {
            return self.body.clone();
        }
        let start = SAVE.len() + POINT.len() + 4;
        let mut code = self.start(start + self.body.len());
        code.extend(&self.body);
        self.with_constants(code)
    }

    /// A function that goes to a body of these bytes elsewhere, and the place of the four bytes with the distance to it, which counts from behind them.
    pub fn entry(&self) -> (Vec<u8>, u32) {
        let length = SAVE.len() + POINT.len() + 4 + 1 + 4;
        let mut code = self.start(length);
        code.push(JUMP);
        let at = code.len() as u32;
        code.extend([0; 4]);
        (self.with_constants(code), at)
    }

    /// The instructions that bring `r15` to the constants, which follow code of so many bytes.
    fn start(&self, length: usize) -> Vec<u8> {
        let mut code = [&SAVE[..], &POINT[..]].concat();
        let distance = length.next_multiple_of(LINE) + self.constants.origin - (code.len() + 4);
        code.extend((distance as u32).to_le_bytes());
        code
    }

    fn with_constants(&self, mut code: Vec<u8>) -> Vec<u8> {
        code.resize(code.len().next_multiple_of(LINE), 0xCC);
        code.extend(&self.constants.bytes);
        code
    }
}

/// The constants of a function that is being made: single elements in front of the origin, vectors from it on, each of its own alignment. The order is that of
/// the first uses, so that functions that compute the same with other numbers have them in the same places.
#[derive(Default)]
pub(super) struct Constants {
    places: BTreeMap<Vec<u8>, i32>,
    elements: Vec<Vec<u8>>,
    vectors: Vec<u8>,
}

/// Bytes of an element.
const ELEMENT: usize = 4;

impl Constants {
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Where a constant is from the origin on.
    pub(super) fn at(&mut self, bytes: Vec<u8>) -> i32 {
        if let Some(at) = self.places.get(&bytes) {
            return *at;
        }
        let at = if bytes.len() == ELEMENT {
            self.elements.push(bytes.clone());
            -((self.elements.len() * ELEMENT) as i32)
        } else {
            let align = bytes.len().next_power_of_two().min(LINE);
            let at = self.vectors.len().next_multiple_of(align);
            self.vectors.resize(at, 0);
            self.vectors.extend(&bytes);
            at as i32
        };
        self.places.insert(bytes, at);
        at
    }

    /// All of them, so that vectors are aligned where the first byte is.
    pub(super) fn finish(self) -> Pool {
        let elements = self.elements.len() * ELEMENT;
        let origin = if self.vectors.is_empty() { elements } else { elements.next_multiple_of(LINE) };
        let mut bytes = vec![0; origin - elements];
        self.elements.iter().rev().for_each(|e| bytes.extend(e));
        bytes.extend(self.vectors);
        Pool { bytes, origin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(constants: &[Vec<u8>]) -> (Vec<i32>, Assembled) {
        let mut c = Constants::default();
        let places = constants.iter().map(|b| c.at(b.clone())).collect();
        (places, Assembled { body: vec![0x90; 10], constants: c.finish() })
    }

    /// Where `r15` points in the bytes of a function.
    fn origin(code: &[u8]) -> usize {
        assert_eq!(code[..5], SAVE);
        assert_eq!(code[5..8], POINT);
        12 + u32::from_le_bytes(code[8..12].try_into().unwrap()) as usize
    }

    #[test]
    fn constants_are_where_the_code_looks() {
        let all = [vec![1; 4], vec![2; 64], vec![3; 32], vec![4; 4], vec![1; 4], vec![5; 64]];
        let (places, f) = function(&all);
        assert_eq!(places, [-4, 0, 64, -8, -4, 128]);
        for code in [f.alone(), f.entry().0] {
            let origin = origin(&code);
            assert_eq!(origin % LINE, 0);
            for (bytes, at) in all.iter().zip(&places) {
                let at = (origin as i32 + at) as usize;
                assert_eq!(&code[at..at + bytes.len()], &bytes[..]);
            }
        }
    }

    #[test]
    fn an_entry_jumps_and_a_function_alone_goes_on() {
        let (_, f) = function(&[vec![7; 4]]);
        let (entry, at) = f.entry();
        assert_eq!((entry[at as usize - 1], &entry[at as usize..at as usize + 4]), (JUMP, &[0; 4][..]));
        assert_eq!(f.alone()[12..22], f.body[..]);
        let (_, plain) = function(&[]);
        assert_eq!(plain.alone(), plain.body);
    }
}
