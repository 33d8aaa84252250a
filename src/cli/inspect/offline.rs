//! What files say: a data root, one volume, or any folder with certificates.
//!
//! Only looks: a driver may be at work on the same files.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::{Seen, certificates, text};
use crate::clock::Timestamp;
use crate::renew::VolumeStatus;
use crate::spec::request::NodeContext;
use crate::volume::{Found, Volumes};
use crate::x509::certificates_from_pem;

/// Reads what `dir` is. Volumes that cannot be read are told on standard error.
pub(super) fn read(dir: &Path, now: Timestamp) -> Result<Seen> {
    ensure!(dir.is_dir(), "{} is not a folder", dir.display());
    if dir.join(RECORD_FILE).exists() {
        let dir = dir.canonicalize().with_context(|| format!("cannot open {}", dir.display()))?;
        let (Some(root), Some(id)) = (dir.parent(), dir.file_name()) else {
            return Ok(Seen::Volumes(Vec::new()));
        };
        let mut volumes = volumes(root, now)?;
        volumes.retain(|volume| volume.volume_id.as_str() == id);
        return Ok(Seen::Volumes(volumes));
    }
    let volumes = volumes(dir, now)?;
    if volumes.is_empty() && !dir.join(super::super::node::ADMIN_SOCKET).exists() {
        return Ok(Seen::Certificates(certificates::read(dir)?));
    }
    Ok(Seen::Volumes(volumes))
}

/// What makes a folder a volume.
const RECORD_FILE: &str = "record.json";

fn volumes(root: &Path, now: Timestamp) -> Result<Vec<VolumeStatus>> {
    let mut volumes = Vec::new();
    for found in Volumes::look(root)? {
        let status = match found {
            Ok(found) => status(&found, now),
            Err((volume, error)) => {
                Err(anyhow::Error::from(error).context(format!("cannot read volume {volume}")))
            }
        };
        match status {
            Ok(status) => volumes.push(status),
            Err(error) => writeln!(io::stderr(), "{}", text::failure(&error))?,
        }
    }
    volumes.sort_by(|a, b| {
        (&a.pod.namespace, &a.pod.name, &a.volume_id).cmp(&(
            &b.pod.namespace,
            &b.pod.name,
            &b.volume_id,
        ))
    });
    Ok(volumes)
}

fn status(found: &Found, now: Timestamp) -> Result<VolumeStatus> {
    // Neither name is in the record, and neither shows in what is printed.
    let node = NodeContext { driver_name: String::new(), node_name: "node".to_owned() };
    let request = found.record.request(&node)?;
    let leaf = match found.volume.state()? {
        Some(state) => certificates_from_pem(&state)?.into_iter().next(),
        None => None,
    };
    Ok(VolumeStatus::from_files(&request, leaf.as_ref(), now))
}
