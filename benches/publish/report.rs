//! The table: what was measured, what it should be, and whether it is.

use std::time::Duration;

/// Rows printed as they are measured.
pub(crate) struct Report {
    missed: usize,
    skipped: usize,
}

impl Report {
    /// Prints what the rows were measured on.
    pub(crate) fn start() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        println!("certmount, {cores} cores, Linux {}", kernel.trim());
        println!("\n{:<52} {:>11}  {:<10} verdict", "", "measured", "target");
        Self { missed: 0, skipped: 0 }
    }

    /// A row without a target.
    pub(crate) fn row(&self, name: &str, measured: String) {
        println!("{name:<52} {measured:>11}");
    }

    /// A row with a target, and whether it is met.
    pub(crate) fn target(&mut self, name: &str, measured: String, target: &str, met: bool) {
        let verdict = if met { "ok" } else { "MISSED" };
        println!("{name:<52} {measured:>11}  {target:<10} {verdict}");
        self.missed += usize::from(!met);
    }

    /// A measurement that is left out because programs are `missing`.
    pub(crate) fn skip(&mut self, part: impl std::fmt::Debug, missing: &str) {
        println!("SKIPPED: {part:?} needs {missing}, which .ci/run installs");
        self.skipped += 1;
    }

    /// Prints the end and answers how many targets were missed.
    pub(crate) fn finish(self) -> usize {
        let targets = match self.missed {
            0 => "every target met".to_owned(),
            missed => format!("{missed} targets missed"),
        };
        match self.skipped {
            0 => println!("\n{targets}"),
            skipped => println!("\n{targets}, {skipped} measurements SKIPPED"),
        }
        self.missed
    }
}

/// `0.62 ms`.
pub(crate) fn milliseconds(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1e3;
    if milliseconds < 10.0 {
        format!("{milliseconds:.2} ms")
    } else {
        format!("{milliseconds:.0} ms")
    }
}

/// `0.82 x`.
pub(crate) fn times(ratio: f64) -> String {
    format!("{ratio:.2} x")
}

/// The value that `percent` of `values` do not exceed (nearest rank).
pub(crate) fn percentile(values: &[Duration], percent: usize) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}
