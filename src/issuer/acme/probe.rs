//! Whether the server would sign for us, as far as it shows without an account or an order made.

use serde::Deserialize;

use super::Acme;
use super::account::{KeySource, find, may_be_made};
use super::client::Failure;
use crate::issuer::web::words;
use crate::issuer::{IssueError, IssueErrorKind};

/// An account (RFC 8555 §7.1.2).
#[derive(Deserialize)]
struct AccountObject {
    status: String,
}

/// Reads the directory, looks for the account where its key is known, and has each provider of
/// DNS-01 say whether it lets us in.
pub(super) async fn probe(acme: &Acme) -> Result<(), Failure> {
    acme.client.check_profile(acme.spec.profile.as_deref()).await?;
    let found = match &acme.key {
        KeySource::Given(key) => find(&acme.client, key).await?,
        KeySource::Awaited(reason) if !acme.spec.make_account_key => {
            return Err(IssueError::new(IssueErrorKind::Config, reason.clone()).into());
        }
        // A key that was not made yet has no account; one that the driver has made is its own.
        KeySource::Awaited(_) | KeySource::Place(_) => None,
    };
    match found {
        None => may_be_made(&acme.client, acme.binding.as_ref()).await?,
        Some(answer) => {
            let AccountObject { status } = answer.json()?;
            if status != "valid" {
                let message = format!(
                    "the account of the key in Secret {} is {} at {}: give the issuer another key, \
                     or let it make one under another name",
                    acme.spec.private_key.name,
                    words(&status),
                    acme.client.directory_url()
                );
                return Err(IssueError::new(IssueErrorKind::Config, message).into());
            }
        }
    }
    for (solver, dns01) in acme.spec.solvers.iter().zip(&acme.dns01) {
        if let Some(dns01) = dns01 {
            dns01.probe(&solver.selector.dns_names).await?;
        }
    }
    Ok(())
}
