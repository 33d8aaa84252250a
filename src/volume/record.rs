//! What a volume asked for, as kept in its tmpfs.
//!
//! `record.json` holds the request, `secrets.json` the passwords that came with it, in a Secret or
//! in attributes; both are for root alone, and the second is zeroized wherever it passes. The
//! passwords must outlive this process: a renewal after a restart needs them, and kubelet does not
//! bring them again. Service account tokens are in neither file: a [`Record`] cannot hold one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::IpAddr;

use aws_lc_rs::digest::SHA256_OUTPUT_LEN;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Result;
use super::directory::Directory;
use crate::spec::request::{NodeContext, PublishRequest, RawRequest, RequestError, Secrets};
use crate::spec::tokens::TOKENS;
use crate::x509::sha256;

/// What is needed to carry on after a restart: the request as it came, less tokens. Passwords are
/// kept apart from the rest, and neither is ever printed.
pub struct Record {
    volume_id: String,
    target_path: String,
    volume_mount_group: String,
    pod_ip: Option<IpAddr>,
    read_only: bool,
    attributes: BTreeMap<String, String>,
    secrets: Secrets,
}

impl Record {
    /// The record of a NodePublishVolume request. Attributes that are secret are kept with
    /// `secrets`. Tokens are dropped: they expire, and nobody who reads the volume's tmpfs shall
    /// find one.
    pub fn new(request: RawRequest<'_>, read_only: bool, mut secrets: Secrets) -> Self {
        let mut attributes = request.attributes.clone();
        secrets.take_from(&mut attributes);
        secrets.0.remove(TOKENS);
        Self {
            volume_id: request.volume_id.to_owned(),
            target_path: request.target_path.to_owned(),
            volume_mount_group: request.volume_mount_group.to_owned(),
            pod_ip: request.pod_ip,
            read_only,
            attributes,
            secrets,
        }
    }

    /// The request, parsed anew.
    ///
    /// # Errors
    ///
    /// As for [`PublishRequest::parse`]: a driver with other settings may refuse what an earlier
    /// one took.
    pub fn request(&self, node: &NodeContext) -> Result<PublishRequest, RequestError> {
        PublishRequest::parse(self.raw(), &self.secrets, node)
    }

    /// The request as kubelet made it.
    pub fn raw(&self) -> RawRequest<'_> {
        RawRequest {
            volume_id: &self.volume_id,
            target_path: &self.target_path,
            attributes: &self.attributes,
            volume_mount_group: &self.volume_mount_group,
            pod_ip: self.pod_ip,
        }
    }

    /// The same with the pod's address, which somebody has found out.
    #[must_use]
    pub fn with_pod_ip(self, pod_ip: Option<IpAddr>) -> Self {
        Self { pod_ip, ..self }
    }

    /// Whether the volume was asked for read-only.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// What to compare it by later, once it is stored.
    pub fn fingerprint(&self) -> Fingerprint {
        let request = (
            (&self.volume_id, &self.target_path, &self.volume_mount_group, self.read_only),
            &self.attributes,
            self.secrets.attributes().collect::<BTreeMap<_, _>>(),
        );
        let request =
            Zeroizing::new(serde_json::to_vec(&request).expect("string maps are always JSON"));
        Fingerprint { request: sha256(&request), secrets: sha256(&secrets_json(&self.secrets)) }
    }

    /// Writes the record in place of the one there. `record.json` comes last: where it is, the
    /// rest is whole.
    pub(super) fn store(&self, directory: &Directory) -> Result<()> {
        match self.secrets.0.is_empty() {
            true => directory.remove(OsStr::new(SECRETS_FILE))?,
            false => directory.replace(OsStr::new(SECRETS_FILE), &secrets_json(&self.secrets))?,
        }
        let record = RecordJson {
            version: VERSION,
            volume_id: Cow::Borrowed(&self.volume_id),
            target_path: Cow::Borrowed(&self.target_path),
            volume_mount_group: Cow::Borrowed(&self.volume_mount_group),
            pod_ip: self.pod_ip,
            read_only: self.read_only,
            attributes: Cow::Borrowed(&self.attributes),
        };
        let json = serde_json::to_vec(&record).expect("strings and string maps are always JSON");
        directory.replace(OsStr::new(RECORD_FILE), &json)
    }

    /// Reads the record that [`Record::store`] wrote; `None` where there is none.
    pub(super) fn load(directory: &Directory) -> Result<Option<Self>> {
        let Some(json) = directory.read(OsStr::new(RECORD_FILE))? else { return Ok(None) };
        let mut record = Self::from_json(&json).map_err(directory.error("read", RECORD_FILE))?;
        if let Some(json) = directory.read(OsStr::new(SECRETS_FILE))? {
            let secrets: BTreeMap<String, String> =
                parse_json(&json).map_err(directory.error("read", SECRETS_FILE))?;
            record.secrets.0 =
                secrets.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect();
        }
        Ok(Some(record))
    }

    /// Reads a `record.json`, which holds no secrets.
    ///
    /// # Errors
    ///
    /// What certmount did not write, or another version of it; the message says what to do.
    pub fn from_json(json: &[u8]) -> io::Result<Self> {
        let record = parse(json)?;
        Ok(Self {
            volume_id: record.volume_id.into_owned(),
            target_path: record.target_path.into_owned(),
            volume_mount_group: record.volume_mount_group.into_owned(),
            pod_ip: record.pod_ip,
            read_only: record.read_only,
            attributes: record.attributes.into_owned(),
            secrets: Secrets::default(),
        })
    }
}

