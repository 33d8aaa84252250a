//! The certificates in the files of a folder, whoever wrote them.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::text;
use crate::clock::Timestamp;
use crate::x509::{Certificate, certificates_from_pem};

/// A file with certificates in it.
#[derive(Debug, Serialize)]
pub(super) struct FileCertificate {
    file: String,
    certificates: Vec<Seen>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    subject: String,
    issuer: String,
    names: Vec<String>,
    serial_number: String,
    not_before: Timestamp,
    not_after: Timestamp,
    is_ca: bool,
}

/// Every file in `dir` itself that holds certificates, in PEM or DER, by name.
pub(super) fn read(dir: &Path) -> Result<Vec<FileCertificate>> {
    let mut files = Vec::new();
    let entries = dir.read_dir().with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
        if !path.is_file() {
            continue;
        }
        let bytes = read_some(&path)?;
        let certificates = certificates(bytes);
        if !certificates.is_empty() {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push(FileCertificate {
                file,
                certificates: certificates.iter().map(Seen::from).collect(),
            });
        }
    }
    files.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(files)
}

/// One line for each certificate.
pub(super) fn table(files: &[FileCertificate], wide: bool, now: Timestamp) -> String {
    if files.is_empty() {
        return "no certificates in this folder\n".to_owned();
    }
    let heading = ["FILE", "SUBJECT", "NAMES", "ISSUER", "SERIAL", "EXPIRES"];
    let mut rows = vec![heading.map(str::to_owned)];
    for FileCertificate { file, certificates } in files {
        rows.extend(certificates.iter().map(|seen| {
            let or_dash =
                |text: &str| if text.is_empty() { super::dash() } else { text.to_owned() };
            let (names, serial) = if wide {
                (or_dash(&seen.names.join(",")), seen.serial_number.clone())
            } else {
                (super::abridged_names(&seen.names), super::abridged_serial(&seen.serial_number))
            };
            let expires = super::moment(now, seen.not_after);
            [file.clone(), or_dash(&seen.subject), names, or_dash(&seen.issuer), serial, expires]
        }));
    }
    text::table(&rows)
}

fn read_some(path: &Path) -> Result<Vec<u8>> {
    /// More than any bundle of trust anchors; what follows is not a certificate file.
    const MOST: u64 = 4 << 20;
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MOST).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

fn certificates(bytes: Vec<u8>) -> Vec<Certificate> {
    match certificates_from_pem(&bytes) {
        Ok(certificates) if !certificates.is_empty() => certificates,
        _ => Certificate::from_der(bytes).into_iter().collect(),
    }
}

impl From<&Certificate> for Seen {
    fn from(certificate: &Certificate) -> Self {
        let validity = certificate.validity();
        Self {
            subject: certificate.subject(),
            issuer: certificate.issuer(),
            names: certificate.names(),
            serial_number: certificate.serial_number(),
            not_before: validity.not_before,
            not_after: validity.not_after,
            is_ca: certificate.is_ca(),
        }
    }
}
