//! Amazon Route 53: its REST API of 2013-04-01, which speaks XML.
//!
//! A record set of Route 53 is replaced as a whole, so several orders for one name would take each
//! other's values away. Each value is therefore a set of its own: a "multivalue answer" whose
//! identifier is the value. Credentials of the node itself are never used.

mod credentials;
mod signature;
mod xml;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;
use tokio::time::{Instant, sleep};
use url::Url;

use self::credentials::Credentials;
use self::signature::Scope;
use super::{DnsProvider, TTL, TxtRecord, upwards};
use crate::clock::Clock;
use crate::issuer::web::{Answer, Web};
use crate::issuer::{BuildError, IssueError, IssueErrorKind, Materials, Surroundings};
use crate::spec::object::dns01::Route53Spec;

/// Route 53.
pub(super) struct Route53 {
    web: Web,
    api: Url,
    /// Where its requests are signed for; it is one service for a whole partition of AWS.
    region: &'static str,
    hosted_zone_id: Option<String>,
    credentials: Credentials,
    clock: Clock,
}

/// How long a change is waited for, which takes less than a minute by AWS' own word.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// All of an AWS account may ask five times a second.
const BETWEEN_LOOKS: Duration = Duration::from_secs(4);
/// How often a request is made that is too much for Route 53 right now.
const ATTEMPTS: u32 = 3;

impl Route53 {
    pub(super) fn build(
        spec: &Route53Spec,
        namespace: Option<&str>,
        web: Web,
        materials: &Materials,
        surroundings: &Surroundings,
    ) -> Result<Self, BuildError> {
        let (api, region) = match &spec.region {
            region if region.starts_with("cn-") => {
                ("https://route53.amazonaws.com.cn/", "cn-northwest-1")
            }
            region if region.starts_with("us-gov-") => {
                ("https://route53.us-gov.amazonaws.com/", "us-gov-west-1")
            }
            _ => ("https://route53.amazonaws.com/", "us-east-1"),
        };
        Ok(Self {
            web,
            api: api.parse().expect("it is a URL"),
            region,
            hosted_zone_id: spec.hosted_zone_id.clone(),
            credentials: Credentials::build(spec, namespace, materials, surroundings)?,
            clock: surroundings.clock.clone(),
        })
    }

    /// Adds the set with the value of `record`, or takes it away; answers the change's id.
    async fn change(&self, action: &str, record: &TxtRecord) -> Result<String, IssueError> {
        let zone = self.zone(record).await?;
        let body = change_batch(action, record);
        let path = format!("2013-04-01/hostedzone/{zone}/rrset/");
        let answer = self.ask(Method::POST, &path, body.as_bytes()).await?;
        last_segment(&answer, "Id")
    }

    /// The id of the zone that `record` is in.
    async fn zone(&self, record: &TxtRecord) -> Result<String, IssueError> {
        if let Some(id) = &self.hosted_zone_id {
            return Ok(id.clone());
        }
        for name in upwards(&record.zone) {
            let name = format!("{name}.");
            let path =
                format!("2013-04-01/hostedzonesbyname?dnsname={}", signature::encoded(&name));
            let answer = self.ask(Method::GET, &path, b"").await?;
            let body = String::from_utf8_lossy(&answer.body);
            let zone = xml::elements(&body, "HostedZone").into_iter().find(|zone| {
                xml::text(zone, "Name").as_deref() == Some(&name)
                    && xml::text(zone, "PrivateZone").as_deref() != Some("true")
            });
            if let Some(zone) = zone {
                return identifier(xml::text(zone, "Id"), &answer);
            }
        }
        let message = format!(
            "Route 53 has no public zone {} in this account: correct the credentials, or set \
             hostedZoneID",
            record.zone
        );
        Err(IssueError::new(IssueErrorKind::Config, message))
    }

