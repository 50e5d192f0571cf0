//! The no_std runtime beside compiled models: ABI structs, safe wrapper, optional thread pool

#![no_std]

pub mod abi;
