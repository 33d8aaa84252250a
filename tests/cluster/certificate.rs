//! A pod's certificate as a stranger to certmount sees it: through OpenSSL.

use std::io::Write as _;
use std::process::Command;

use crate::common::output_with;

/// A leaf that verified, with its key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Certificate {
    /// In hexadecimal.
    pub(crate) serial: String,
    /// As `openssl x509 -ext subjectAltName` prints them.
    pub(crate) names: String,
    /// The public key, in PEM.
    pub(crate) public_key: String,
}

impl Certificate {
    /// Reads the contents of `tls.crt`, `tls.key` and `ca.crt`, in this order.
    ///
    /// # Panics
    ///
    /// When the leaf does not verify, or the key is not its key.
    pub(crate) fn verified(bundle: &str) -> Self {
        let (chain, _, anchors) = split(bundle);
        let folder = tempfile::tempdir().unwrap();
        let [anchors, intermediates] =
            [("ca.crt", anchors), ("tls.crt", chain)].map(|(name, pem)| {
                let file = folder.path().join(name);
                std::fs::File::create(&file).unwrap().write_all(pem.as_bytes()).unwrap();
                file.into_os_string().into_string().unwrap()
            });
        let verify = ["verify", "-x509_strict", "-purpose", "sslserver"];
        let files = ["-CAfile", &anchors, "-untrusted", &intermediates];
        openssl(&[&verify[..], &files].concat(), chain);
        Self::read(bundle)
    }

    /// The same of a leaf that may have expired.
    ///
    /// # Panics
    ///
    /// When the key is not its key.
    pub(crate) fn read(bundle: &str) -> Self {
        let (chain, key, _) = split(bundle);
        let certificate = Self {
            serial: openssl(&["x509", "-noout", "-serial"], chain),
            names: openssl(&["x509", "-noout", "-ext", "subjectAltName"], chain),
            public_key: openssl(&["x509", "-noout", "-pubkey"], chain),
        };
        assert_eq!(openssl(&["pkey", "-pubout"], key), certificate.public_key);
        certificate
    }
}

/// The chain, the key and the trust anchors.
fn split(bundle: &str) -> (&str, &str, &str) {
    let key_at = bundle[..bundle.find(" KEY-----").unwrap()].rfind("-----BEGIN").unwrap();
    let (chain, rest) = bundle.split_at(key_at);
    let (key, anchors) = rest.split_at(rest.find("-----BEGIN CERTIFICATE").unwrap());
    (chain, key, anchors)
}

/// A new root CA: its certificate and its key, in PEM.
pub(crate) fn root_ca() -> (String, String) {
    let made = openssl(
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-noenc",
            "-subj",
            "/CN=test root CA",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
            "-days",
            "1",
            "-keyout",
            "-",
        ],
        "",
    );
    let certificate_at = made.find("-----BEGIN CERTIFICATE").unwrap();
    (made[certificate_at..].to_owned(), made[..certificate_at].to_owned())
}

/// What openssl prints, trimmed, with `input` to read.
///
/// # Panics
///
/// When it fails, with what it says.
pub(crate) fn openssl(args: &[&str], input: impl AsRef<[u8]>) -> String {
    let output = output_with(Command::new("openssl").args(args), input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
