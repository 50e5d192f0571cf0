//! Small x86-64 functions that the entry of a model calls: the CPU check and the mode that flushes subnormals.

use iced_x86::code_asm::*;

use crate::error::Error;
use crate::features::Feature;

/// `fn() -> u32`: 1 when the CPU has every feature of `required` and the OS keeps the registers they use; None when nothing is required.
pub(crate) fn cpu_check(table: &[Feature], required: &[&str]) -> Result<Option<Vec<u8>>, Error> {
    if required.is_empty() {
        return Ok(None);
    }
    let mut leaves: std::collections::BTreeMap<(u32, u32), [u32; 4]> = std::collections::BTreeMap::new();
    for (leaf, sub, register, bit) in table.iter().filter(|f| required.contains(&f.name)).filter_map(|f| f.cpuid) {
        leaves.entry((leaf, sub)).or_default()[register as usize] |= 1 << bit;
    }
    let avx = required.contains(&"avx");
    if avx {
        // OSXSAVE says that xgetbv may be asked.
        leaves.entry((1, 0)).or_default()[2] |= 1 << 27;
    }
    let mut a = CodeAssembler::new(64)?;
    let mut no = a.create_label();
    a.mov(r8, rbx)?; // cpuid overwrites rbx, which belongs to the caller.
    for ((leaf, sub), masks) in leaves {
        // The highest leaf of the range that the CPU answers.
        a.mov(eax, leaf & 0x8000_0000)?;
        a.xor(ecx, ecx)?;
        a.cpuid()?;
        a.cmp(eax, leaf as i32)?;
        a.jb(no)?;
        if sub > 0 {
            a.mov(eax, leaf)?;
            a.xor(ecx, ecx)?;
            a.cpuid()?;
            a.cmp(eax, sub as i32)?;
            a.jb(no)?;
        }
        a.mov(eax, leaf)?;
        a.mov(ecx, sub)?;
        a.cpuid()?;
        for (register, mask) in [eax, ebx, ecx, edx].into_iter().zip(masks) {
            if mask != 0 {
                a.and(register, mask as i32)?;
                a.cmp(register, mask as i32)?;
                a.jne(no)?;
            }
        }
    }
    if avx {
        let state = if required.contains(&"avx512f") { 0xE6 } else { 0x06 };
        a.xor(ecx, ecx)?;
        a.xgetbv()?;
        a.and(eax, state)?;
        a.cmp(eax, state)?;
        a.jne(no)?;
    }
    a.mov(rbx, r8)?;
    a.mov(eax, 1)?;
    a.ret()?;
    a.set_label(&mut no)?;
    a.mov(rbx, r8)?;
    a.xor(eax, eax)?;
    a.ret()?;
    Ok(Some(a.assemble(0)?))
}

/// `fn() -> u64` that sets FTZ and DAZ in MXCSR and returns the old value, and `fn(u64)` that writes it back.
pub(crate) fn ftz() -> Result<(Vec<u8>, Vec<u8>), Error> {
    let slot = || dword_ptr(rsp - 4); // in the red zone
    let mut set = CodeAssembler::new(64)?;
    set.stmxcsr(slot())?;
    set.mov(eax, slot())?;
    set.mov(ecx, eax)?;
    set.or(ecx, 0x8040)?;
    set.mov(slot(), ecx)?;
    set.ldmxcsr(slot())?;
    set.ret()?;
    let mut restore = CodeAssembler::new(64)?;
    restore.mov(slot(), edi)?;
    restore.ldmxcsr(slot())?;
    restore.ret()?;
    Ok((set.assemble(0)?, restore.assemble(0)?))
}
