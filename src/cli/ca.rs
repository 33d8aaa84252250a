//! `certmount ca`: a certificate authority of one's own.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::clock::Clock;
use crate::config::{Root, RootOptions};
use crate::x509::KeyAlgorithm;

/// Make a certificate authority of your own
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Init(InitArgs),
}

impl Command {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Init(args) => args.run(),
        }
    }
}

/// Make a root CA and a ClusterIssuer that signs with it
///
/// Writes two files into a folder for `certmount node --config-dir`: a Secret with the CA's
/// certificate and key, which only its owner may read, and a ClusterIssuer. A running driver takes
/// them up at once. Whoever has the key can sign any name: for production, keep the root elsewhere
/// and give nodes an intermediate CA.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct InitArgs {
    /// The folder to write NAME-secret.yaml and NAME-issuer.yaml into; made if need be
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// The name of the ClusterIssuer and of its Secret
    #[arg(long, value_name = "NAME", default_value = "root-ca")]
    name: String,

    /// The common name in the CA's subject
    #[arg(long, value_name = "TEXT", default_value = "certmount root CA")]
    common_name: String,

    /// The CA's key
    #[arg(long, value_enum, default_value = "ecdsa-p256", value_name = "ALGORITHM")]
    algorithm: Algorithm,

    /// How long the CA lives, as in 10y, 90days or 720h; no certificate outlives it
    #[arg(long, value_name = "DURATION", default_value = "10y", value_parser = humantime::parse_duration)]
    duration: Duration,

    /// How many CAs may follow below it in a chain [default: any number]
    #[arg(long, value_name = "NUMBER")]
    path_len: Option<u8>,

    /// Replace files that are there: volumes get new certificates, and trust both CAs meanwhile
    #[arg(long)]
    force: bool,
}

const AFTER_HELP: &str = "\
Examples:
  certmount ca init ./issuers
  certmount ca init ./issuers --name shop --common-name \"Shop CA\" --duration 1y --path-len 0

Exit codes: 0 both files are written; 1 neither is, or there were such files; 2 called wrongly.";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Algorithm {
    EcdsaP256,
    EcdsaP384,
    EcdsaP521,
    Ed25519,
    Rsa2048,
    Rsa3072,
    Rsa4096,
}

impl InitArgs {
    fn run(self) -> Result<ExitCode> {
        let Self { dir, name, common_name, algorithm, duration, path_len, force } = self;
        let options =
            RootOptions { name, common_name, algorithm: algorithm.into(), duration, path_len };
        let root = Root::make(&options, Clock::system().now())?;
        let [secret, issuer] = root.write(&dir, force)?;
        let certificate = root.certificate();
        let text = format!(
            "{secret}: the CA's certificate and key; keep it from others\n\
             {issuer}: the ClusterIssuer {name}\n\
             \n\
             subject       {subject}\n\
             expires       {expires}\n\
             SHA-256       {fingerprint}\n\
             \n\
             Pods use it with these attributes, and get names of their own namespace:\n  \
               certmount.dev/issuer-kind: ClusterIssuer\n  \
               certmount.dev/issuer-name: {name}\n",
            secret = secret.display(),
            issuer = issuer.display(),
            name = options.name,
            subject = certificate.subject(),
            expires = certificate.validity().not_after.strftime("%Y-%m-%d %H:%M:%SZ"),
            fingerprint = hex(&certificate.fingerprint()),
        );
        io::stdout().write_all(text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// As OpenSSL writes fingerprints.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().enumerate().fold(String::new(), |mut text, (at, byte)| {
        let colon = if at == 0 { "" } else { ":" };
        let _ = write!(text, "{colon}{byte:02X}");
        text
    })
}

impl From<Algorithm> for KeyAlgorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::EcdsaP256 => Self::EcdsaP256,
            Algorithm::EcdsaP384 => Self::EcdsaP384,
            Algorithm::EcdsaP521 => Self::EcdsaP521,
            Algorithm::Ed25519 => Self::Ed25519,
            Algorithm::Rsa2048 => Self::Rsa2048,
            Algorithm::Rsa3072 => Self::Rsa3072,
            Algorithm::Rsa4096 => Self::Rsa4096,
        }
    }
}
