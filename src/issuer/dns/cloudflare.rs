//! Cloudflare's API, version 4.

use std::fmt;

use async_trait::async_trait;
use hyper::header::{AUTHORIZATION, HeaderName};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use url::Url;
use zeroize::Zeroizing;

use super::{DnsProvider, TTL, TxtRecord, upwards, word};
use crate::issuer::web::{Answer, Request, Web, words};
use crate::issuer::{BuildError, IssueError, IssueErrorKind, Materials};
use crate::spec::object::dns01::CloudflareSpec;

/// Cloudflare.
pub(super) struct Cloudflare {
    web: Web,
    api: Url,
    credentials: Credentials,
}

enum Credentials {
    Key { email: String, key: Zeroizing<String> },
    Token(Zeroizing<String>),
}

/// What every answer looks like.
#[derive(Deserialize)]
struct Envelope<T> {
    success: bool,
    #[serde(default = "Vec::new")]
    errors: Vec<Fault>,
    result: Option<T>,
}

#[derive(Deserialize)]
struct Fault {
    code: u32,
    message: String,
    #[serde(default)]
    error_chain: Vec<Self>,
}

#[derive(Deserialize)]
struct Zone {
    id: String,
}

#[derive(Deserialize)]
struct Record {
    id: String,
    content: String,
}

/// Where the API is.
const API: &str = "https://api.cloudflare.com/client/v4/";

/// "An identical record already exists."
const IDENTICAL: u32 = 81058;
/// "Record does not exist."
const GONE: u32 = 81044;

/// Codes that say that the credentials are no good: of headers that cannot be a token, and of
/// tokens and keys that nobody has.
const UNKNOWN_CALLER: [u32; 7] = [6003, 6103, 6111, 9103, 9106, 9109, 10000];

impl Cloudflare {
    pub(super) fn build(
        spec: &CloudflareSpec,
        web: Web,
        materials: &Materials,
    ) -> Result<Self, BuildError> {
        let credentials = match spec {
            CloudflareSpec::Key { email, key } => {
                Credentials::Key { email: email.clone(), key: word(materials, key, "api-key")? }
            }
            CloudflareSpec::Token(token) => {
                Credentials::Token(word(materials, token, "api-token")?)
            }
        };
        Ok(Self { web, api: API.parse().expect("it is a URL"), credentials })
    }

    /// The id of the zone that `record` is in: the nearest one that the credentials may see.
    async fn zone(&self, record: &TxtRecord) -> Result<String, IssueError> {
        for name in upwards(&record.zone) {
            let mut url = self.url("zones");
            url.query_pairs_mut().append_pair("name", name);
            let answer = self.request(Method::GET, &url).send().await?;
            let zones: Vec<Zone> = result(&answer)?;
            if let Some(zone) = zones.into_iter().next() {
                return identifier(zone.id, &answer);
            }
        }
        let message = format!(
            "Cloudflare shows no zone for {}: give the token Zone:Read and DNS:Edit for it",
            record.name
        );
        Err(IssueError::new(IssueErrorKind::Config, message))
    }

    /// The ids of the records with the value of `record`.
    async fn records(&self, zone: &str, record: &TxtRecord) -> Result<Vec<String>, IssueError> {
        let mut url = self.url(&format!("zones/{zone}/dns_records"));
        url.query_pairs_mut()
            .append_pair("type", "TXT")
            .append_pair("name", &record.name)
            .append_pair("per_page", "100");
        let answer = self.request(Method::GET, &url).send().await?;
        let records: Vec<Record> = result(&answer)?;
        // The API gives texts with or without the quotes of a zone file, as they were written.
        let same = |it: &Record| it.content.trim_matches('"') == record.value;
        records.into_iter().filter(same).map(|it| identifier(it.id, &answer)).collect()
    }

    fn url(&self, path: &str) -> Url {
        self.api.join(path).expect("the path is made of checked identifiers")
    }

