//! Tests with inputs from public bug reports of other projects, and the correct result of each. Each file name says
//! what its input is about; `offline` signs without a cluster, and `cluster` applies the input to a real one.

mod cluster;
mod nonconforming;
mod offline;

use std::{fs, path::Path};

const VALET: &str = env!("CARGO_BIN_EXE_valet");

/// The text of an input with the store's port inserted.
fn input(name: &str, port: u16) -> String {
    let path = Path::new(env!("VALET_ROOT")).join(format!("tests/cases/{name}.yaml"));
    fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .replace("PORT", &port.to_string())
}
