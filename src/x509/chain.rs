//! Chains put in order by who signed whom, whatever order they came in.

use super::Certificate;

/// The certificates of `pool` that lead upwards from `first`: its issuer, that one's issuer, and so
/// on. Roots are no part of it; a self-signed `first` has nothing above it.
pub(super) fn above(first: &Certificate, pool: &[Certificate]) -> Vec<Certificate> {
    let mut path: Vec<Certificate> = Vec::new();
    if first.is_self_signed() {
        return path;
    }
    loop {
        let last = path.last().unwrap_or(first);
        let next = pool.iter().find(|candidate| {
            *candidate != first
                && !path.contains(candidate)
                && last.is_signed_by(candidate)
                && !candidate.is_self_signed()
        });
        match next {
            Some(next) => path.push(next.clone()),
            None => return path,
        }
    }
}

/// Those of `anchors` that are, or that signed, `first` or one of the certificates above it.
pub(super) fn anchors<'a>(
    first: &Certificate,
    above: &[Certificate],
    anchors: &'a [Certificate],
) -> impl Iterator<Item = &'a Certificate> {
    anchors.iter().filter(move |anchor| {
        // From the top, because that is where the anchor nearly always is.
        let mut path = above.iter().rev().chain([first]);
        path.any(|link| link == *anchor || link.is_signed_by(anchor))
    })
}

/// Each certificate once, in the order of their first appearance.
pub(super) fn deduplicated(certificates: Vec<Certificate>) -> Vec<Certificate> {
    let mut unique: Vec<Certificate> = Vec::with_capacity(certificates.len());
    for certificate in certificates {
        if !unique.contains(&certificate) {
            unique.push(certificate);
        }
    }
    unique
}
