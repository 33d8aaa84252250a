//! Service account tokens of pods, as kubelet hands them over with a volume.
//!
//! They live for minutes and prove to others who a pod is: kept in memory only, the newest only.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::clock::Timestamp;

/// The key, in attributes or in secrets, under which kubelet hands over service account tokens.
pub const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// The tokens of one pod by audience. Prints nothing of them; they are zeroized.
#[derive(Default)]
pub struct PodTokens(BTreeMap<String, PodToken>);

/// One token. Prints nothing of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodToken {
    #[serde(deserialize_with = "zeroizing")]
    token: Zeroizing<String>,
    /// When it ends.
    #[serde(rename = "expirationTimestamp")]
    pub expires_at: Timestamp,
}

impl PodTokens {
    /// Reads the JSON that kubelet writes: `{"<audience>": {"token": …, "expirationTimestamp": …}}`.
    /// `None` when it is something else.
    pub fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().map(Self)
    }

    /// The token for `audience`; where none is named, the only one there is.
    pub fn get(&self, audience: Option<&str>) -> Option<&PodToken> {
        match audience {
            Some(audience) => self.0.get(audience),
            None if self.0.len() == 1 => self.0.values().next(),
            None => None,
        }
    }

    /// The audiences there are tokens for.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl PodToken {
    /// The token itself, to be shown to those it is for only.
    pub fn secret(&self) -> &str {
        &self.token
    }
}

fn zeroizing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

impl fmt::Debug for PodTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.audiences()).finish()
    }
}

impl fmt::Debug for PodToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_for_an_audience_is_found() {
        let one = r#"{"vault":{"token":"t0ken","expirationTimestamp":"2026-01-01T00:00:00Z"}}"#;
        let tokens = PodTokens::from_json(one).unwrap();
        for audience in [None, Some("vault")] {
            assert_eq!(tokens.get(audience).unwrap().secret(), "t0ken");
        }
        assert!(tokens.get(Some("other")).is_none());
        let printed = format!("{tokens:?} {:?}", tokens.get(None));
        assert!(printed.contains("vault") && !printed.contains("t0ken"), "{printed}");

        let two = r#"{"":{"token":"a","expirationTimestamp":"2026-01-01T00:00:00Z"},
            "vault":{"token":"b","expirationTimestamp":"2026-01-01T00:00:00Z"}}"#;
        let tokens = PodTokens::from_json(two).unwrap();
        assert!(tokens.get(None).is_none(), "which one?");
        assert_eq!(tokens.get(Some("")).unwrap().secret(), "a");

        assert!(PodTokens::from_json("t0ken").is_none());
        assert!(PodTokens::default().get(None).is_none());
    }
}
