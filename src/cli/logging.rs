//! Logs on standard error: text for people, JSON lines for machines.

use std::io::{self, IsTerminal as _};
use std::panic::PanicHookInfo;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Result;
use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry};

use crate::error::with_causes;
use crate::observe::TraceLayer;

/// How to log; a part of every command that keeps running.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Logging")]
pub(super) struct LogArgs {
    /// How log lines are written to standard error
    #[arg(
        long,
        env = "CERTMOUNT_LOG_FORMAT",
        value_enum,
        default_value = "text",
        value_name = "FORMAT"
    )]
    log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace or off
    ///
    /// A bare level speaks of certmount itself, and its libraries stay at warn. Parts have levels
    /// of their own as in `info,certmount::csi=debug,h2=debug`.
    #[arg(long, env = "CERTMOUNT_LOG_LEVEL", default_value = "info", value_name = "FILTER")]
    log_level: LogFilter,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// One line for people; coloured on a terminal
    Text,
    /// One JSON object a line
    Json,
}

impl LogArgs {
    /// Starts logging, panics included. Does nothing where logging has been started before.
    pub(super) fn start(&self) {
        self.start_with(None);
    }

    /// The same with what takes traces down.
    pub(super) fn start_with(&self, traces: Option<TraceLayer>) {
        let layer: Box<dyn Layer<Registry> + Send + Sync> = match self.log_format {
            LogFormat::Text => tracing_subscriber::fmt::layer()
                .with_writer(io::stderr)
                .with_ansi(io::stderr().is_terminal())
                .boxed(),
            LogFormat::Json => tracing_subscriber::fmt::layer()
                .with_writer(io::stderr)
                .json()
                .flatten_event(true)
                .boxed(),
        };
        let subscriber =
            tracing_subscriber::registry().with(layer.with_filter(self.log_level.0.clone()));
        let started = match traces {
            Some(traces) => subscriber.with(traces.with_filter(TraceLayer::filter())).try_init(),
            None => subscriber.try_init(),
        };
        if started.is_ok() {
            std::panic::set_hook(Box::new(log_panic));
        }
    }
}

impl LogArgs {
    /// Ends a command that keeps a log: there, where machines read it, or as any other command.
    pub(super) fn end(&self, ended: Result<ExitCode>) -> Result<ExitCode> {
        match (self.log_format, ended) {
            (LogFormat::Json, Err(error)) => {
                tracing::error!(error = with_causes(error.as_ref()), "certmount failed");
                Ok(ExitCode::FAILURE)
            }
            (_, ended) => ended,
        }
    }
}

/// A panic is a log line like any other, so that machines that read the log find it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let payload = panic.payload();
    let literal = payload.downcast_ref::<&str>().copied();
    let message = literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    tracing::error!(location, panic = message, "this is a bug in certmount; please report it");
}

#[derive(Clone, Debug)]
struct LogFilter(Targets);

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(level) = text.parse::<LevelFilter>() {
            let libraries = level.min(LevelFilter::WARN);
            let filter = Targets::new().with_default(libraries).with_target("certmount", level);
            // What it has to tell is told by whoever uses it, and once.
            let filter = filter.with_target("kube_client", LevelFilter::OFF);
            return Ok(Self(filter.with_target("kube_runtime", LevelFilter::OFF)));
        }
        text.parse().map(Self).map_err(|_| {
            "write a level (error, warn, info, debug, trace, off) or parts with levels, such as \
             info,certmount::csi=debug"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_bare_level_leaves_the_libraries_quiet() {
        let LogFilter(filter) = "trace".parse().unwrap();
        assert!(filter.would_enable("certmount::renew", &Level::TRACE));
        assert!(filter.would_enable("h2", &Level::WARN));
        assert!(!filter.would_enable("h2", &Level::INFO));
        let LogFilter(filter) = "error".parse().unwrap();
        assert!(!filter.would_enable("h2", &Level::WARN));
    }

    #[test]
    fn parts_have_levels_of_their_own() {
        let LogFilter(filter) = "info,certmount::csi=debug".parse().unwrap();
        assert!(filter.would_enable("certmount::csi::node", &Level::DEBUG));
        assert!(!filter.would_enable("certmount::renew", &Level::DEBUG));
    }

    #[test]
    fn nonsense_is_told_what_to_write() {
        let error = "certmount=loud".parse::<LogFilter>().unwrap_err();
        assert!(error.contains("info,certmount::csi=debug"), "{error}");
    }
}
