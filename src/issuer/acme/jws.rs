//! Requests signed by the account's key (RFC 8555 §6.2), and what proves control of it.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use url::Url;
use zeroize::Zeroizing;

use crate::x509::{Jwk, KeyError, PrivateKey};

/// The private key of an account. Prints nothing of itself.
#[derive(Debug)]
pub(super) struct AccountKey {
    key: PrivateKey,
    jwk: Jwk,
    thumbprint: String,
}

/// The name by which the server knows who signed (§6.2).
#[derive(Clone, Copy, Debug)]
pub(super) enum Signer<'a> {
    /// The key itself, before there is an account.
    Key,
    /// The account's URL.
    Account(&'a Url),
}

/// A key that a CA gave so that accounts can be bound to it (§7.3.4). Prints nothing.
pub(super) struct BindingKey {
    pub(super) id: String,
    key: hmac::Key,
}

impl AccountKey {
    pub(super) fn new(key: PrivateKey) -> Self {
        let jwk = key.jwk();
        let thumbprint = jwk.thumbprint();
        Self { key, jwk, thumbprint }
    }

    /// Which account it is, in public.
    pub(super) fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// What proves that whoever answers a challenge has this key (§8.1).
    pub(super) fn key_authorization(&self, token: &str) -> String {
        format!("{token}.{}", self.thumbprint)
    }

    /// The body of a POST to `url`. Without a payload it is a POST-as-GET (§6.3).
    pub(super) fn sign(
        &self,
        signer: Signer<'_>,
        nonce: &str,
        url: &Url,
        payload: Option<&[u8]>,
    ) -> Result<Vec<u8>, KeyError> {
        #[derive(Serialize)]
        struct Protected<'a> {
            alg: &'a str,
            nonce: &'a str,
            url: &'a Url,
            #[serde(skip_serializing_if = "Option::is_none")]
            kid: Option<&'a Url>,
            #[serde(skip_serializing_if = "Option::is_none")]
            jwk: Option<serde_json::Value>,
        }
        let alg = self.key.jws_algorithm();
        let (kid, jwk) = match signer {
            Signer::Account(account) => (Some(account), None),
            Signer::Key => (None, Some(self.public())),
        };
        let protected = base64_json(&Protected { alg, nonce, url, kid, jwk });
        let payload = payload.map(base64).unwrap_or_default();
        let signature = self.key.jws_signature(format!("{protected}.{payload}").as_bytes())?;
        Ok(Flattened { protected, payload, signature: base64(&signature) }.into_body())
    }

    fn public(&self) -> serde_json::Value {
        serde_json::from_str(self.jwk.as_json()).expect("it is written as JSON")
    }
}

impl BindingKey {
    /// The key that the CA calls `id`: `text` is base64url, as CAs hand it out, or plain base64.
    pub(super) fn new(id: &str, text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.trim().trim_end_matches('=');
        let text = Zeroizing::new(text.replace('+', "-").replace('/', "_"));
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.as_bytes()).ok()?);
        let usable = !bytes.is_empty();
        usable.then(|| Self { id: id.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, &bytes) })
    }

    /// `externalAccountBinding` for an account with `key`.
    pub(super) fn bind(&self, key: &AccountKey, new_account: &Url) -> serde_json::Value {
        #[derive(Serialize)]
        struct Protected<'a> {
            alg: &'a str,
            kid: &'a str,
            url: &'a Url,
        }
        let protected = Protected { alg: "HS256", kid: &self.id, url: new_account };
        let protected = base64_json(&protected);
        let payload = base64(key.jwk.as_json().as_bytes());
        let signature = hmac::sign(&self.key, format!("{protected}.{payload}").as_bytes());
        let signature = base64(signature.as_ref());
        serde_json::json!({"protected": protected, "payload": payload, "signature": signature})
    }
}

impl std::fmt::Debug for BindingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BindingKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The flattened JSON serialization (RFC 7515 §7.2.2).
#[derive(Serialize)]
struct Flattened {
    protected: String,
    payload: String,
    signature: String,
}

impl Flattened {
    fn into_body(self) -> Vec<u8> {
        serde_json::to_vec(&self).expect("texts are JSON")
    }
}

/// Base64url without padding (RFC 7515 §2).
pub(super) fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn base64_json(value: &impl Serialize) -> String {
    base64(&serde_json::to_vec(value).expect("texts are JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::KeyAlgorithm;

    #[test]
    fn binding_keys_are_taken_as_cas_hand_them_out() {
        let url = "https://ca.example/new".parse().unwrap();
        let account = AccountKey::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let bind = |text: &str| {
            BindingKey::new("kid-1", text.as_bytes()).map(|key| key.bind(&account, &url))
        };
        let plain = bind("zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W");
        assert!(plain.is_some());
        assert_eq!(bind("-_8"), bind("+/8=\n"));
        assert_eq!(bind(""), None);
        assert_eq!(bind("not base64!"), None);
        let said = format!("{:?}", BindingKey::new("kid-1", b"c2VjcmV0").unwrap());
        assert!(said.contains("kid-1") && !said.contains("secret"), "{said}");
    }

    #[test]
    fn a_request_says_who_signed_it() {
        let account = AccountKey::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let url: Url = "https://ca.example/order".parse().unwrap();
        let protected = |signer| {
            let body = account.sign(signer, "nonce-1", &url, None).unwrap();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["payload"], "");
            let protected = URL_SAFE_NO_PAD.decode(body["protected"].as_str().unwrap()).unwrap();
            serde_json::from_slice::<serde_json::Value>(&protected).unwrap()
        };
        let by_key = protected(Signer::Key);
        assert_eq!(by_key["jwk"]["kty"], "EC");
        assert_eq!(by_key["alg"], "ES256");
        assert!(by_key.get("kid").is_none());
        let by_account = protected(Signer::Account(&url));
        assert_eq!(by_account["kid"], "https://ca.example/order");
        assert_eq!(by_account["nonce"], "nonce-1");
        assert!(by_account.get("jwk").is_none());
    }
}
