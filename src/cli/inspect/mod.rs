//! `certmount inspect`: what is on this node, asked of the running driver or read from files.

mod certificates;
mod client;
mod offline;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use self::certificates::FileCertificate;
use super::text;
use crate::clock::{Clock, Timestamp};
use crate::observe::IssuerStatus;
use crate::renew::{Phase, VolumeStatus};

/// Show the volumes on this node: pod, issuer, names, expiry, next renewal, last error; or its issuers
///
/// Asks the running driver over its admin socket; with --dir reads files instead, also those of a
/// driver that is not running, or the certificates in any folder, such as /tls inside a pod.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The driver's admin socket
    #[arg(
        long,
        env = "CERTMOUNT_ADMIN_SOCKET",
        default_value = super::node::DEFAULT_ADMIN_SOCKET,
        value_name = "PATH"
    )]
    socket: PathBuf,

    /// Read files instead: a data root, one volume in it, or any folder with certificates
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Show the issuers instead: whether volumes can have certificates from them, and why not
    #[arg(long, conflicts_with = "dir")]
    issuers: bool,

    /// How to print
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: Output,

    /// Print again every two seconds until Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

const AFTER_HELP: &str = "\
Examples:
  certmount inspect                                   ask the driver on this node
  certmount inspect -o json | jq '.[].notAfter'       for scripts
  certmount inspect --issuers                         whether its issuers are ready, and why not
  certmount inspect --dir /run/certmount              from files, without the driver
  kubectl exec POD -- certmount inspect --dir /tls    what a pod sees

JSON, one object for each volume; times are RFC 3339 in UTC, absent facts null:
  volumeId, targetPath, pod {namespace, name, uid, serviceAccount}, issuer {group, kind, name},
  phase (issuing, waiting, ready, renewal-failing, expired), names (dns:…, ip:…, uri:…, email:…),
  serialNumber (hex), notBefore, notAfter, renewAt, renewals, lastError
With --issuers, one object for each:
  group, kind, namespace, name, ready (true, false), reason (as in the metrics), message
For a folder with certificates, one object for each file:
  file, certificates [{subject, issuer, names, serialNumber, notBefore, notAfter, isCa}]
Fields may be added, and none changes its meaning.

Exit codes: 0 the answer was printed; 1 there was none.";

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    /// Columns for people
    Table,
    /// More columns: volume id, target path, all names, whole serial numbers
    Wide,
    /// The documented JSON; with --watch one line each time
    Json,
}

/// What there was to see.
enum Seen {
    Volumes(Vec<VolumeStatus>),
    Issuers(Vec<IssuerStatus>),
    Certificates(Vec<FileCertificate>),
}

