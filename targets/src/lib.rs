//! Targets: features, tilings and microkernel emitters
