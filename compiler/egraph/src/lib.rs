//! Graph to e-graph and back: analysis, rules engine, extraction by cost
