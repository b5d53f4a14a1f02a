//! Faults while tenants work: each kind of trouble that docs/architecture.md promises to survive, again and again, at
//! moments that differ from run to run; and whether every promise was kept.
//!
//! ```text
//! faults
//! ```
//! Starts a control plane, an S3 server and two operators that know nothing of each other (no Lease). In each round tenants ask for
//! keys, a fault comes while those are being made and goes again, every key must be there, and uploads are made with it. In the end
//! everything that was asked for must have come to its right end, and nothing else have happened. The last line is the
//! figure; a promise that was not kept makes the status 1. FAULTS_ROUNDS (3) says how often each fault comes, FAULTS_SEED at which
//! moments (the seed of a run stands in its first line). The operator is the program that VALET_BIN names, else the `valet`
//! next to this one.

mod ledger;
mod stage;
mod trouble;

use std::{
    process::ExitCode,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ledger::Ledger;
use stage::Stage;
use trouble::Trouble;
use valet_harness::{
    Context, Error, Result,
    program::{self, number},
};

fn main() -> ExitCode {
    program::run("faults", faults)
}

fn faults() -> Result<()> {
    let rounds = number("FAULTS_ROUNDS", 3)?;
    let seed = match number("FAULTS_SEED", 0)? {
        0 => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |now| now.as_secs()),
        seed => seed,
    };
    println!(
        "FAULTS_SEED={seed}, {rounds} times each of {} faults",
        Trouble::ALL.len()
    );
    let mut dice = Dice(seed);
    let mut stage = Stage::set()?;
    let mut ledger = Ledger::default();
    let mut count = 0;
    for round in 0..rounds {
        for trouble in Trouble::ALL {
            let asked = stage.ask(&format!("r{round}-{}", trouble.word()))?;
            // From before the first visit to after the last write.
            let wait = Duration::from_millis(dice.below(250));
            thread::sleep(wait);
            trouble
                .strike(&mut stage, &asked)
                .context(format_args!("{trouble:?} in round {round}"))?;
            count += 1;
            let took = ledger.use_keys(&stage, &asked, *trouble)?;
            println!(
                "  {:<28} after {:>3} ms; all keys there {:.1} s later, and used",
                trouble.word(),
                wait.as_millis(),
                took.as_secs_f64()
            );
        }
    }
    let verdict = ledger.close(&stage)?;
    for wrong in &verdict.wrong {
        println!("  NOT KEPT: {wrong}");
    }
    println!(
        "{count} faults of {} kinds, {} grants, {} promises checked, {} not kept",
        Trouble::ALL.len(),
        verdict.grants,
        verdict.checked,
        verdict.wrong.len()
    );
    if verdict.wrong.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!(
        "FAULTS_SEED={seed}: {}",
        verdict.wrong.join("\nfaults: ")
    )))
}

/// Numbers that look random, the same ones for a seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % end
    }
}
