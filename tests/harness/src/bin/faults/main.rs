//! Fault tests: the program causes each fault that docs/architecture.md lists, repeatedly and at random times, while
//! tenants use Valet. It then checks all guarantees.
//!
//! ```text
//! faults
//! ```
//! The program starts a control plane, an S3 server and two independent operators without a Lease. In each round,
//! tenants create grants, a fault occurs at the same time and ends, and every credential must be issued. Then the
//! program uploads with these credentials. At the end, every grant must have its expected state, and nothing else may
//! have changed. The last line of the output contains the results; a violated guarantee makes the exit status 1.
//! FAULTS_ROUNDS (3) is the number of rounds for each fault. FAULTS_SEED is the seed of the random times; the first
//! line of the output contains it. VALET_BIN names the operator program; the default is the `valet` next to this
//! program.

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
            // The fault starts at a random time, from before the first reconcile to after the last write.
            let wait = Duration::from_millis(dice.below(250));
            thread::sleep(wait);
            trouble
                .strike(&mut stage, &asked)
                .context(format_args!("{trouble:?} in round {round}"))?;
            count += 1;
            let took = ledger.use_keys(&stage, &asked, *trouble)?;
            println!(
                "  {:<28} after {:>3} ms; all credentials issued {:.1} s later, and used",
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

/// A pseudorandom number generator (xorshift64*). The same seed gives the same numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % end
    }
}
