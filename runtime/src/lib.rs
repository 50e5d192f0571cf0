//! The no_std runtime beside compiled models: ABI structs, safe wrapper, optional thread pool
