//! DNS-01 (RFC 8555 §8.4): TXT records published by whoever serves a zone, seen at its
//! authoritative servers, and taken away again.
//!
//! What this promises:
//!
//! - A value is added beside those that are there, and only that value is removed: several orders
//!   for one name do not get in each other's way.
//! - A [`TxtRecord`] holds all that its removal needs. Whoever saves it before [`Dns01::present`]
//!   can remove the record after a crash.
//! - The name of a challenge is never asked of a resolver before its record is there, for that
//!   would remember that it is not; only the zone's own servers are.
//! - An issuer of a tenant sends nothing to addresses that only the node may reach.

mod acme_dns;
mod cloudflare;
mod exchange;
#[cfg(test)]
mod fake;
mod lookup;
mod rfc2136;
mod route53;
mod webhook;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use self::acme_dns::AcmeDns;
use self::cloudflare::Cloudflare;
use self::lookup::Lookup;
use self::rfc2136::Rfc2136;
use self::route53::Route53;
use self::webhook::Webhook;
use super::web::{Reach, Web, WebOptions};
use super::{BuildError, IssueError, Materials, Surroundings};
use crate::spec::object::dns01::{CnameStrategy, Dns01Provider, Dns01Spec};
use crate::spec::object::{CaBundle, SecretKeyRef};

/// Publishes TXT records for DNS-01 (RFC 8555 §8.4).
#[async_trait]
pub trait DnsProvider: Debug + Send + Sync {
    /// Adds one TXT value beside those that are there, once: adding it again is fine. Returns when
    /// the provider has accepted it.
    async fn present(&self, record: &TxtRecord) -> Result<(), IssueError>;

    /// Removes this value and no other. Removing it again is fine.
    async fn clean_up(&self, record: &TxtRecord) -> Result<(), IssueError>;

    /// Whether the provider would let us publish `records`, which are not there and which this does
    /// not change; without any, whether it lets us in at all.
    async fn probe(&self, records: &[TxtRecord]) -> Result<(), IssueError>;
}

/// One value at the name of a challenge, and all that it takes to remove it. No secret.
#[derive(Clone, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TxtRecord {
    /// The DNS name whose owner is proved, without a wildcard.
    pub host: String,
    /// Where the record is, without the last dot: `_acme-challenge.` and the host, or where a
    /// CNAME record there leads to.
    pub name: String,
    /// The zone that it is in, without the last dot.
    pub zone: String,
    /// The text.
    pub value: String,
}

/// One `dns01` solver: a provider, and the servers that are asked what the world sees.
#[derive(Debug)]
pub struct Dns01 {
    provider: Box<dyn DnsProvider>,
    lookup: Lookup,
    follow: bool,
}

impl Dns01 {
    /// The solver that `spec` describes, of an issuer in `namespace`; `None` for a `ClusterIssuer`.
    /// Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// When a Secret is missing or does not hold what it should.
    pub fn build(
        spec: &Dns01Spec,
        namespace: Option<&str>,
        materials: &Materials,
        surroundings: &Surroundings,
    ) -> Result<Self, BuildError> {
        let reach = Reach::of(namespace, surroundings);
        let clock = &surroundings.clock;
        let web = |ca_bundle: Option<&CaBundle>| {
            let ca_bundle = materials.ca_bundle(ca_bundle)?;
            let options = WebOptions { reach: reach.clone(), ca_bundle, ..WebOptions::default() };
            Ok::<_, BuildError>(Web::new(options, clock.clone())?)
        };
        let provider: Box<dyn DnsProvider> = match &spec.provider {
            Dns01Provider::AcmeDns(spec) => {
                Box::new(AcmeDns::build(spec, web(spec.ca_bundle.as_ref())?, materials)?)
            }
            Dns01Provider::Cloudflare(spec) => {
                Box::new(Cloudflare::build(spec, web(None)?, materials)?)
            }
            Dns01Provider::Rfc2136(spec) => {
                Box::new(Rfc2136::build(spec, reach.clone(), materials, clock.clone())?)
            }
            Dns01Provider::Route53(spec) => {
                Box::new(Route53::build(spec, namespace, web(None)?, materials, surroundings)?)
            }
            Dns01Provider::Webhook(spec) => {
                Box::new(Webhook::build(spec, namespace, surroundings)?)
            }
        };
        let lookup = Lookup::new(spec.nameservers.clone(), spec.nameservers_only, reach)
            .map_err(BuildError::Unfit)?;
        Ok(Self { provider, lookup, follow: spec.cname_strategy == CnameStrategy::Follow })
    }

