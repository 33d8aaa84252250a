//! When the CA wants a certificate renewed (RFC 9773).

use std::time::Duration;

use url::Url;

use super::client::{Client, Failure};
use super::jws::base64;
use super::protocol::{RenewalInfo, SuggestedWindow};
use crate::clock::Timestamp;
use crate::issuer::RenewalAdvice;
use crate::x509::Certificate;

/// How often the CA is asked, where it does not say (§4.3.2), and how it may change that.
const ASK_AGAIN: Duration = Duration::from_secs(6 * 3600);
const SOONEST: Duration = Duration::from_secs(60);
const LATEST: Duration = Duration::from_secs(86_400);

/// The unique identifier of `certificate` (§4.1); `None` if it does not name its CA's key.
pub(super) fn identifier(certificate: &Certificate) -> Option<String> {
    let authority = certificate.authority_key_identifier()?;
    Some(format!("{}.{}", base64(authority), base64(certificate.serial_number_bytes())))
}

/// What the CA says about `leaf`, if it says such things.
pub(super) async fn advice(
    client: &Client,
    leaf: &Certificate,
) -> Result<Option<RenewalAdvice>, Failure> {
    let (Some(base), Some(identifier)) =
        (&client.directory().await?.renewal_info, identifier(leaf))
    else {
        return Ok(None);
    };
    let answer = client.get(&below(base, &identifier)).await?;
    let RenewalInfo { suggested_window: window } = answer.json()?;
    let ask_again = answer.retry_after().map_or(ASK_AGAIN, |after| after.clamp(SOONEST, LATEST));
    Ok(Some(RenewalAdvice { window: believable(window, leaf), ask_again }))
}

fn below(base: &Url, identifier: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{identifier}", base.path().trim_end_matches('/')));
    url
}

/// A window that makes sense for `leaf`: one that begins before the certificate does is about
/// another one, and one that ends before it begins is none.
fn believable(window: SuggestedWindow, leaf: &Certificate) -> Option<(Timestamp, Timestamp)> {
    let SuggestedWindow { start, end } = window;
    let sane = start < end && end > leaf.validity().not_before;
    sane.then_some((start, end))
}
