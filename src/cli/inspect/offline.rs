//! What files say: a data root, one volume, or any folder with certificates.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{Seen, certificates};
use crate::clock::Timestamp;

/// Reads what `dir` is.
pub(super) fn read(dir: &Path, _now: Timestamp) -> Result<Seen> {
    ensure!(dir.is_dir(), "{} is not a folder", dir.display());
    Ok(Seen::Certificates(certificates::read(dir)?))
}
