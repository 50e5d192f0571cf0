//! Models that must be refused.
