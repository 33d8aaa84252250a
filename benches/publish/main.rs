//! How fast certmount publishes, and how little it takes: `cargo bench`.
//!
//! The release binary runs as a process of its own and is called as kubelet calls it: over its
//! socket, each call on a new connection. Client and plugin share the machine's cores, so what is
//! printed is what both take together. All mounts are in a namespace of the benchmark's own.
//!
//! Each measurement has its floor beside it, measured in the same run, so that the ratio says what
//! the plugin adds, whatever the machine: the same work as straight calls in one thread, or the CA
//! elsewhere called without the plugin. A measurement whose CA is not on this machine is left out
//! and said to be.

#![allow(clippy::print_stdout, reason = "a program that talks to its user")]

#[path = "../../tests/kubernetes/api.rs"]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a part of the tests")]
mod api;
mod bare;
mod cert_manager;
mod chained;
#[path = "../../tests/common/mod.rs"]
#[allow(clippy::disallowed_methods, reason = "a part of the tests")]
mod common;
mod external;
mod floor;
mod load;
mod local;
mod plugin;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use certmount::cli::namespace;
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::plugin::Stage;
use crate::report::{Report, milliseconds, percentile};

/// How fast certmount publishes, and how little it takes
#[derive(Parser)]
struct Args {
    /// Small numbers: whether everything works, not how fast
    #[arg(long)]
    smoke: bool,
    /// Exit 1 when a target is missed
    #[arg(long)]
    check: bool,
    /// Fail where the programs for a measurement are not there, instead of leaving it out
    #[arg(long)]
    all: bool,
    /// Only these measurements, after the floor
    #[arg(value_enum)]
    only: Vec<Part>,
    /// The program to measure, such as the one for the image [default: what cargo has built]
    #[arg(long, value_name = "FILE", default_value = plugin::BUILT, hide_default_value = true)]
    plugin: PathBuf,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured, in this order.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Part {
    /// Publishes one after the other
    OneByOne,
    /// Publishes side by side
    AtOnce,
    /// Publishes side by side from an intermediate CA, with its upstream stopped
    Chained,
    /// Publishes while others make RSA keys
    BesideRsa,
    /// Memory, idle CPU and restart with volumes that just stand there
    Standing,
    /// Renewals that are due at the same moment
    Due,
    /// Publishes through cert-manager, beside cert-manager alone
    CertManager,
    /// Publishes through OpenBao, beside OpenBao called directly
    Vault,
    /// Publishes through an ACME server, beside the same order without a volume
    Acme,
    /// Publishes through Trust Protection Platform, played here, beside the same without a volume
    Venafi,
}

impl Part {
    /// The programs that it needs and that are not there.
    fn missing(self) -> Vec<&'static str> {
        let mut needed = match self {
            Self::CertManager => cert_manager::PROGRAMS.to_vec(),
            Self::Vault => vec!["bao"],
            Self::Acme => vec!["pebble", "pebble-challtestsrv"],
            _ => Vec::new(),
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        needed.retain(|name| {
            let on_path = std::env::split_paths(&path).any(|folder| folder.join(name).exists());
            !on_path && !api::program(name).exists()
        });
        needed
    }
}

/// How much of everything.
struct Sizes {
    /// Volumes published one after the other.
    one_by_one: usize,
    /// Volumes published 20 at once.
    at_once: usize,
    /// Volumes that stand while memory, idle CPU and restart are measured.
    standing: usize,
    /// How often the driver is killed and started again above them.
    restarts: usize,
    /// How long idle CPU is measured: the renewer looks at the clock once a minute.
    idle: Duration,
    /// Volumes whose renewals are due together.
    due: usize,
    /// Volumes from a CA elsewhere that takes milliseconds, one after the other.
    elsewhere: usize,
    /// Volumes from a CA elsewhere that takes seconds, one after the other.
    orders: usize,
    /// Volumes in one round of 20 at once through cert-manager, and how many rounds.
    round: usize,
    rounds: usize,
}

const FULL: Sizes = Sizes {
    one_by_one: 500,
    at_once: 4_000,
    standing: 500,
    restarts: 15,
    idle: Duration::from_secs(65),
    due: 1_000,
    elsewhere: 200,
    orders: 20,
    round: 200,
    rounds: 5,
};

const SMOKE: Sizes = Sizes {
    one_by_one: 20,
    at_once: 60,
    standing: 20,
    restarts: 3,
    idle: Duration::from_secs(2),
    due: 20,
    elsewhere: 10,
    orders: 2,
    round: 20,
    rounds: 1,
};

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    // Before the runtime starts its threads.
    namespace::enter()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let sizes = if args.smoke { SMOKE } else { FULL };
    let parts = if args.only.is_empty() { Part::value_variants().to_vec() } else { args.only };
    let report = runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // Whatever was started ends with what is dropped here.
        tokio::select! {
            report = measure(args.plugin, &sizes, &parts, args.all) => report,
            _ = terminate.recv() => bail!("stopped by a signal"),
            _ = interrupt.recv() => bail!("stopped by a signal"),
        }
    })?;
    let missed = report.finish();
    Ok(if args.check && missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn measure(program: PathBuf, sizes: &Sizes, parts: &[Part], all: bool) -> Result<Report> {
    let mut report = Report::start();
    binary(&program, &mut report)?;
    let stage = Stage::build(program)?;
    let floor = floor::measure(sizes.one_by_one, &stage.data(), stage.root())?;
    let floor = percentile(&floor, 50);
    report.row("floor: the same work as straight calls, p50", milliseconds(floor));
    let (stage, report_to) = (&stage, &mut report);
    for part in Part::value_variants().iter().filter(|part| parts.contains(part)) {
        let missing = part.missing();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            ensure!(!all, "{part:?} is to be measured, and {missing} cannot be found");
            report_to.skip(*part, &missing);
            continue;
        }
        // Each starts a plugin of its own: what it did before must not count.
        match part {
            Part::OneByOne => local::one_by_one(stage, sizes, floor, report_to).await?,
            Part::AtOnce => local::at_once(stage, sizes, report_to).await?,
            Part::Chained => chained::measure(stage, sizes, report_to).await?,
            Part::BesideRsa => local::beside_rsa(stage, sizes, report_to).await?,
            Part::Standing => local::standing(stage, sizes, report_to).await?,
            Part::Due => local::due_together(stage, sizes, report_to).await?,
            Part::CertManager => cert_manager::measure(stage, sizes, report_to).await?,
            Part::Vault => external::vault(stage, sizes, report_to).await?,
            Part::Acme => external::acme(stage, sizes, report_to).await?,
            Part::Venafi => external::venafi(stage, sizes, report_to).await?,
        }
    }
    Ok(report)
}

fn binary(program: &Path, report: &mut Report) -> Result<()> {
    let size = fs::metadata(program)?.len();
    let mebibytes = size as f64 / f64::from(1 << 20);
    report.target("binary", format!("{mebibytes:.1} MiB"), "< 15 MiB", mebibytes < 15.0);
    Ok(())
}
