//! Certificate Manager, Self-Hosted, which was the Trust Protection Platform: its Web SDK.
//!
//! A certificate is an object in a policy folder, and stays it through all of its renewals. Objects
//! are named after volumes, so that no volume ever fetches the certificate of another.

mod policy;
mod session;

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use data_encoding::HEXLOWER;
use hyper::StatusCode;
use hyper::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::policy::{Key, Policy};
pub(super) use self::session::Login;
use self::session::Session;
use super::{Keep, Progress, Service, certificates, denied, requester_name};
use crate::clock::{Clock, Timestamp};
use crate::issuer::web::{Answer, Web, place, words};
use crate::issuer::{IssueError, IssueErrorKind, Order, Requester, later};
use crate::spec::object::{CustomField, ServerUrl};

/// A policy folder of a server, and who we are there.
#[derive(Debug)]
pub(super) struct Tpp {
    sdk: Sdk,
    session: Session,
    /// The distinguished name of the folder.
    folder: String,
    custom_fields: Vec<CustomField>,
    clock: Clock,
}

/// What a volume says of its own to custom fields: cert-manager's annotation.
const CUSTOM_FIELDS: &str = "venafi.cert-manager.io/custom-fields";

/// What the server says certificates are from.
const ORIGIN: &str = "certmount";

/// The server answers a request when the CA has decided, or after so many seconds.
const WORK_TIMEOUT: &str = "20";

impl Tpp {
    pub(super) fn new(
        sdk: Sdk,
        zone: &str,
        login: Login,
        custom_fields: Vec<CustomField>,
        clock: Clock,
    ) -> Self {
        let session = Session::new(login);
        Self { sdk, session, folder: folder(zone), custom_fields, clock }
    }

    /// Calls `path` as who we are, a second time with new tokens where the first are out of date.
    async fn call(&self, path: &str, body: &impl Serialize) -> Result<Answer, IssueError> {
        let tokens = self.session.tokens(&self.sdk, None).await?;
        let answer = self.sdk.post(path, Some(tokens.access()), body).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let tokens = self.session.tokens(&self.sdk, Some((&tokens, &answer))).await?;
        self.sdk.post(path, Some(tokens.access()), body).await
    }

    async fn policy(&self) -> Result<Policy, IssueError> {
        let asked = CheckPolicy { policy_dn: &self.folder };
        let answer = self.call("vedsdk/certificates/checkpolicy", &asked).await?;
        if answer.status == StatusCode::OK {
            return Ok(answer.json::<CheckedPolicy>()?.policy);
        }
        let said = said(&answer).unwrap_or_default();
        if answer.status == StatusCode::BAD_REQUEST && said.contains("does not exist") {
            let message = format!(
                "{} has no policy folder {}, or none that these credentials may see: correct zone",
                self.sdk.place(),
                words(&self.folder)
            );
            return Err(IssueError::new(IssueErrorKind::Config, message));
        }
        Err(refused(&answer))
    }

    /// Clears what is left of an earlier enrolment that failed: until then the object takes no
    /// other. A certificate that it has stays.
    async fn reset(&self, dn: &str) -> Result<(), IssueError> {
        let object = CertificateObject { certificate_dn: dn };
        let answer = self.call("vedsdk/certificates/reset", &object).await?;
        let said = said(&answer).unwrap_or_default();
        match answer.status {
            StatusCode::OK => Ok(()),
            StatusCode::BAD_REQUEST if said.contains("No reset is required") => Ok(()),
            // It is about to be made.
            StatusCode::BAD_REQUEST if said.contains("does not exist") => Ok(()),
            _ => Err(refused(&answer)),
        }
    }

    /// The custom fields of one certificate: those of the volume in place of the issuer's.
    fn custom_fields(&self, order: &Order<'_>) -> Result<Vec<CustomFieldValues>, IssueError> {
        let of_volume: Vec<CustomField> = match order.annotations.get(CUSTOM_FIELDS) {
            Some(text) => serde_json::from_str(text).map_err(|error| {
                let message = format!(
                    "the attribute {CUSTOM_FIELDS} is not a list such as \
                     [{{\"name\": \"Cost center\", \"value\": \"4711\"}}]"
                );
                IssueError::new(IssueErrorKind::Denied, message).caused_by(error)
            })?,
            None => Vec::new(),
        };
        let overridden =
            |field: &&CustomField| of_volume.iter().any(|other| other.name == field.name);
        let of_issuer = self.custom_fields.iter().filter(|field| !overridden(field));
        let mut fields: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for CustomField { name, value, .. } in of_issuer.chain(&of_volume) {
            fields.entry(name).or_default().push(value.clone());
        }
        let fields = fields.into_iter();
        Ok(fields
            .map(|(name, values)| CustomFieldValues { name: name.to_owned(), values })
            .collect())
    }
}

#[async_trait]
impl Service for Tpp {
    fn label(&self) -> String {
        format!("{} {}", self.sdk.base, self.folder)
    }