/// What tells a record from another one. A node keeps it for each volume, where the record itself
/// would be a fifth of what it takes.
#[derive(Clone, Copy, Debug)]
pub struct Fingerprint {
    request: [u8; SHA256_OUTPUT_LEN],
    secrets: [u8; SHA256_OUTPUT_LEN],
}

impl Fingerprint {
    /// Whether both ask for the same volume in the same way, so that a second NodePublishVolume
    /// call changes nothing. A Secret's values do not count, and what kubelet did not say neither.
    pub fn same_request(&self, other: &Self) -> bool {
        self.request == other.request
    }

    /// Whether `other` brings the same passwords.
    pub fn same_secrets(&self, other: &Self) -> bool {
        self.secrets == other.secrets
    }
}

/// Names only: what is not known to be secret may be so all the same.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("request", &self.raw())
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

const RECORD_FILE: &str = "record.json";
const SECRETS_FILE: &str = "secrets.json";

/// Of the format; a change that older readers would get wrong makes it one more.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct RecordJson<'a> {
    version: u32,
    volume_id: Cow<'a, str>,
    target_path: Cow<'a, str>,
    volume_mount_group: Cow<'a, str>,
    pod_ip: Option<IpAddr>,
    read_only: bool,
    attributes: Cow<'a, BTreeMap<String, String>>,
}

fn parse(json: &[u8]) -> io::Result<RecordJson<'static>> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = parse_json(json)?;
    if version != VERSION {
        return Err(invalid(format!(
            "its format is version {version} and this certmount knows {VERSION} only; \
             go back to the certmount that wrote it, or delete the pod to have it made anew"
        )));
    }
    parse_json(json)
}

/// serde's own message would quote what it read.
fn parse_json<T: serde::de::DeserializeOwned>(json: &[u8]) -> io::Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        invalid(format!(
            "not what certmount wrote (line {}, column {}); delete the pod to have it made anew",
            error.line(),
            error.column()
        ))
    })
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

