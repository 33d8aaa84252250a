//! Keys as JOSE knows them: JSON Web Keys (RFC 7517) and the signatures of JWS (RFC 7515).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use der::asn1::UintRef;
use der::{Decode as _, Sequence};

use super::{KeyAlgorithm, KeyError, PrivateKey, sha256};

/// The public half of a key as a JSON Web Key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Jwk(String);

impl Jwk {
    /// The canonical JSON (RFC 7638 §3.2).
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// Base64url of the SHA-256 thumbprint (RFC 7638 §3), which is no secret.
    pub fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(sha256(self.0.as_bytes()))
    }
}

impl PrivateKey {
    /// The public half as a JSON Web Key.
    pub fn jwk(&self) -> Jwk {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let public = self.public_key_bytes();
        Jwk(match curve(self.algorithm()) {
            Some("Ed25519") => {
                format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, encode(public))
            }
            Some(curve) => {
                // An uncompressed point: 4, then both coordinates in full length (SEC 1 §2.3.3).
                let (x, y) = public[1..].split_at(public.len() / 2);
                let (x, y) = (encode(x), encode(y));
                format!(r#"{{"crv":"{curve}","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
            None => {
                let key = RsaPublicKey::from_der(public).expect("aws-lc writes PKCS#1");
                let (e, n) = (encode(key.exponent.as_bytes()), encode(key.modulus.as_bytes()));
                format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#)
            }
        })
    }

    /// The `alg` of signatures by this key (RFC 7518 §3.1, RFC 8037 §3.1).
    pub fn jws_algorithm(&self) -> &'static str {
        match self.algorithm() {
            KeyAlgorithm::EcdsaP256 => "ES256",
            KeyAlgorithm::EcdsaP384 => "ES384",
            KeyAlgorithm::EcdsaP521 => "ES512",
            KeyAlgorithm::Ed25519 => "EdDSA",
            KeyAlgorithm::Rsa2048
            | KeyAlgorithm::Rsa3072
            | KeyAlgorithm::Rsa4096
            | KeyAlgorithm::Rsa8192 => "RS256",
        }
    }

    /// A signature in the form of JWS: for ECDSA both numbers in full length (RFC 7518 §3.4).
    ///
    /// # Errors
    ///
    /// Only if the cryptographic library fails.
    pub fn jws_signature(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.sign(message)?;
        let size = match self.algorithm() {
            KeyAlgorithm::EcdsaP256 => 32,
            KeyAlgorithm::EcdsaP384 => 48,
            KeyAlgorithm::EcdsaP521 => 66,
            _ => return Ok(signature),
        };
        let pair = EcdsaSignature::from_der(&signature).expect("aws-lc writes RFC 3279");
        let mut fixed = vec![0; 2 * size];
        for (number, place) in [pair.r, pair.s].iter().zip(fixed.chunks_mut(size)) {
            let bytes = number.as_bytes();
            place[size - bytes.len()..].copy_from_slice(bytes);
        }
        Ok(fixed)
    }
}

fn curve(algorithm: KeyAlgorithm) -> Option<&'static str> {
    match algorithm {
        KeyAlgorithm::EcdsaP256 => Some("P-256"),
        KeyAlgorithm::EcdsaP384 => Some("P-384"),
        KeyAlgorithm::EcdsaP521 => Some("P-521"),
        KeyAlgorithm::Ed25519 => Some("Ed25519"),
        _ => None,
    }
}

/// RSAPublicKey (RFC 8017 §A.1.1).
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

/// ECDSA-Sig-Value (RFC 3279 §2.2.3).
#[derive(Sequence)]
struct EcdsaSignature<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};

    use super::*;

    /// The example of RFC 7638 §3.1.
    #[test]
    fn the_thumbprint_is_that_of_the_standard() {
        let jwk = Jwk(r#"{"e":"AQAB","kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}"#.to_owned());
        assert_eq!(jwk.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn signatures_have_the_form_of_jws_and_verify() {
        let algorithms: [(KeyAlgorithm, &'static dyn VerificationAlgorithm, &str); 5] = [
            (KeyAlgorithm::EcdsaP256, &signature::ECDSA_P256_SHA256_FIXED, "ES256"),
            (KeyAlgorithm::EcdsaP384, &signature::ECDSA_P384_SHA384_FIXED, "ES384"),
            (KeyAlgorithm::EcdsaP521, &signature::ECDSA_P521_SHA512_FIXED, "ES512"),
            (KeyAlgorithm::Ed25519, &signature::ED25519, "EdDSA"),
            (KeyAlgorithm::Rsa2048, &signature::RSA_PKCS1_2048_8192_SHA256, "RS256"),
        ];
        for (algorithm, verification, name) in algorithms {
            let key = PrivateKey::generate(algorithm).unwrap();
            assert_eq!(key.jws_algorithm(), name);
            // Numbers with leading zeros come once in 128 signatures.
            let rounds = if algorithm == KeyAlgorithm::EcdsaP256 { 600 } else { 1 };
            for round in 0..rounds {
                let message = format!("message {round}");
                let signature = key.jws_signature(message.as_bytes()).unwrap();
                let public = UnparsedPublicKey::new(verification, key.public_key_bytes());
                public.verify(message.as_bytes(), &signature).unwrap();
            }
            let json: serde_json::Value = serde_json::from_str(key.jwk().as_json()).unwrap();
            assert!(json["kty"].is_string());
        }
    }
}
