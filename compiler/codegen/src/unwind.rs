//! Unwind information in DWARF form (`.eh_frame`), so that debuggers and profilers see the callers of generated code.
//!
//! Cranelift describes the frames of its own functions. Assembled kernels are leaves that never move the stack pointer; those that use registers
//! of their caller save them below it first, which is read back from their first instructions. Addresses are relative, so that nothing
//! is relocated in position-independent programs.

use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::isa::unwind::UnwindInfo;
use cranelift_module::FuncId;
use cranelift_object::ObjectProduct;
use cranelift_object::object::write::Relocation as ObjectRelocation;
use cranelift_object::object::{RelocationEncoding, RelocationFlags, RelocationKind, SectionKind};
use gimli::write::{
    Address, CallFrameInstruction, EhFrame, EndianVec, FrameDescriptionEntry, FrameTable, RelocateWriter, Relocation,
    RelocationTarget,
};
use gimli::{LittleEndian, X86_64};
use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register};

use crate::error::{Error, Result};
use crate::generate::Machine;
use crate::machine::Compiled;

/// Bytes under construction with what is to be relocated in them.
struct Section {
    bytes: EndianVec<LittleEndian>,
    relocations: Vec<Relocation>,
}

impl RelocateWriter for Section {
    type Writer = EndianVec<LittleEndian>;

    fn writer(&self) -> &Self::Writer {
        &self.bytes
    }

    fn writer_mut(&mut self) -> &mut Self::Writer {
        &mut self.bytes
    }

    fn relocate(&mut self, relocation: Relocation) {
        self.relocations.push(relocation);
    }
}

/// Adds `.eh_frame` for all functions of the machine code to the object.
pub(crate) fn add(product: &mut ObjectProduct, machine: &Machine, isa: &dyn TargetIsa) -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| Error::Object(format!("unwind information: {e}"));
    let mut cie = isa.create_systemv_cie().ok_or_else(|| fail(&"the target has none"))?;
    cie.fde_address_encoding = gimli::DwEhPe(gimli::DW_EH_PE_pcrel.0 | gimli::DW_EH_PE_sdata4.0);
    let mut table = FrameTable::default();
    let cie = table.add_cie(cie);
    for (ix, (_, _, code)) in machine.functions.iter().enumerate() {
        table.add_fde(cie, entry(code, Address::Symbol { symbol: ix, addend: 0 }, isa));
    }
    let mut frames = EhFrame::from(Section { bytes: EndianVec::new(LittleEndian), relocations: Vec::new() });
    table.write_eh_frame(&mut frames).map_err(|e| fail(&e))?;
    let Section { bytes, relocations } = frames.0;
    let section = product.object.add_section(Vec::new(), b".eh_frame".to_vec(), SectionKind::ReadOnlyData);
    product.object.section_mut(section).set_data(bytes.into_vec(), 8);
    for r in relocations {
        let RelocationTarget::Symbol(ix) = r.target else { return Err(fail(&"a relocation against a section")) };
        // Against the section: a shared library may not refer to its exported functions this way, which others could replace.
        let function = product.object.symbol(product.function_symbol(FuncId::from_u32(ix as u32)));
        let (home, start) = (function.section.id(), function.value as i64);
        let home = home.ok_or_else(|| fail(&"a function without a section"))?;
        let relocation = ObjectRelocation {
            offset: r.offset as u64,
            symbol: product.object.section_symbol(home),
            addend: r.addend + start,
            flags: RelocationFlags::Generic {
                kind: RelocationKind::Relative,
                encoding: RelocationEncoding::Generic,
                size: r.size * 8,
            },
        };
        product.object.add_relocation(section, relocation).map_err(|e| fail(&e))?;
    }
    Ok(())
}

fn entry(code: &Compiled, at: Address, isa: &dyn TargetIsa) -> FrameDescriptionEntry {
    if let Some(UnwindInfo::SystemV(info)) = &code.unwind {
        return info.to_fde(at);
    }
    let mut fde = FrameDescriptionEntry::new(at, code.bytes.len() as u32);
    if isa.triple().architecture == target_lexicon::Architecture::X86_64 {
        for (end, register, offset) in saved(&code.bytes) {
            fde.add_instruction(end, CallFrameInstruction::Offset(register, offset));
        }
    }
    fde
}

/// Registers that a leaf function saves below the stack pointer before anything else: where the instruction ends, the register, its distance
/// from the frame's address (which is the stack pointer plus the return address).
fn saved(bytes: &[u8]) -> Vec<(u32, gimli::Register, i32)> {
    let mut found = Vec::new();
    for i in Decoder::new(64, bytes, DecoderOptions::NONE) {
        let store = i.mnemonic() == Mnemonic::Mov && i.op0_kind() == OpKind::Memory && i.memory_base() == Register::RSP;
        let number = match i.op1_register() {
            Register::RBX => X86_64::RBX,
            Register::RBP => X86_64::RBP,
            Register::R12 => X86_64::R12,
            Register::R13 => X86_64::R13,
            Register::R14 => X86_64::R14,
            Register::R15 => X86_64::R15,
            _ => break,
        };
        if !store {
            break;
        }
        found.push((i.next_ip() as u32, number, i.memory_displacement64() as i64 as i32 - 8));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saves_are_read_from_the_first_instructions() {
        // mov [rsp-8], rbx; mov [rsp-16], rbp; xor eax, eax; mov [rsp-24], r12; ret
        let bytes = [0x48, 0x89, 0x5C, 0x24, 0xF8, 0x48, 0x89, 0x6C, 0x24, 0xF0, 0x31, 0xC0, 0x4C, 0x89, 0x64, 0x24, 0xE8, 0xC3];
        assert_eq!(saved(&bytes), [(5, X86_64::RBX, -16), (10, X86_64::RBP, -24)]);
        assert_eq!(saved(&[0xC3]), []);
    }
}
