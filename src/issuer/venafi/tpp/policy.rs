//! What a policy folder takes, seen before anything is asked for.

use serde::{Deserialize, Serialize};

use crate::issuer::venafi::{denied, words};
use crate::issuer::{IssueError, Order};
use crate::spec::request::CertificateSpec;
use crate::x509::{GeneralName, KeyAlgorithm};

/// The policy of a folder, as far as it can refuse what pods ask for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Policy {
    csr_generation: Setting<String>,
    key_pair: KeyPair,
    management_type: Setting<String>,
    subj_alt_name_dns_allowed: Option<bool>,
    subj_alt_name_email_allowed: Option<bool>,
    subj_alt_name_ip_allowed: Option<bool>,
    subj_alt_name_uri_allowed: Option<bool>,
    wildcards_allowed: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct KeyPair {
    key_algorithm: Setting<String>,
    key_size: Setting<u32>,
    elliptic_curve: Setting<String>,
}

/// A value that is a suggestion unless it is locked.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Setting<T> {
    locked: bool,
    value: Option<T>,
}

/// A key as the Web SDK describes it.
#[derive(Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Key {
    key_algorithm: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_bit_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    elliptic_curve: Option<&'static str>,
}

impl Key {
    /// The key of `order`.
    ///
    /// # Errors
    ///
    /// `Denied` for one that there is no word for.
    pub(super) fn of(order: &Order<'_>) -> Result<Self, IssueError> {
        let rsa =
            |size| Self { key_algorithm: "RSA", key_bit_size: Some(size), elliptic_curve: None };
        let ecc =
            |curve| Self { key_algorithm: "ECC", key_bit_size: None, elliptic_curve: Some(curve) };
        Ok(match order.spec.key_algorithm {
            KeyAlgorithm::Rsa2048 => rsa(2048),
            KeyAlgorithm::Rsa3072 => rsa(3072),
            KeyAlgorithm::Rsa4096 => rsa(4096),
            KeyAlgorithm::Rsa8192 => rsa(8192),
            KeyAlgorithm::EcdsaP256 => ecc("P256"),
            KeyAlgorithm::EcdsaP384 => ecc("P384"),
            KeyAlgorithm::EcdsaP521 => ecc("P521"),
            KeyAlgorithm::Ed25519 => {
                let message = "TPP signs no Ed25519 keys: set key-algorithm to ECDSA or RSA";
                return Err(IssueError::new(crate::issuer::IssueErrorKind::Denied, message));
            }
        })
    }
}

impl Policy {
    /// Whether `folder` takes what `order` asks for with `key`.
    ///
    /// # Errors
    ///
    /// `Denied`, with what to change.
    pub(super) fn check(
        &self,
        folder: &str,
        order: &Order<'_>,
        key: &Key,
    ) -> Result<(), IssueError> {
        self.check_enrolment(folder)?;
        self.check_key(folder, key)?;
        self.check_names(folder, order.spec)
    }

    /// Whether `folder` has requests of others signed at all.
    ///
    /// # Errors
    ///
    /// `Denied`, with what to change.
    pub(super) fn check_enrolment(&self, folder: &str) -> Result<(), IssueError> {
        let is = |setting: &Setting<String>, value: &str| {
            setting.value.as_deref().is_some_and(|set| set.eq_ignore_ascii_case(value))
        };
        if let Some(kind) =
            ["Monitoring", "Unassigned"].into_iter().find(|kind| is(&self.management_type, kind))
        {
            let message = format!(
                "has the management type {kind}, with which it issues nothing: set Enrollment"
            );
            return Err(denied(folder, message));
        }
        let generated = |value| is(&self.csr_generation, value) && self.csr_generation.locked;
        // Older versions write the Boolean behind it.
        if generated("ServiceGenerated") || is(&self.csr_generation, "0") {
            return Err(denied(
                folder,
                "takes no requests made elsewhere, and keys of pods never leave their node: set \
                 CSR Generation to User Provided",
            ));
        }
        Ok(())
    }