fn secrets_json(secrets: &Secrets) -> Zeroizing<Vec<u8>> {
    let values: BTreeMap<&str, &str> =
        secrets.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    // Room for everything escaped: a buffer that grew would leave copies in freed memory.
    let room = values.iter().map(|(name, value)| 6 * (name.len() + value.len() + 1)).sum::<usize>();
    let mut json = Zeroizing::new(Vec::with_capacity(room + 2));
    serde_json::to_writer(&mut *json, &values).expect("a map of strings is always JSON");
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes() -> BTreeMap<String, String> {
        let pairs = [
            ("certmount.dev/dns-names", "a.b\n\"é\""),
            ("certmount.dev/pkcs12-password", "sësame-inline"),
            (TOKENS, "{\"\":\"token\"}"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    fn secrets() -> Secrets {
        let pairs = [("keystore-password", "sësame\u{1}"), (TOKENS, "token")];
        Secrets(pairs.map(|(name, value)| (name.into(), Zeroizing::new(value.into()))).into())
    }

    fn record(attributes: &BTreeMap<String, String>, secrets: Secrets) -> Record {
        let raw = RawRequest {
            volume_id: "csi-1",
            target_path: "/pods/1/mount",
            attributes,
            volume_mount_group: "2000",
            pod_ip: Some([10, 0, 0, 1].into()),
        };
        Record::new(raw, true, secrets)
    }

    fn directory() -> (tempfile::TempDir, Directory) {
        let path = tempfile::tempdir().unwrap();
        let directory = Directory::open(path.path()).unwrap();
        (path, directory)
    }

    #[test]
    fn comes_back_as_it_was_stored_less_tokens() {
        let (path, directory) = directory();
        assert!(Record::load(&directory).unwrap().is_none());
        record(&attributes(), secrets()).store(&directory).unwrap();
        let loaded = Record::load(&directory).unwrap().unwrap();
        assert!(loaded.fingerprint().same_request(&record(&attributes(), secrets()).fingerprint()));
        assert_eq!(loaded.raw().pod_ip, Some([10, 0, 0, 1].into()));
        assert_eq!(loaded.secrets.0["keystore-password"].as_str(), "sësame\u{1}");
        assert_eq!(
            loaded.secrets.attributes().collect::<Vec<_>>(),
            [("certmount.dev/pkcs12-password", "sësame-inline")]
        );
        for file in [RECORD_FILE, SECRETS_FILE] {
            let text = std::fs::read_to_string(path.path().join(file)).unwrap();
            assert!(!text.contains("token"), "{file}: {text}");
            let mode = std::fs::metadata(path.path().join(file)).unwrap();
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
        }
        assert!(
            !std::fs::read_to_string(path.path().join(RECORD_FILE)).unwrap().contains("sësame")
        );
    }

    #[test]
    fn storing_without_secrets_removes_the_old_ones() {
        let (path, directory) = directory();
        record(&attributes(), secrets()).store(&directory).unwrap();
        let open = BTreeMap::from([("certmount.dev/dns-names".to_owned(), "a.b".to_owned())]);
        record(&open, Secrets::default()).store(&directory).unwrap();
        assert!(Record::load(&directory).unwrap().unwrap().secrets.0.is_empty());
        assert!(!path.path().join(SECRETS_FILE).exists());
    }

    #[test]
    fn only_what_kubelet_said_counts_for_sameness() {
        let first = record(&attributes(), secrets());
        let one = first.fingerprint();
        assert!(one.same_request(&record(&attributes(), Secrets::default()).fingerprint()));
        let mut fresh_token = attributes();
        fresh_token.insert(TOKENS.to_owned(), "another".to_owned());
        assert!(one.same_request(&record(&fresh_token, secrets()).fingerprint()));
        let mut other = attributes();
        other.insert("certmount.dev/duration".to_owned(), "1h".to_owned());
        assert!(!one.same_request(&record(&other, secrets()).fingerprint()));
        other = attributes();
        other.insert("certmount.dev/pkcs12-password".to_owned(), "another".to_owned());
        assert!(!one.same_request(&record(&other, secrets()).fingerprint()));
        let raw = RawRequest { volume_mount_group: "", ..first.raw() };
        assert!(!one.same_request(&Record::new(raw, true, secrets()).fingerprint()));
        assert!(!one.same_request(&Record::new(first.raw(), false, secrets()).fingerprint()));
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "damage on purpose")]
    fn damage_is_an_error_that_quotes_nothing() {
        let (path, directory) = directory();
        record(&attributes(), secrets()).store(&directory).unwrap();
        let whole = std::fs::read(path.path().join(SECRETS_FILE)).unwrap();
        for (file, text) in [
            (SECRETS_FILE, &b"\"sesame\""[..]),
            (SECRETS_FILE, &whole[..whole.len() - 3]),
            (RECORD_FILE, b"{\"version\":1,\"volume_id\":{\"sesame\":1}}"),
            (RECORD_FILE, b"{\"version\":2}"),
            (RECORD_FILE, b""),
        ] {
            std::fs::write(path.path().join(file), text).unwrap();
            let error = Record::load(&directory).unwrap_err();
            let told = format!("{error} {:?} {}", error, error.source);
            assert!(told.contains(file) && told.contains("delete the pod"), "{told}");
            assert!(!told.contains("sesame") && !told.contains("sësame"), "{told}");
            record(&attributes(), secrets()).store(&directory).unwrap();
        }
    }

    #[test]
    fn debug_prints_no_value() {
        let told = format!("{:?}", record(&attributes(), secrets()));
        for secret in ["a.b", "sësame", "token\""] {
            assert!(!told.contains(secret), "{told}");
        }
    }
}