    async fn request(&self, order: &Order<'_>, keep: Keep<'_>) -> Result<String, IssueError> {
        let key = Key::of(order)?;
        if order.spec.template.subject.is_empty() {
            return Err(denied(
                &self.folder,
                "takes no certificate without a subject: set common-name",
            ));
        }
        let custom_fields = self.custom_fields(order)?;
        self.policy().await?.check(&self.folder, order, &key)?;

        let object_name = object_name(order);
        let dn = format!(r"{}\{object_name}", self.folder);
        self.reset(&dn).await?;
        // A request can arrive though its answer does not. With an old key its certificate could
        // not be told from the one before.
        if !order.spec.reuse_private_key {
            keep(&dn)?;
        }
        let end = later(self.clock.now(), order.spec.duration);
        let request = CertificateRequest {
            policy_dn: &self.folder,
            object_name: &object_name,
            pkcs10: order.request.to_pem(),
            key,
            certificate_type: "AUTO",
            disable_automatic_renewal: true,
            reenable: true,
            origin: ORIGIN,
            ca_specific_attributes: ca_specific_attributes(end),
            custom_fields,
            work_to_do_timeout: WORK_TIMEOUT,
        };
        let answer = self.call("vedsdk/certificates/request", &request).await?;
        match answer.status {
            StatusCode::OK | StatusCode::CREATED => {
                Ok(answer.json::<RequestedCertificate>()?.certificate_dn)
            }
            _ => Err(refused(&answer)),
        }
    }

    async fn retrieve(&self, id: &str) -> Result<Progress, IssueError> {
        let asked =
            RetrieveCertificate { certificate_dn: id, format: "base64", include_chain: true };
        let answer = self.call("vedsdk/certificates/retrieve", &asked).await?;
        match answer.status {
            StatusCode::OK => {
                let data = answer.json::<RetrievedCertificate>()?.certificate_data;
                let pem = STANDARD.decode(data.trim()).map_err(|error| {
                    let place = answer.place();
                    let message =
                        format!("the certificate that {place} answered with is not base64");
                    IssueError::new(IssueErrorKind::BadResponse, message).caused_by(error)
                })?;
                certificates(&answer, &pem).map(Progress::Issued)
            }
            StatusCode::ACCEPTED => {
                let stage = answer.json::<Stage>()?;
                Ok(Progress::Pending(format!(
                    "{} has not issued the certificate yet: {stage}; if it waits for an approval, \
                     have {} approved there",
                    self.sdk.place(),
                    words(id),
                )))
            }
            StatusCode::INTERNAL_SERVER_ERROR => {
                match serde_json::from_slice::<Stage>(&answer.body) {
                    Ok(stage) => Ok(Progress::Failed {
                        again: !stage.status.to_ascii_lowercase().contains("reject"),
                        reason: format!(
                            "{} could not have the certificate {} issued: {stage}",
                            self.sdk.place(),
                            words(id),
                        ),
                    }),
                    Err(_) => Err(refused(&answer)),
                }
            }
            StatusCode::BAD_REQUEST
                if said(&answer).is_some_and(|said| said.contains("does not exist")) =>
            {
                Ok(Progress::Unknown)
            }
            _ => Err(refused(&answer)),
        }
    }

    async fn probe(&self) -> Result<(), IssueError> {
        self.policy().await?.check_enrolment(&self.folder)
    }

    fn warning(&self, now: Timestamp) -> Option<String> {
        self.session.warning(now)
    }
}

/// The Web SDK of a server.
pub(super) struct Sdk {
    web: Web,
    base: ServerUrl,
}

impl Sdk {
    pub(super) fn new(web: Web, base: ServerUrl) -> Self {
        Self { web, base }
    }

    /// The server, for people.
    fn place(&self) -> String {
        place(self.base.url())
    }

    async fn get(&self, path: &str, token: &str) -> Result<Answer, IssueError> {
        let request = self.web.get(&self.base.join(path));
        request.secret(AUTHORIZATION, &format!("Bearer {token}")).send().await
    }

    async fn post(
        &self,
        path: &str,
        token: Option<&str>,
        body: &impl Serialize,
    ) -> Result<Answer, IssueError> {
        let mut request = self.web.post(&self.base.join(path)).json(body);
        if let Some(token) = token {
            request = request.secret(AUTHORIZATION, &format!("Bearer {token}"));
        }
        request.send().await
    }
}

impl fmt::Debug for Sdk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sdk").field(&self.base).finish()
    }
}

/// An answer that is not what was hoped for.
fn refused(answer: &Answer) -> IssueError {
    if answer.status == StatusCode::NOT_FOUND {
        let message = format!("{} has no Web SDK: correct tpp.url", answer.place());
        return IssueError::new(IssueErrorKind::Config, message);
    }
    answer.error(said(answer).as_deref())
}

/// What the server has to say in its body; some of it says it in the reason phrase only.
fn said(answer: &Answer) -> Option<String> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    let text = |key: &str| body.get(key)?.as_str().filter(|text| !text.is_empty());
    let keys = ["Error", "error_description", "error", "Status", "Message"];
    keys.into_iter().find_map(text).map(str::to_owned)
}

