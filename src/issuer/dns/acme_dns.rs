//! acme-dns: a name server made for challenges, where each name has an account and a subdomain of
//! its own, which a CNAME record at `_acme-challenge.<host>` leads to.
//!
//! Each account holds two texts, of which a new one replaces the older. There is nothing to remove.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use hyper::StatusCode;
use hyper::header::HeaderName;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use url::Url;
use zeroize::Zeroizing;

use super::{DnsProvider, TxtRecord};
use crate::issuer::web::{Web, place};
use crate::issuer::{BuildError, IssueError, IssueErrorKind, Materials};
use crate::spec::object::dns01::AcmeDnsSpec;

/// A server of acme-dns.
pub(super) struct AcmeDns {
    web: Web,
    update: Url,
    health: Url,
    secret: String,
    accounts: BTreeMap<String, Account>,
}

/// Its field `fulldomain` is what the CNAME record says, and `allowfrom` is the server's business.
#[derive(Deserialize)]
struct Account {
    username: String,
    #[serde(deserialize_with = "secret")]
    password: Zeroizing<String>,
    subdomain: String,
}

/// What the server says when it refuses.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl AcmeDns {
    pub(super) fn build(
        spec: &AcmeDnsSpec,
        web: Web,
        materials: &Materials,
    ) -> Result<Self, BuildError> {
        let reference = &spec.account_secret_ref;
        let text = materials.value(reference, DEFAULT_KEY)?;
        let accounts = serde_json::from_slice(text).map_err(|error| {
            // The error's own text can hold a password.
            BuildError::Unfit(format!(
                "{} of Secret {} is not acme-dns accounts in JSON (line {}): write an object of \
                 names, each with username, password, fulldomain and subdomain, as the server's \
                 /register gives them",
                reference.key.as_deref().unwrap_or(DEFAULT_KEY),
                reference.name,
                error.line()
            ))
        })?;
        let below = |name: &str| {
            let url = format!("{}/{name}", spec.host.as_str().trim_end_matches('/'));
            url.parse().expect("a URL with one more segment is a URL")
        };
        let (update, health) = (below("update"), below("health"));
        Ok(Self { web, update, health, secret: reference.name.clone(), accounts })
    }

    fn account(&self, host: &str) -> Result<&Account, IssueError> {
        self.accounts.get(host).ok_or_else(|| {
            let message = format!(
                "the acme-dns accounts in Secret {} have none for {host}: register one at {} and \
                 add it",
                self.secret,
                place(&self.update)
            );
            IssueError::new(IssueErrorKind::Config, message)
        })
    }
}

/// The key of the accounts in their Secret.
const DEFAULT_KEY: &str = "acmedns.json";

const USER: HeaderName = HeaderName::from_static("x-api-user");
const KEY: HeaderName = HeaderName::from_static("x-api-key");

#[async_trait]
impl DnsProvider for AcmeDns {
    async fn present(&self, record: &TxtRecord) -> Result<(), IssueError> {
        let account = self.account(&record.host)?;
        let request = self.web.post(&self.update).secret(USER, &account.username);
        let request = request.secret(KEY, &account.password);
        let body = json!({"subdomain": account.subdomain, "txt": record.value});
        let answer = request.json(&body).send().await?;
        if answer.status == StatusCode::OK {
            return Ok(());
        }
        let said = answer.json::<Refusal>().ok().map(|refusal| refusal.error);
        Err(answer.error(said.as_deref()))
    }

    async fn clean_up(&self, _: &TxtRecord) -> Result<(), IssueError> {
        Ok(())
    }

    /// Whether an account is good shows only when a text is replaced.
    async fn probe(&self, records: &[TxtRecord]) -> Result<(), IssueError> {
        records.iter().try_for_each(|record| self.account(&record.host).map(drop))?;
        let answer = self.web.get(&self.health).send().await?;
        match answer.status {
            // Old servers do not say how they are.
            StatusCode::OK | StatusCode::NOT_FOUND => Ok(()),
            _ => Err(answer.error(None)),
        }
    }
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

impl fmt::Debug for AcmeDns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcmeDns")
            .field("update", &self.update.as_str())
            .field("accounts", &self.accounts.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