    fn request(&self, method: Method, url: &Url) -> Request<'_> {
        const EMAIL: HeaderName = HeaderName::from_static("x-auth-email");
        const KEY: HeaderName = HeaderName::from_static("x-auth-key");
        let request = self.web.request(method, url);
        match &self.credentials {
            Credentials::Key { email, key } => request.secret(EMAIL, email).secret(KEY, key),
            Credentials::Token(token) => {
                let bearer = Zeroizing::new(format!("Bearer {}", token.as_str()));
                request.secret(AUTHORIZATION, &bearer)
            }
        }
    }
}

#[async_trait]
impl DnsProvider for Cloudflare {
    async fn present(&self, record: &TxtRecord) -> Result<(), IssueError> {
        let zone = self.zone(record).await?;
        if !self.records(&zone, record).await?.is_empty() {
            return Ok(());
        }
        let url = self.url(&format!("zones/{zone}/dns_records"));
        let content = format!("\"{}\"", record.value);
        let body = json!({"type": "TXT", "name": record.name, "content": content, "ttl": TTL});
        let answer = self.request(Method::POST, &url).json(&body).send().await?;
        match result::<Record>(&answer) {
            Err(_) if has_code(&answer, IDENTICAL) => Ok(()),
            created => created.map(drop),
        }
    }

    async fn probe(&self, records: &[TxtRecord]) -> Result<(), IssueError> {
        // As far as the removal of what is not there: that reads the zone and its records.
        for record in records {
            self.clean_up(record).await?;
        }
        if records.is_empty() {
            let mut url = self.url("zones");
            url.query_pairs_mut().append_pair("per_page", "1");
            let zones: Vec<Zone> = result(&self.request(Method::GET, &url).send().await?)?;
            if zones.is_empty() {
                let message = "Cloudflare shows no zone: give the token Zone:Read and DNS:Edit for those that \
                     it serves";
                return Err(IssueError::new(IssueErrorKind::Config, message));
            }
        }
        Ok(())
    }

    async fn clean_up(&self, record: &TxtRecord) -> Result<(), IssueError> {
        let zone = self.zone(record).await?;
        for id in self.records(&zone, record).await? {
            let url = self.url(&format!("zones/{zone}/dns_records/{id}"));
            let answer = self.request(Method::DELETE, &url).send().await?;
            let gone = answer.status == StatusCode::NOT_FOUND || has_code(&answer, GONE);
            if !gone {
                result::<serde_json::Value>(&answer)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Cloudflare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cloudflare")
    }
}

/// What the API answered, or what is wrong in its own words.
fn result<T: DeserializeOwned>(answer: &Answer) -> Result<T, IssueError> {
    let envelope: Envelope<T> = match answer.json() {
        Ok(envelope) => envelope,
        Err(error) if answer.status.is_success() => return Err(error),
        Err(_) => return Err(answer.error(None)),
    };
    match envelope.result {
        Some(result) if envelope.success && answer.status.is_success() => Ok(result),
        _ => {
            let said = said(&envelope.errors);
            let error = answer.error(Some(&said));
            if codes(&envelope.errors).any(|code| UNKNOWN_CALLER.contains(&code)) {
                let message =
                    format!("Cloudflare does not take the credentials: write new ones ({said})");
                return Err(IssueError { message, kind: IssueErrorKind::Config, ..error });
            }
            Err(error)
        }
    }
}

fn has_code(answer: &Answer, wanted: u32) -> bool {
    let envelope = answer.json::<Envelope<serde_json::Value>>();
    envelope.is_ok_and(|envelope| codes(&envelope.errors).any(|code| code == wanted))
}

fn codes(faults: &[Fault]) -> impl Iterator<Item = u32> {
    faults.iter().flat_map(|fault| fault.error_chain.iter().chain([fault])).map(|it| it.code)
}

fn said(faults: &[Fault]) -> String {
    let all = faults.iter().flat_map(|fault| [fault].into_iter().chain(&fault.error_chain));
    let all: Vec<_> = all.map(|fault| format!("{} ({})", fault.message, fault.code)).collect();
    words(&all.join(", "))
}

/// An id that may become part of a path.
fn identifier(id: String, answer: &Answer) -> Result<String, IssueError> {
    if !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Ok(id);
    }
    let message = format!("{} gave an id that is none", answer.place());
    Err(IssueError::new(IssueErrorKind::BadResponse, message))
}

#[cfg(test)]
mod tests;
