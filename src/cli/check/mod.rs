//! `certmount check`: the mistakes that the driver would find, before it does.

mod connect;
mod manifest;
mod volume;

use std::fs;
use std::io::{self, Write as _};
use std::path::{self, Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

use self::connect::ConnectArgs;
use self::manifest::{InlineVolume, ManifestError, Manifests, Place, PodTemplate};
use self::volume::Checker;
use super::cluster::ClusterArgs;
use super::node::DEFAULT_DRIVER_NAME;
use super::text;
use crate::config::{self, Problem};
use crate::spec::request::NodeContext;

/// Check issuer files and the volumes of pods before the driver sees them
///
/// Reads the folder as the driver would, with the CA keys and certificates that issuers refer to.
/// Volumes of ours in Pods, Deployments, StatefulSets, DaemonSets, Jobs and CronJobs, in the same
/// folder or named with --pod, are checked against these issuers and their policies as if the pods
/// were there. Nothing is issued or changed, and without --connect nothing is sent anywhere.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The folder with issuers and their Secrets: what `certmount node` gets as --config-dir
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    #[command(flatten)]
    connect: ConnectArgs,

    /// A manifest of pods from elsewhere; may be given several times
    #[arg(long = "pod", value_name = "FILE")]
    pods: Vec<PathBuf>,

    /// A YAML file of volume attributes alone, as below csi.volumeAttributes; may be given several
    /// times
    #[arg(long = "attributes", value_name = "FILE")]
    attributes: Vec<PathBuf>,

    /// The namespace that --attributes are for
    #[arg(long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,

    /// The driver's name: volumes of others are passed over
    #[arg(long, env = "CERTMOUNT_DRIVER_NAME", value_name = "NAME", default_value = DEFAULT_DRIVER_NAME)]
    driver_name: String,

    #[command(flatten)]
    cluster: ClusterArgs,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORMAT")]
    output: Output,
}

const AFTER_HELP: &str = "\
Examples:
  certmount check ./issuers                           the issuers, and pods beside them
  certmount check ./issuers --connect                 and whether their CAs let us in
  certmount check ./issuers --connect --kubeconfig ~/.kube/config
                                                      with Secrets and tokens of a cluster
  certmount check ./issuers --pod web.yaml            a pod from elsewhere
  certmount check ./issuers --attributes tls.yaml --namespace shop
  certmount check ./issuers -o json | jq '.findings[].message'

JSON: ok, issuers and volumes (how many), findings [{severity (error, warning), file, line, column,
message}]; lines and columns count from 1.

Exit codes: 0 nothing is wrong, though there may be warnings; 1 something is; 2 called wrongly.";

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    /// A line for each finding, then a summary
    Text,
    /// One JSON object
    Json,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    issuers: usize,
    volumes: usize,
    findings: Vec<Finding>,
}

#[derive(Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
struct Finding {
    file: PathBuf,
    line: u64,
    column: u64,
    severity: Severity,
    message: String,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Error,
    Warning,
}