impl Args {
    pub(super) fn run(self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.print())?;
        Ok(ExitCode::SUCCESS)
    }

    async fn print(self) -> Result<()> {
        let clock = Clock::system();
        loop {
            let seen = match &self.dir {
                Some(dir) => offline::read(dir, clock.now())?,
                None if self.issuers => Seen::Issuers(client::issuers(&self.socket).await?),
                None => Seen::Volumes(client::volumes(&self.socket).await?),
            };
            let text = self.render(&seen, clock.now())?;
            let mut out = io::stdout().lock();
            if self.watch && self.output != Output::Json && out.is_terminal() {
                out.write_all(CLEAR_SCREEN)?;
            }
            out.write_all(text.as_bytes())?;
            out.flush()?;
            drop(out);
            if !self.watch {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn render(&self, seen: &Seen, now: Timestamp) -> Result<String> {
        Ok(match (seen, self.output) {
            (Seen::Volumes(volumes), Output::Json) => self.json(volumes)?,
            (Seen::Issuers(issuers), Output::Json) => self.json(issuers)?,
            (Seen::Certificates(files), Output::Json) => self.json(files)?,
            (Seen::Volumes(volumes), Output::Table) => volumes_table(volumes, now),
            (Seen::Volumes(volumes), Output::Wide) => volumes_wide(volumes, now),
            (Seen::Issuers(issuers), _) => issuers_table(issuers),
            (Seen::Certificates(files), output) => {
                certificates::table(files, output == Output::Wide, now)
            }
        })
    }

    fn json<T: serde::Serialize>(&self, value: &T) -> Result<String> {
        let json = if self.watch {
            serde_json::to_string(value)?
        } else {
            serde_json::to_string_pretty(value)?
        };
        Ok(json + "\n")
    }
}

const PAUSE: Duration = Duration::from_secs(2);
const CLEAR_SCREEN: &[u8] = b"\x1b[2J\x1b[H";

fn volumes_table(volumes: &[VolumeStatus], now: Timestamp) -> String {
    if volumes.is_empty() {
        return NONE.to_owned();
    }
    let heading = ["POD", "ISSUER", "NAMES", "SERIAL", "EXPIRES", "RENEWS", "PHASE"];
    let mut rows = vec![heading.map(str::to_owned)];
    rows.extend(volumes.iter().map(|volume| {
        [
            pod(volume),
            issuer(volume),
            abridged_names(&volume.names),
            volume.serial_number.as_deref().map_or_else(dash, abridged_serial),
            volume.not_after.map_or_else(dash, |at| moment(now, at)),
            volume.renew_at.map_or_else(dash, |at| text::relative(now, at)),
            phase(volume.phase),
        ]
    }));
    text::table(&rows) + &errors(volumes)
}

fn volumes_wide(volumes: &[VolumeStatus], now: Timestamp) -> String {
    if volumes.is_empty() {
        return NONE.to_owned();
    }
    let heading = [
        "POD", "ISSUER", "NAMES", "SERIAL", "EXPIRES", "RENEWS", "RENEWALS", "PHASE", "VOLUME",
        "TARGET",
    ];
    let mut rows = vec![heading.map(str::to_owned)];
    rows.extend(volumes.iter().map(|volume| {
        [
            pod(volume),
            issuer(volume),
            volume.names.join(","),
            volume.serial_number.clone().unwrap_or_else(dash),
            volume.not_after.map_or_else(dash, |at| moment(now, at)),
            volume.renew_at.map_or_else(dash, |at| moment(now, at)),
            volume.renewals.to_string(),
            phase(volume.phase),
            volume.volume_id.to_string(),
            volume.target_path.as_path().display().to_string(),
        ]
    }));
    text::table(&rows) + &errors(volumes)
}

fn issuers_table(issuers: &[IssuerStatus]) -> String {
    if issuers.is_empty() {
        return NO_ISSUERS.to_owned();
    }
    let name = |issuer: &IssuerStatus| match &issuer.namespace {
        Some(namespace) => format!("{}/{namespace}/{}", issuer.kind, issuer.name),
        None => format!("{}/{}", issuer.kind, issuer.name),
    };
    let mut rows = vec![["ISSUER", "READY", "REASON"].map(str::to_owned)];
    rows.extend(issuers.iter().map(|issuer| {
        let ready = if issuer.ready { "yes" } else { "no" };
        [name(issuer), ready.to_owned(), issuer.reason.clone().unwrap_or_else(dash)]
    }));
    let messages = issuers.iter().filter_map(|issuer| {
        let message = issuer.message.as_ref()?;
        Some(format!("\n{}: {}\n", name(issuer), text::printable(message)))
    });
    text::table(&rows) + &messages.collect::<String>()
}

const NO_ISSUERS: &str = "no issuers are configured\n";

const NONE: &str = "no volumes on this node\n";

fn errors(volumes: &[VolumeStatus]) -> String {
    let errors = volumes.iter().filter_map(|volume| {
        let error = volume.last_error.as_ref()?;
        Some(format!("\n{}: {}\n", pod(volume), text::printable(error)))
    });
    errors.collect()
}

fn pod(volume: &VolumeStatus) -> String {
    format!("{}/{}", volume.pod.namespace, volume.pod.name)
}

fn issuer(volume: &VolumeStatus) -> String {
    format!("{}/{}", volume.issuer.kind, volume.issuer.name)
}

fn phase(phase: Phase) -> String {
    phase.as_str().to_owned()
}

fn abridged_names(names: &[String]) -> String {
    match names {
        [] => dash(),
        [only] => only.clone(),
        [first, rest @ ..] => format!("{first} +{}", rest.len()),
    }
}

/// The first and last digits: enough to see that a renewal changed it.
fn abridged_serial(serial: &str) -> String {
    const ENDS: usize = 4;
    if serial.len() <= 2 * ENDS + 1 || !serial.is_ascii() {
        return serial.to_owned();
    }
    format!("{}…{}", &serial[..ENDS], &serial[serial.len() - ENDS..])
}

fn moment(now: Timestamp, at: Timestamp) -> String {
    format!("{} ({})", text::relative(now, at), at.strftime("%Y-%m-%d %H:%M:%SZ"))
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture;

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    fn volume() -> VolumeStatus {
        let at = |seconds: i64| Some(Timestamp::from_second(1_700_000_000 + seconds).unwrap());
        VolumeStatus {
            volume_id: "csi-1".to_owned().try_into().unwrap(),
            target_path: PathBuf::from("/pods/u/mount").try_into().unwrap(),
            pod: fixture::pod("shop", "web-0", "default"),
            issuer: fixture::cluster_issuer("local-ca"),
            phase: Phase::Ready,
            names: vec!["dns:web.shop.svc".to_owned(), "ip:10.0.0.1".to_owned()],
            serial_number: Some("4f2a00112233445566".to_owned()),
            not_before: at(-300),
            not_after: at(3_600),
            renew_at: at(2_400),
            renewals: 3,
            last_error: None,
        }
    }

    #[test]
    fn the_table_is_for_people() {
        assert_eq!(
            volumes_table(&[volume()], now()),
            "POD         ISSUER                  NAMES                SERIAL     \
             EXPIRES                       RENEWS  PHASE\n\
             shop/web-0  ClusterIssuer/local-ca  dns:web.shop.svc +1  4f2a…5566  \
             in 1h (2023-11-14 23:13:20Z)  in 40m  ready\n"
        );
    }

    #[test]
    fn a_volume_that_waits_tells_why_below_the_table() {
        let volume = VolumeStatus {
            phase: Phase::Waiting,
            names: Vec::new(),
            serial_number: None,
            not_before: None,
            not_after: None,
            renew_at: None,
            last_error: Some("no ClusterIssuer \"local-ca\"\u{7}".to_owned()),
            ..volume()
        };
        let table = volumes_table(&[volume], now());
        assert!(table.contains("-      -       -        -       waiting\n"), "{table}");
        assert!(table.ends_with("\nshop/web-0: no ClusterIssuer \"local-ca\"\\u{7}\n"), "{table}");
    }

    #[test]
    fn wide_abridges_nothing() {
        let table = volumes_wide(&[volume()], now());
        for part in ["4f2a00112233445566", "dns:web.shop.svc,ip:10.0.0.1", "csi-1", "/pods/u/mount"]
        {
            assert!(table.contains(part), "{table}");
        }
    }

    #[test]
    fn json_keeps_the_documented_names() {
        let json = serde_json::to_value(volume()).unwrap();
        let fields: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        let documented = AFTER_HELP.split_once("absent facts null:\n").unwrap().1;
        for field in &fields {
            assert!(documented.contains(field.as_str()), "{field} is not documented");
        }
        assert_eq!(json["notAfter"], "2023-11-14T23:13:20Z");
        assert_eq!(json["phase"], "ready");
        assert_eq!(json["pod"]["serviceAccount"], "default");
    }

    #[test]
    fn issuers_that_are_not_ready_tell_why() {
        let issuer = |namespace: Option<&str>, ready: bool| IssuerStatus {
            group: "certmount.dev".to_owned(),
            kind: if namespace.is_some() { "Issuer" } else { "ClusterIssuer" }.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: "ca".to_owned(),
            ready,
            reason: (!ready).then(|| "Config".to_owned()),
            message: (!ready).then(|| "there is no Secret root: add it".to_owned()),
        };
        assert_eq!(
            issuers_table(&[issuer(None, true), issuer(Some("shop"), false)]),
            "ISSUER            READY  REASON\n\
             ClusterIssuer/ca  yes    -\n\
             Issuer/shop/ca    no     Config\n\
             \nIssuer/shop/ca: there is no Secret root: add it\n"
        );
        let json = serde_json::to_value(issuer(None, true)).unwrap();
        let documented = AFTER_HELP.split_once("With --issuers").unwrap().1;
        for field in json.as_object().unwrap().keys() {
            assert!(documented.contains(field.as_str()), "{field} is not documented");
        }
    }

    #[test]
    fn an_empty_node_is_said_to_be_empty() {
        assert_eq!(volumes_table(&[], now()), NONE);
        assert_eq!(issuers_table(&[]), NO_ISSUERS);
    }
}