    /// Where the TXT record with `value` for `host` goes, which may be a wildcard. Save it before
    /// [`present`](Self::present).
    ///
    /// # Errors
    ///
    /// When no zone for it is found.
    pub async fn record(&self, host: &str, value: &str) -> Result<TxtRecord, IssueError> {
        let host = host.strip_prefix("*.").unwrap_or(host).trim_end_matches('.').to_lowercase();
        let name = format!("_acme-challenge.{host}");
        let place = self.lookup.locate(&name, self.follow).await?;
        Ok(TxtRecord { host, name: place.name(), zone: place.zone(), value: value.to_owned() })
    }

    /// Publishes `record`.
    ///
    /// # Errors
    ///
    /// What the provider has to say.
    pub async fn present(&self, record: &TxtRecord) -> Result<(), IssueError> {
        self.provider.present(record).await
    }

    /// Publishes `record` until what this returns is dropped, also where this fails half-way.
    ///
    /// # Errors
    ///
    /// What the provider has to say.
    pub async fn publish(self: &Arc<Self>, record: TxtRecord) -> Result<Published, IssueError> {
        let published = self.published(record);
        self.present(&published.record).await?;
        Ok(published)
    }

    /// What an earlier process published, to be removed when it is dropped.
    pub fn published(self: &Arc<Self>, record: TxtRecord) -> Published {
        Published { dns01: Arc::clone(self), record }
    }

    /// Returns when every authoritative server of the zone that answers has `record`.
    ///
    /// # Errors
    ///
    /// `Pending` at `deadline`, with the servers that do not have it yet; `Unavailable` where none
    /// of them could be asked.
    pub async fn propagated(
        &self,
        record: &TxtRecord,
        deadline: Instant,
    ) -> Result<(), IssueError> {
        self.lookup.propagated(record, deadline).await
    }

    /// Whether the provider would let us prove `hosts`, as far as that shows without a change.
    ///
    /// # Errors
    ///
    /// What the provider has to say, or that a host is in no zone.
    pub async fn probe(&self, hosts: &[String]) -> Result<(), IssueError> {
        let mut records = Vec::new();
        for host in hosts.iter().take(MOST_PROBED) {
            records.push(self.record(host, PROBED).await?);
        }
        self.provider.probe(&records).await
    }

    /// Takes `record` away, also one that an earlier process published.
    ///
    /// # Errors
    ///
    /// What the provider has to say.
    pub async fn clean_up(&self, record: &TxtRecord) -> Result<(), IssueError> {
        self.provider.clean_up(record).await
    }
}

/// What is taken away to see whether that is allowed: nobody publishes it.
const PROBED: &str = "certmount-check";

/// Enough to see whether the credentials are right.
const MOST_PROBED: usize = 8;

/// A record that is there until this is dropped, which has it removed in the background.
#[derive(Debug)]
pub struct Published {
    dns01: Arc<Dns01>,
    record: TxtRecord,
}

/// The seconds before each attempt to remove a record.
const WAITS: [u64; 4] = [0, 5, 30, 300];

