//! The objects of ACME as they go over the wire (RFC 8555 §7.1), as far as they are needed.
//!
//! They come from a CA, so no field is believed more than its type says.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::clock::Timestamp;
use crate::issuer::web::words;

/// Where the server's services are (§7.1.1).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Directory {
    pub(super) new_nonce: Url,
    pub(super) new_account: Url,
    pub(super) new_order: Url,
    /// RFC 9773 §3.
    pub(super) renewal_info: Option<Url>,
    #[serde(default)]
    pub(super) meta: Meta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Meta {
    /// draft-ietf-acme-profiles §3.
    pub(super) profiles: std::collections::BTreeMap<String, serde_json::Value>,
    pub(super) external_account_required: bool,
}

/// What a certificate is to be for (§9.7.7, RFC 8738 §3).
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub(super) struct Identifier {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) value: String,
}

/// §7.1.3.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OrderObject {
    pub(super) status: OrderStatus,
    #[serde(default)]
    pub(super) identifiers: Vec<Identifier>,
    #[serde(default)]
    pub(super) authorizations: Vec<Url>,
    pub(super) finalize: Url,
    pub(super) certificate: Option<Url>,
    pub(super) error: Option<Problem>,
    pub(super) profile: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum OrderStatus {
    Pending,
    Ready,
    Processing,
    Valid,
    Invalid,
}

/// §7.1.4.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Authorization {
    pub(super) identifier: Identifier,
    pub(super) status: AuthorizationStatus,
    #[serde(default)]
    pub(super) challenges: Vec<Challenge>,
    #[serde(default)]
    pub(super) wildcard: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum AuthorizationStatus {
    Pending,
    Valid,
    Invalid,
    Deactivated,
    Expired,
    Revoked,
}

/// §8.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Challenge {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) url: Url,
    pub(super) status: ChallengeStatus,
    /// dns-persist-01 has none.
    pub(super) token: Option<String>,
    pub(super) error: Option<Problem>,
    /// Of dns-persist-01: who the record must name.
    #[serde(default, rename = "issuer-domain-names")]
    pub(super) issuer_domain_names: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum ChallengeStatus {
    Pending,
    Processing,
    Valid,
    Invalid,
}

/// RFC 9773 §4.2.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RenewalInfo {
    pub(super) suggested_window: SuggestedWindow,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct SuggestedWindow {
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
}

/// Why the server refuses (RFC 7807, RFC 8555 §6.7). `Display` says it in the server's own words,
/// on one line and no longer than people read.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Problem {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    identifier: Option<Identifier>,
    #[serde(default)]
    subproblems: Vec<Self>,
}

const ERROR_PREFIX: &str = "urn:ietf:params:acme:error:";

impl Problem {
    /// Its type without the prefix that all of ACME's have.
    pub(super) fn kind(&self) -> &str {
        self.kind.strip_prefix(ERROR_PREFIX).unwrap_or(&self.kind)
    }

    /// The server's own words.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = match self.detail.trim() {
            "" => self.kind().to_owned(),
            detail => detail.to_owned(),
        };
        for sub in &self.subproblems {
            let name = sub.identifier.as_ref().map_or("", |identifier| &identifier.value);
            text = format!("{text}; {name}: {}", sub.detail);
        }
        f.write_str(&words(&text))
    }
}