    fn check_key(&self, folder: &str, key: &Key) -> Result<(), IssueError> {
        let KeyPair { key_algorithm, key_size, elliptic_curve } = &self.key_pair;
        let locked = key_algorithm.locked();
        if let Some(algorithm) = locked.filter(|it| !it.eq_ignore_ascii_case(key.key_algorithm)) {
            let ours = if algorithm.eq_ignore_ascii_case("ECC") { "ECDSA" } else { algorithm };
            let message = format!("takes {} keys only: set key-algorithm to {0}", words(ours));
            return Err(denied(folder, message));
        }
        match (key.key_bit_size, key_size.locked(), elliptic_curve.locked()) {
            (Some(size), Some(locked), _) if *locked != 0 && *locked != size => {
                Err(denied(folder, format!("takes RSA keys of {locked} bits only: set key-size")))
            }
            (None, _, Some(curve))
                if key.elliptic_curve.is_some_and(|ours| !ours.eq_ignore_ascii_case(curve)) =>
            {
                let curve = words(curve);
                Err(denied(folder, format!("takes keys on the curve {curve} only: set key-size")))
            }
            _ => Ok(()),
        }
    }

    fn check_names(&self, folder: &str, spec: &CertificateSpec) -> Result<(), IssueError> {
        let forbidden = |allowed: Option<bool>| allowed == Some(false);
        for name in &spec.template.subject_alt_names {
            let (kind, attribute, allowed) = match name {
                GeneralName::Dns(_) => ("DNS names", "dns-names", self.subj_alt_name_dns_allowed),
                GeneralName::Email(_) => {
                    ("e-mail addresses", "email-sans", self.subj_alt_name_email_allowed)
                }
                GeneralName::Ip(_) => ("IP addresses", "ip-sans", self.subj_alt_name_ip_allowed),
                GeneralName::Uri(_) => ("URIs", "uri-sans", self.subj_alt_name_uri_allowed),
            };
            if forbidden(allowed) {
                let message =
                    format!("does not allow {kind} in certificates: take out {attribute}");
                return Err(denied(folder, message));
            }
            if forbidden(self.wildcards_allowed) && name.value().starts_with("*.") {
                let message = format!("does not allow wildcards: take out {name}");
                return Err(denied(folder, message));
            }
        }
        Ok(())
    }
}

impl<T> Setting<T> {
    fn locked(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.locked)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::issuer::venafi::tests::Volume;

    /// What the policy says of a volume with a P-256 key and the name `*.web.example`.
    fn checked(policy: Value) -> Result<(), String> {
        let policy: Policy = serde_json::from_value(policy).unwrap();
        Volume::new("web-0").order(|order| {
            let key = Key::of(&order).unwrap();
            policy.check("shop", &order, &key).map_err(|error| error.message)
        })
    }

    #[test]
    fn what_is_suggested_is_no_rule() {
        for policy in [
            json!({}),
            json!({"CsrGeneration": {"Locked": false, "Value": "ServiceGenerated"}}),
            json!({"KeyPair": {"KeyAlgorithm": {"Locked": false, "Value": "RSA"}}}),
            json!({"KeyPair": {"KeyAlgorithm": {"Locked": true, "Value": "ecc"},
                               "EllipticCurve": {"Locked": true, "Value": "p256"}}}),
            json!({"KeyPair": {"KeySize": {"Locked": true, "Value": 2048}}}),
            json!({"ManagementType": {"Locked": true, "Value": "Enrollment"}}),
            json!({"SubjAltNameUriAllowed": false, "WhitelistedDomains": ["x"], "Unknown": [1]}),
        ] {
            assert_eq!(checked(policy.clone()), Ok(()), "{policy}");
        }
    }

    #[test]
    fn what_is_ruled_out_is_told_with_what_to_change() {
        let locked = |value: &str| json!({"Locked": true, "Value": value});
        for (policy, said) in [
            (json!({"KeyPair": {"KeyAlgorithm": locked("RSA")}}), "set key-algorithm to RSA"),
            (json!({"KeyPair": {"EllipticCurve": locked("P521")}}), "on the curve P521 only"),
            (json!({"CsrGeneration": locked("ServiceGenerated")}), "User Provided"),
            (json!({"CsrGeneration": {"Value": "0"}}), "User Provided"),
            (json!({"ManagementType": {"Value": "Unassigned"}}), "set Enrollment"),
            (json!({"SubjAltNameDnsAllowed": false}), "take out dns-names"),
            (json!({"WildcardsAllowed": false}), "take out dns:*.web.example"),
        ] {
            let error = checked(policy.clone()).unwrap_err();
            assert!(error.starts_with("the zone shop "), "{error}");
            assert!(error.contains(said), "{policy}: {error}");
        }
    }
}
