//! `certmount check --connect`: whether the CAs behind issuers would sign for us.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use futures_util::future::join_all;

use crate::config::{Place, Problem, Severity};
use crate::error::with_causes;
use crate::issuer::{Issuer, IssuerKey, IssuerSet, Issuers};

/// A CA that takes longer to say whether it lets us in would hold up pods as well.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks the CA of each issuer that is ready, all at once.
///
/// # Errors
///
/// When the system gives no sockets.
pub(super) fn problems(
    issuers: &IssuerSet,
    places: &BTreeMap<IssuerKey, Place>,
) -> io::Result<Vec<Problem>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (_writer, all) = Issuers::channel(issuers.clone());
    let all = &all;
    let ready = issuers.issuers.iter().filter_map(|(key, entry)| {
        let issuer = entry.issuer.as_ref().ok()?;
        Some(async move {
            let message = problem(issuer.as_ref(), all).await?;
            let name = match &key.namespace {
                Some(namespace) => format!("{namespace}/{}", key.name),
                None => key.name.clone(),
            };
            Some(Problem {
                place: places.get(key).cloned(),
                object: Some(format!("{} {name}", key.kind)),
                severity: Severity::Error,
                message,
            })
        })
    });
    Ok(runtime.block_on(join_all(ready)).into_iter().flatten().collect())
}

async fn problem(issuer: &dyn Issuer, all: &Issuers) -> Option<String> {
    let probed = tokio::time::timeout(PATIENCE, issuer.probe(all)).await;
    issuer.close().await;
    match probed {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(with_causes(&error)),
        Err(_) => Some(format!("its CA has not answered in {} s", PATIENCE.as_secs())),
    }
}
