//! Loop nests to machine code, memory plan to entry function, object files and archives