    /// Returns when all servers of Route 53 have the change.
    async fn in_sync(&self, change: &str) -> Result<(), IssueError> {
        let end = Instant::now() + LONGEST_WAIT;
        loop {
            let answer = self.ask(Method::GET, &format!("2013-04-01/change/{change}"), b"").await?;
            let body = String::from_utf8_lossy(&answer.body);
            if xml::text(&body, "Status").as_deref() == Some("INSYNC") {
                return Ok(());
            }
            if Instant::now() >= end {
                let message = format!(
                    "Route 53 has had a change for {} seconds and not made it everywhere",
                    LONGEST_WAIT.as_secs()
                );
                return Err(IssueError::new(IssueErrorKind::Pending, message));
            }
            sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Makes one signed request.
    async fn ask(&self, method: Method, path: &str, body: &[u8]) -> Result<Answer, IssueError> {
        let url = self.api.join(path).expect("the path is made of checked identifiers");
        let scope = Scope { region: self.region, service: "route53" };
        let mut attempt = 1;
        loop {
            let keys = self.credentials.get(&self.web).await?;
            let request = self.web.request(method.clone(), &url);
            let request = if body.is_empty() {
                request
            } else {
                request.body("application/xml", body.to_vec())
            };
            let signed = keys.sign(&method, &url, body, scope, self.clock.now());
            let answer = signed.put_on(request).send().await?;
            if answer.status.is_success() {
                return Ok(answer);
            }
            let code = fault(&answer).0;
            let busy = ["Throttling", "ThrottlingException", "PriorRequestNotComplete"];
            if !busy.contains(&code.as_str()) || attempt == ATTEMPTS {
                return Err(error(&answer));
            }
            attempt += 1;
            sleep(BETWEEN_LOOKS).await;
        }
    }
}

#[async_trait]
impl DnsProvider for Route53 {
    async fn present(&self, record: &TxtRecord) -> Result<(), IssueError> {
        let change = self.change("UPSERT", record).await?;
        self.in_sync(&change).await
    }

    async fn probe(&self, records: &[TxtRecord]) -> Result<(), IssueError> {
        // To remove what is not there needs the right to change records, and changes none.
        for record in records {
            self.clean_up(record).await?;
        }
        if records.is_empty() {
            self.credentials.get(&self.web).await?;
            let listed =
                self.ask(Method::GET, "2013-04-01/hostedzonesbyname?maxitems=1", b"").await;
            match listed {
                // Whoever may change a zone need not be allowed to list them; it is known, though.
                Err(error) if error.message.contains("AccessDenied:") => {}
                listed => drop(listed?),
            }
        }
        Ok(())
    }

    async fn clean_up(&self, record: &TxtRecord) -> Result<(), IssueError> {
        match self.change("DELETE", record).await {
            Err(error) if error.message.contains(NOT_FOUND) => Ok(()),
            done => done.map(drop),
        }
    }
}

/// What Route 53 says of a set that is not there.
const NOT_FOUND: &str = "but it was not found";

impl fmt::Debug for Route53 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route53").field("api", &self.api.as_str()).finish_non_exhaustive()
    }
}

fn change_batch(action: &str, record: &TxtRecord) -> String {
    let name = xml::escaped(&record.name);
    let value = xml::escaped(&format!("\"{}\"", record.value));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <ChangeResourceRecordSetsRequest xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\">\
         <ChangeBatch><Comment>certmount, for an ACME challenge</Comment><Changes><Change>\
         <Action>{action}</Action><ResourceRecordSet><Name>{name}.</Name><Type>TXT</Type>\
         <SetIdentifier>{value}</SetIdentifier><MultiValueAnswer>true</MultiValueAnswer>\
         <TTL>{TTL}</TTL><ResourceRecords><ResourceRecord><Value>{value}</Value></ResourceRecord>\
         </ResourceRecords></ResourceRecordSet></Change></Changes></ChangeBatch>\
         </ChangeResourceRecordSetsRequest>"
    )
}

/// The last part of an id such as `/hostedzone/Z123`.
fn last_segment(answer: &Answer, element: &str) -> Result<String, IssueError> {
    identifier(xml::text(&String::from_utf8_lossy(&answer.body), element), answer)
}

/// An id that may become part of a path.
fn identifier(id: Option<String>, answer: &Answer) -> Result<String, IssueError> {
    let id = id.unwrap_or_default();
    let id = id.rsplit('/').next().unwrap_or_default();
    if !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Ok(id.to_owned());
    }
    let message = format!("{} answered without the id that it should give", answer.place());
    Err(IssueError::new(IssueErrorKind::BadResponse, message))
}

/// The code and the message of a refusal.
fn fault(answer: &Answer) -> (String, String) {
    let body = String::from_utf8_lossy(&answer.body);
    let message = xml::text(&body, "Message").unwrap_or_default();
    // A batch that cannot be made is told in a form of its own.
    let batch = || body.contains("<InvalidChangeBatch").then(|| "InvalidChangeBatch".to_owned());
    (xml::text(&body, "Code").or_else(batch).unwrap_or_default(), message)
}

/// A refusal of AWS, in its own words.
fn error(answer: &Answer) -> IssueError {
    use IssueErrorKind::{Config, RateLimited, Unavailable};
    let (code, message) = fault(answer);
    let said = if code.is_empty() { message } else { format!("{code}: {message}") };
    let error = answer.error(Some(&said));
    let kind = match code.as_str() {
        "AccessDenied"
        | "AccessDeniedException"
        | "ExpiredToken"
        | "InvalidClientTokenId"
        | "InvalidIdentityToken"
        | "NoSuchHostedZone"
        | "SignatureDoesNotMatch" => Config,
        "Throttling" | "ThrottlingException" => RateLimited,
        "PriorRequestNotComplete" => Unavailable,
        _ => error.kind,
    };
    IssueError { kind, ..error }
}

#[cfg(test)]
mod tests;
