//! The command line: the only place that builds the graph of parts, and the only one that prints.
//!
//! Each command is a module with its `Args` and a `run` that answers the exit code: 0 when all is
//! well, 1 when something failed or was found wrong, 2 (from clap) when it was called wrongly.

mod attributes;
mod ca;
mod check;
mod cluster;
mod completions;
mod crds;
mod demo;
mod exec;
mod inspect;
mod install;
mod logging;
pub mod namespace;
mod node;
mod startup;
mod text;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

/// Runs the command that the process was called with.
pub fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(code) => code,
        Err(error) if reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done if standard error is closed too.
            let _ = writeln!(io::stderr(), "{}", text::failure(&error));
            ExitCode::FAILURE
        }
    }
}

/// The whole command line, for shell completions and the manual page.
pub fn command() -> clap::Command {
    Cli::command()
}

/// A node-local CSI driver that mounts certificates into pods and renews them in place
#[derive(Debug, Parser)]
#[command(
    name = "certmount",
    version,
    max_term_width = 100,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = AFTER_HELP
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Start here:
  certmount demo                    see all of it on this machine, no cluster needed
  certmount check ./issuers         are these issuer files and manifests right?
  certmount inspect                 what is on this node?

Exit codes: 0 all is well; 1 something failed or was found wrong; 2 called wrongly.
Flags that keep their value for a node are read from the environment too, --data-root for example
from CERTMOUNT_DATA_ROOT; the flag wins.";

#[derive(Debug, Subcommand)]
enum Command {
    Node(Box<node::Args>),
    Demo(demo::Args),
    Inspect(inspect::Args),
    Check(check::Args),
    Exec(Box<exec::Args>),
    Install(install::Args),
    #[command(subcommand)]
    Ca(ca::Command),
    Attributes(attributes::Args),
    /// Print the CustomResourceDefinitions of ClusterIssuer and Issuer
    #[command(after_help = "Install them:\n  certmount crds | kubectl apply -f -")]
    Crds,
    Completions(completions::Args),
    /// Print the manual page
    #[command(after_help = "Read it:\n  certmount man | man -l -")]
    Man,
    /// Run a command in mount and process namespaces of its own
    #[command(hide = true)]
    InNamespace {
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

impl Command {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Node(args) => args.run(),
            Self::Demo(args) => demo::run(args),
            Self::Inspect(args) => args.run(),
            Self::Check(args) => args.run(),
            Self::Exec(args) => args.run(),
            Self::Install(args) => args.run(),
            Self::Ca(command) => command.run(),
            Self::Attributes(args) => args.run(),
            Self::Crds => crds::run(),
            Self::Completions(args) => args.run(),
            Self::Man => completions::man(),
            Self::InNamespace { command } => namespace::run(&command),
        }
    }
}

/// Whether printing failed because the reader (`head`, a pager) has seen enough.
fn reader_left(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_has_help() {
        fn walk(command: &clap::Command) {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} has no help");
            // Examples and exit codes stand there.
            let shown = !command.is_hide_set() && !command.has_subcommands();
            assert!(!shown || command.get_after_help().is_some(), "{name} has no examples");
            for argument in command.get_arguments() {
                let help = argument.get_help().or_else(|| argument.get_long_help());
                assert!(help.is_some(), "{name} {} has no help", argument.get_id());
            }
            command.get_subcommands().filter(|command| command.get_name() != "help").for_each(walk);
        }
        let mut command = command();
        command.build();
        walk(&command);
    }
}
