//! Collects the results of all rounds and prints them.

use valet_harness::{Error, Result};

/// The results by name, in the order in which the names first occurred.
#[derive(Default)]
pub struct Report {
    rows: Vec<(String, Vec<f64>)>,
    /// The measurements that failed.
    failed: Vec<String>,
}

impl Report {
    /// Adds the result of one round, and prints it, so that an interrupted run also has results.
    pub fn add(&mut self, name: &str, value: f64) {
        println!("  {name}: {value:.3}");
        match self.rows.iter_mut().find(|(row, _)| row == name) {
            Some((_, values)) => values.push(value),
            None => self.rows.push((name.to_owned(), vec![value])),
        }
    }

    /// Records whether a measurement succeeded. The other measurements continue after a failure.
    pub fn note(&mut self, measurement: &str, result: Result<()>) {
        if let Err(error) = result {
            println!("  {measurement} FAILED: {error}");
            self.failed.push(measurement.to_owned());
        }
    }

    /// Prints the minimum, the median and the maximum of each result and the results of all rounds, and then the
    /// ratios in one line.
    ///
    /// # Errors
    /// Returns an error if a measurement failed.
    pub fn print(&self) -> Result<()> {
        println!("\n{:<90} {:>9} {:>9} {:>9}   rounds", "", "min", "median", "max");
        let mut shares = Vec::new();
        for (name, values) in &self.rows {
            let rounds: Vec<_> = values.iter().map(|value| format!("{value:.2}")).collect();
            let mut values = values.clone();
            values.sort_by(f64::total_cmp);
            let (min, median, max) = (values[0], values[values.len() / 2], values[values.len() - 1]);
            let rounds = rounds.join(" ");
            println!("{name:<90} {min:>9.2} {median:>9.2} {max:>9.2}   {rounds}");
            if name.contains("share of") {
                shares.push(format!("{name} {median:.2}"));
            }
        }
        println!("\n{}", shares.join("; "));
        match self.failed.as_slice() {
            [] => Ok(()),
            failed => Err(Error::new(format!("measurements failed: {}", failed.join(", ")))),
        }
    }
}