impl Published {
    /// What is there.
    pub fn record(&self) -> &TxtRecord {
        &self.record
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        // At the end of the process there is none; what its journal names is removed by the next.
        let Ok(runtime) = Handle::try_current() else { return };
        let (dns01, record) = (Arc::clone(&self.dns01), self.record.clone());
        runtime.spawn(async move {
            for wait in WAITS {
                sleep(Duration::from_secs(wait)).await;
                if dns01.clean_up(&record).await.is_ok() {
                    break;
                }
            }
        });
    }
}

/// Seconds that others may remember a record for: it is there for minutes.
const TTL: u32 = 60;

/// A secret that goes into a header or the like: one word of visible ASCII. Blanks and line ends
/// around it, which editors leave there, are not part of it.
fn word(
    materials: &Materials,
    reference: &SecretKeyRef,
    default_key: &str,
) -> Result<Zeroizing<String>, BuildError> {
    let value = materials.value(reference, default_key)?;
    let text = std::str::from_utf8(value).unwrap_or_default().trim();
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic()) {
        let key = reference.key.as_deref().unwrap_or(default_key);
        return Err(BuildError::Unfit(format!(
            "{key} of Secret {} is not one word of letters, digits and signs: write it again",
            reference.name
        )));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// `zone` and the zones above it that have two labels or more.
fn upwards(zone: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(zone), |name| {
        name.split_once('.').map(|(_, above)| above).filter(|above| above.contains('.'))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::issuer::IssueErrorKind;

    /// Takes down what it is asked for, and fails at the first removals.
    #[derive(Debug)]
    struct Provider {
        heard: Arc<Mutex<Vec<&'static str>>>,
        failures: Mutex<u32>,
    }

    #[async_trait]
    impl DnsProvider for Provider {
        async fn present(&self, record: &TxtRecord) -> Result<(), IssueError> {
            self.heard.lock().unwrap().push("present");
            match record.value.as_str() {
                "refused" => Err(IssueError::new(IssueErrorKind::Unavailable, "half-way")),
                _ => Ok(()),
            }
        }

        async fn clean_up(&self, _: &TxtRecord) -> Result<(), IssueError> {
            let mut failures = self.failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                self.heard.lock().unwrap().push("fail");
                return Err(IssueError::new(IssueErrorKind::Unavailable, "down"));
            }
            self.heard.lock().unwrap().push("clean up");
            Ok(())
        }

        async fn probe(&self, _: &[TxtRecord]) -> Result<(), IssueError> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_goes_when_it_is_dropped() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let provider = Provider { heard: Arc::clone(&heard), failures: Mutex::new(2) };
        let lookup = Lookup::new(Vec::new(), false, Reach::Anywhere).unwrap();
        let dns01 = Arc::new(Dns01 { provider: Box::new(provider), lookup, follow: false });
        let heard = |expected: &[&str]| assert_eq!(*heard.lock().unwrap(), expected);

        let published = dns01.publish(fake::record("one")).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        heard(&["present"]);
        drop(published);
        sleep(Duration::from_secs(3600)).await;
        heard(&["present", "fail", "fail", "clean up"]);

        // It may be there nevertheless.
        assert!(dns01.publish(fake::record("refused")).await.is_err());
        sleep(Duration::from_secs(1)).await;
        heard(&["present", "fail", "fail", "clean up", "present", "clean up"]);
    }

    #[test]
    fn zones_above_end_below_the_top() {
        assert_eq!(
            upwards("a.b.example.com").collect::<Vec<_>>(),
            ["a.b.example.com", "b.example.com", "example.com"]
        );
        assert_eq!(upwards("com").collect::<Vec<_>>(), ["com"]);
    }

    #[test]
    fn a_record_reads_back_from_a_journal() {
        let record = TxtRecord {
            host: "www.example.com".to_owned(),
            name: "_acme-challenge.www.example.com".to_owned(),
            zone: "example.com".to_owned(),
            value: "text".to_owned(),
        };
        let written = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<TxtRecord>(&written).unwrap(), record);
    }
}