impl Args {
    pub(super) fn run(self) -> Result<ExitCode> {
        let output = self.output;
        let report = self.check()?;
        let text = match output {
            Output::Text => report.text(),
            Output::Json => serde_json::to_string_pretty(&report)? + "\n",
        };
        io::stdout().write_all(text.as_bytes())?;
        Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn check(self) -> Result<Report> {
        let Self { dir, connect, pods, attributes, namespace, driver_name, cluster, output: _ } =
            self;
        ensure!(dir.is_dir(), "{} is not a folder", dir.display());
        let loaded = connect.load(&dir, &cluster.on_node(NODE))?;
        let issuers = loaded.issuers.issuers.len();
        let problems = loaded.problems.into_iter();
        let mut findings: Vec<_> = problems.map(|it| Finding::of_config(it, &dir)).collect();
        let node = NodeContext { driver_name: driver_name.clone(), node_name: NODE.to_owned() };
        let checker = Checker::new(loaded.issuers, node);

        let mut volumes = 0;
        for file in manifests_in(&dir)?.into_iter().chain(pods) {
            let Manifests { lines, volumes: found } =
                match manifest::read(&read(&file)?, &driver_name) {
                    Ok(manifests) => manifests,
                    Err(error) => {
                        findings.push(Finding::of_manifest(&file, error));
                        continue;
                    }
                };
            // Pods are not for the driver, but for us they are.
            findings.retain(|finding| finding.file != file || !lines.contains(&finding.line));
            volumes += found.len();
            findings.extend(found.iter().flat_map(|volume| checker.check(&file, volume)));
        }
        for file in attributes {
            volumes += 1;
            match manifest::attributes(&read(&file)?) {
                Ok(attributes) => {
                    let volume = on_its_own(attributes, &namespace);
                    findings.extend(checker.check(&file, &volume));
                }
                Err(error) => findings.push(Finding::of_manifest(&file, error)),
            }
        }
        findings.sort();
        // The driver and this command may have stumbled over the same line.
        findings.dedup();
        let ok = findings.iter().all(|finding| finding.severity != Severity::Error);
        Ok(Report { ok, issuers, volumes, findings })
    }
}

/// What stands for the node's name.
const NODE: &str = "node";

/// A volume of a pod that nothing else is known of.
fn on_its_own(
    attributes: std::collections::BTreeMap<String, (String, Place)>,
    namespace: &str,
) -> InlineVolume {
    InlineVolume {
        place: Place { line: 1, column: 1 },
        name: "tls".to_owned(),
        read_only: true,
        fs_group: None,
        secret: Some("unknown".to_owned()),
        attributes,
        pod: PodTemplate {
            namespace: namespace.to_owned(),
            name: "pod".to_owned(),
            service_account: "default".to_owned(),
        },
    }
}

/// The files of `dir` that may be manifests, by name.
fn manifests_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
        paths.filter(|path| path.as_ref().map_or(true, |path| is_manifest(path))).collect()
    };
    let mut files = list().with_context(|| format!("cannot list {}", dir.display()))?;
    files.sort();
    Ok(files)
}

fn is_manifest(path: &Path) -> bool {
    let named_so = path
        .extension()
        .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
    named_so && path.is_file()
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

impl Report {
    fn text(&self) -> String {
        let mut text: String = self.findings.iter().map(Finding::text).collect();
        let count = |number: usize, what: &str| {
            format!("{number} {what}{}", if number == 1 { "" } else { "s" })
        };
        let of = |severity| self.findings.iter().filter(|it| it.severity == severity).count();
        let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
        let mut summary = Vec::new();
        if errors > 0 {
            summary.push(count(errors, "error"));
        }
        if warnings > 0 {
            summary.push(count(warnings, "warning"));
        }
        let seen = format!("{}, {}", count(self.issuers, "issuer"), count(self.volumes, "volume"));
        text += &match summary.as_slice() {
            [] => format!("ok: {seen}\n"),
            found => format!("{} in {seen}\n", found.join(", ")),
        };
        text
    }
}

impl Finding {
    fn new(file: &Path, place: Place, severity: Severity, message: impl Into<String>) -> Self {
        let Place { line, column } = place;
        Self { file: file.to_owned(), line, column, severity, message: message.into() }
    }

    fn of_manifest(file: &Path, error: ManifestError) -> Self {
        Self::new(file, error.place, Severity::Error, error.message)
    }

    fn text(&self) -> String {
        let Self { file, line, column, severity, message } = self;
        let severity = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let message = text::printable(message).replace('\n', "\n  ");
        format!("{}:{line}:{column}: {severity}: {message}\n", file.display())
    }
}

impl Finding {
    /// A problem of the configuration; `dir` is the folder as the caller wrote it.
    fn of_config(problem: Problem, dir: &Path) -> Self {
        let Problem { place, object, severity, message } = problem;
        let here = config::Place { file: dir.to_owned(), line: 1, column: 1 };
        let config::Place { file, line, column } = place.unwrap_or(here);
        let inside = path::absolute(dir).ok().and_then(|dir| file.strip_prefix(dir).ok());
        let file = inside.map_or_else(|| file.clone(), |inside| dir.join(inside));
        let severity = match severity {
            config::Severity::Error => Severity::Error,
            config::Severity::Warning => Severity::Warning,
        };
        let message = match object {
            Some(object) => format!("{object}: {message}"),
            None => message,
        };
        Self::new(&file, Place { line, column }, severity, message)
    }
}