/// The distinguished name of a zone.
fn folder(zone: &str) -> String {
    const POLICY: &str = r"\VED\Policy";
    let zone = zone.trim().trim_end_matches('\\');
    match zone.get(..POLICY.len()) {
        Some(start) if start.eq_ignore_ascii_case(POLICY) => zone.to_owned(),
        _ => format!(r"{POLICY}\{}", zone.trim_start_matches('\\')),
    }
}

/// The name of the object: whom it is for, for people, and what nobody else has.
fn object_name(order: &Order<'_>) -> String {
    /// Leaves room for the rest in the 255 characters that a name may have.
    const LONGEST: usize = 200;
    let (first, second) = requester_name(order);
    let id = match order.requester {
        Requester::Volume { id, .. } => id.as_str().as_bytes(),
        // Other clusters can have a node and an issuer of the same names.
        Requester::Node { .. } => order.key.public_key_info(),
    };
    let hash = digest::digest(&digest::SHA256, id);
    let hash = HEXLOWER.encode(&hash.as_ref()[..16]);
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let name = format!("{first}.{second}");
    let name: String = name.chars().filter(is_plain).take(LONGEST).collect();
    format!("{name}-{hash}")
}

/// When the certificate shall end, under the names that the drivers of different CAs read.
fn ca_specific_attributes(end: Timestamp) -> Vec<NameValue> {
    let seconds = Timestamp::from_second(end.as_second()).unwrap_or(end).to_string();
    let of =
        |ca: &str| NameValue { name: format!("{ca}Specific End Date"), value: seconds.clone() };
    let origin = NameValue { name: "Origin".to_owned(), value: ORIGIN.to_owned() };
    let ends = ["", "Microsoft CA:", "DigiCert CA:", "EntrustNET CA:"].map(of);
    [origin].into_iter().chain(ends).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CheckPolicy<'a> {
    #[serde(rename = "PolicyDN")]
    policy_dn: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CheckedPolicy {
    policy: Policy,
}

#[derive(Serialize)]
struct CertificateObject<'a> {
    #[serde(rename = "CertificateDN")]
    certificate_dn: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CertificateRequest<'a> {
    #[serde(rename = "PolicyDN")]
    policy_dn: &'a str,
    object_name: &'a str,
    #[serde(rename = "PKCS10")]
    pkcs10: String,
    #[serde(flatten)]
    key: Key,
    certificate_type: &'a str,
    disable_automatic_renewal: bool,
    reenable: bool,
    origin: &'a str,
    #[serde(rename = "CASpecificAttributes")]
    ca_specific_attributes: Vec<NameValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    custom_fields: Vec<CustomFieldValues>,
    work_to_do_timeout: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NameValue {
    name: String,
    value: String,
}

#[derive(Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct CustomFieldValues {
    name: String,
    values: Vec<String>,
}

#[derive(Deserialize)]
struct RequestedCertificate {
    #[serde(rename = "CertificateDN")]
    certificate_dn: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RetrieveCertificate<'a> {
    #[serde(rename = "CertificateDN")]
    certificate_dn: &'a str,
    format: &'a str,
    include_chain: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RetrievedCertificate {
    certificate_data: String,
}

/// How far an enrolment has come.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Stage {
    #[serde(default)]
    stage: i64,
    status: String,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stage {}, {}", self.stage, words(&self.status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::venafi::tests::Volume;

    #[test]
    fn zones_are_folders_however_they_are_written() {
        for zone in [
            r"DevOps\shop",
            r"\DevOps\shop",
            r"\VED\Policy\DevOps\shop",
            r"\ved\policy\DevOps\shop\",
        ] {
            let folder = folder(zone);
            assert!(folder.eq_ignore_ascii_case(r"\VED\Policy\DevOps\shop"), "{zone}: {folder}");
        }
    }

    #[test]
    fn objects_are_named_after_volumes_and_hold_no_path() {
        let name = |pod: &str| Volume::new(pod).order(|order| object_name(&order));
        assert!(name("web-0").starts_with("shop.web-0-"));
        assert_eq!(name("web-0"), name("web-0"), "it stays the same for renewals");
        assert_ne!(name("web-0"), name("web-1"));
        let long = name(&"x".repeat(253));
        assert!(long.len() <= 255 && long != name(&"x".repeat(252)), "{long}");
        assert!(!name(r"a\..\b/é").contains(['\\', '/', 'é']));
    }

    #[test]
    fn the_end_is_said_in_whole_seconds_to_each_kind_of_ca() {
        let end = "2026-03-01T12:00:00.123456Z".parse().unwrap();
        let attributes = serde_json::to_value(ca_specific_attributes(end)).unwrap();
        let expected = serde_json::json!([
            {"Name": "Origin", "Value": "certmount"},
            {"Name": "Specific End Date", "Value": "2026-03-01T12:00:00Z"},
            {"Name": "Microsoft CA:Specific End Date", "Value": "2026-03-01T12:00:00Z"},
            {"Name": "DigiCert CA:Specific End Date", "Value": "2026-03-01T12:00:00Z"},
            {"Name": "EntrustNET CA:Specific End Date", "Value": "2026-03-01T12:00:00Z"},
        ]);
        assert_eq!(attributes, expected);
    }
}
