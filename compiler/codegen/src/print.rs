//! Disassembly of kernels that did not come from Cranelift.

use std::fmt::Write;

use cranelift_codegen::isa::TargetIsa;
use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction};

/// x86-64 instructions in AT&T-style text; other machines as 32-bit words. Constants behind the code come out as the instructions they
/// would be.
pub(crate) fn disassemble(isa: &dyn TargetIsa, bytes: &[u8]) -> String {
    let mut out = String::new();
    if isa.triple().architecture == target_lexicon::Architecture::X86_64 {
        let mut decoder = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE);
        let mut formatter = GasFormatter::new();
        let mut instruction = Instruction::default();
        let mut text = String::new();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            text.clear();
            formatter.format(&instruction, &mut text);
            let _ = writeln!(out, "  {:4x}: {text}", instruction.ip());
        }
        return out;
    }
    for (i, word) in bytes.chunks(4).enumerate() {
        let value = word.iter().rev().fold(0u32, |v, b| v << 8 | u32::from(*b));
        let _ = writeln!(out, "  {:4x}: .word 0x{value:08x}", i * 4);
    }
    out
}
