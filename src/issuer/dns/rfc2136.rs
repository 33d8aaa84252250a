//! Dynamic updates (RFC 2136), signed with TSIG (RFC 8945), for name servers of one's own.

use std::fmt;
use std::net::SocketAddr;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm as Algorithm, TsigError};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, TSigVerifier, TSigner};

use super::exchange::{Transport, decode, exchange};
use super::lookup::fully_qualified;
use super::{DnsProvider, TTL, TxtRecord, word};
use crate::clock::Clock;
use crate::issuer::web::Reach;
use crate::issuer::{BuildError, IssueError, IssueErrorKind, Materials};
use crate::spec::object::dns01::{HostPort, Rfc2136Spec, TsigAlgorithm, TsigSpec, UpdateProtocol};

/// A name server that takes dynamic updates.
pub(super) struct Rfc2136 {
    server: HostPort,
    transport: Transport,
    key: Option<TSigner>,
    reach: Reach,
    clock: Clock,
}

/// Seconds that the clocks of server and node may differ (RFC 8945 §10).
const FUDGE: u16 = 300;

impl Rfc2136 {
    pub(super) fn build(
        spec: &Rfc2136Spec,
        reach: Reach,
        materials: &Materials,
        clock: Clock,
    ) -> Result<Self, BuildError> {
        let transport = match spec.protocol {
            UpdateProtocol::Tcp => Transport::Tcp,
            UpdateProtocol::Udp => Transport::Udp,
        };
        let key = spec.tsig.as_ref().map(|tsig| signer(tsig, materials)).transpose()?;
        Ok(Self { server: spec.nameserver.clone(), transport, key, reach, clock })
    }

    async fn update(&self, record: &TxtRecord, change: Change) -> Result<(), IssueError> {
        let answer = self.ask(update_message(record, change)?).await?;
        match answer.metadata.response_code {
            ResponseCode::NoError => Ok(()),
            code => Err(self.refusal(code, &answer, record)),
        }
    }

    /// What the server answers to `message`, by the first of its addresses that does.
    async fn ask(&self, mut message: Message) -> Result<Message, IssueError> {
        let mut last = None;
        for address in self.addresses().await? {
            match self.send(address, &mut message).await {
                Err(error) if error.kind == IssueErrorKind::Unavailable => last = Some(error),
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| self.error(IssueErrorKind::Unavailable, "has no address")))
    }

    /// The answer, of which one without an error is signed if there is a key.
    async fn send(&self, address: SocketAddr, update: &mut Message) -> Result<Message, IssueError> {
        let unreadable = |error: hickory_proto::ProtoError| {
            self.error(IssueErrorKind::Node, "cannot be sent an update").caused_by(error)
        };
        let verifier = match &self.key {
            Some(key) => {
                let now = u64::try_from(self.clock.now().as_second()).unwrap_or_default();
                update.finalize(key, now).map_err(unreadable)?
            }
            None => None,
        };
        let request = update.to_vec().map_err(unreadable)?;
        let answer = exchange(address, self.transport, &request).await.map_err(|error| {
            let problem = format!(
                "({address}) takes no update: {error}; is it running, and may this node reach it \
                 over {:?}?",
                self.transport
            );
            self.error(IssueErrorKind::Unavailable, &problem)
        })?;
        let decoded = decode(&answer).map_err(|error| {
            self.error(IssueErrorKind::BadResponse, "does not speak DNS").caused_by(error)
        })?;
        if decoded.metadata.response_code == ResponseCode::NoError {
            self.verify(verifier, &answer)?;
        }
        Ok(decoded)
    }

    /// Whether it was really the server that took the update.
    fn verify(&self, verifier: Option<TSigVerifier>, answer: &[u8]) -> Result<(), IssueError> {
        let Some(mut verifier) = verifier else { return Ok(()) };
        verifier.verify(answer).map(drop).map_err(|error| {
            let problem = "answered without a signature that fits: the update may be lost";
            self.error(IssueErrorKind::BadResponse, problem).caused_by(error)
        })
    }

    /// Why the server did not take an update.
    fn refusal(&self, code: ResponseCode, answer: &Message, record: &TxtRecord) -> IssueError {
        use IssueErrorKind::{Config, Unavailable};
        let zone = &record.zone;
        let key = self.key.as_ref().map(|key| key.signer_name().to_ascii());
        let key = key.as_deref().unwrap_or("no key");
        let tsig = answer.signature.as_ref().and_then(|record| record.data.error);
        let (kind, problem) = match (code, tsig) {
            (_, Some(TsigError::BadKey)) => (
                Config,
                format!(
                    "does not know the TSIG key {key}, or has it for another algorithm: correct \
                     tsigKeyName or tsigAlgorithm"
                ),
            ),
            (_, Some(TsigError::BadSig)) => (
                Config,
                format!(
                    "has another secret for the TSIG key {key}: correct the one in \
                     tsigSecretSecretRef"
                ),
            ),
            (_, Some(TsigError::BadTime)) => (
                Unavailable,
                format!("has a clock more than {FUDGE} seconds away from the node's: set them"),
            ),
            (ResponseCode::NotAuth, _) => (
                Config,
                format!("is not authoritative for the zone {zone}: name its primary server"),
            ),
            (ResponseCode::NotZone, _) => {
                (Config, format!("does not have {} in its zone {zone}", record.name))
            }
            (ResponseCode::Refused, _) => (
                Config,
                format!(
                    "refuses updates of {} in the zone {zone} with {key}: allow them in its \
                     update policy",
                    record.name
                ),
            ),
            (ResponseCode::NotImp | ResponseCode::FormErr, _) => {
                (Config, format!("takes no dynamic updates: it answers {code}"))
            }
            _ => (Unavailable, format!("failed to update the zone {zone}: it answers {code}")),
        };
        self.error(kind, &problem)
    }

    /// The addresses of the server that may be asked.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, IssueError> {
        let found = tokio::net::lookup_host((self.server.host.as_str(), self.server.port)).await;
        let found = found.map_err(|error| {
            let problem = "cannot be found: correct its name, or mend the node's DNS";
            self.error(IssueErrorKind::Unavailable, problem).caused_by(error)
        })?;
        let mut forbidden = None;
        let allowed = |address: &SocketAddr| match self.reach.check(address.ip()) {
            Ok(()) => true,
            Err(reason) => {
                forbidden = Some(reason);
                false
            }
        };
        let addresses: Vec<_> = found.filter(allowed).collect();
        match forbidden {
            Some(reason) if addresses.is_empty() => {
                Err(self.error(IssueErrorKind::Config, &format!("may not be asked: {reason}")))
            }
            _ => Ok(addresses),
        }
    }

    fn error(&self, kind: IssueErrorKind, problem: &str) -> IssueError {
        IssueError::new(kind, format!("the name server {} {problem}", self.server))
    }
}

#[async_trait]
impl DnsProvider for Rfc2136 {
    async fn present(&self, record: &TxtRecord) -> Result<(), IssueError> {
        self.update(record, Change::Add).await
    }

    async fn clean_up(&self, record: &TxtRecord) -> Result<(), IssueError> {
        self.update(record, Change::Remove).await
    }

    async fn probe(&self, records: &[TxtRecord]) -> Result<(), IssueError> {
        // A server says no to who may not, also where there is nothing to remove.
        for record in records {
            self.clean_up(record).await?;
        }
        if records.is_empty() {
            let mut question = Message::query();
            question.add_query(Query::query(Name::root(), RecordType::SOA));
            let answer = self.ask(question).await?;
            // It is asked for the key, and may refuse the rest.
            let fault = answer.signature.as_ref().and_then(|record| record.data.error.as_ref());
            if self.key.is_some() && fault.is_some() {
                let nothing = TxtRecord::default();
                return Err(self.refusal(answer.metadata.response_code, &answer, &nothing));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Rfc2136 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rfc2136").field("server", &self.server).finish_non_exhaustive()
    }
}

/// What an update does.
#[derive(Clone, Copy, Debug)]
enum Change {
    Add,
    Remove,
}

/// RFC 2136 §2.5.1 and §2.5.4: to add a record is nothing where it is, and to remove it is nothing
/// where it is not.
fn update_message(record: &TxtRecord, change: Change) -> Result<Message, IssueError> {
    let data = RData::TXT(TXT::new(vec![record.value.clone()]));
    let mut changed = Record::from_rdata(fully_qualified(&record.name)?, TTL, data);
    if let Change::Remove = change {
        changed.dns_class = DNSClass::NONE;
        changed.ttl = 0;
    }
    let mut update = Message::query();
    update.metadata.op_code = OpCode::Update;
    update.metadata.recursion_desired = false;
    update.add_query(Query::query(fully_qualified(&record.zone)?, RecordType::SOA));
    update.add_authority(changed);
    Ok(update)
}

fn signer(tsig: &TsigSpec, materials: &Materials) -> Result<TSigner, BuildError> {
    let algorithm = match tsig.algorithm {
        TsigAlgorithm::HmacSha256 => Algorithm::HmacSha256,
        TsigAlgorithm::HmacSha384 => Algorithm::HmacSha384,
        TsigAlgorithm::HmacSha512 => Algorithm::HmacSha512,
    };
    let name = fully_qualified(&tsig.key_name).map_err(|error| {
        BuildError::Unfit(format!("tsigKeyName {error}: write it as the name server has it"))
    })?;
    let text = word(materials, &tsig.secret, "secret")?;
    let key = STANDARD.decode(text.as_bytes()).map_err(|_| {
        // The error would say a character of the key.
        BuildError::Unfit(format!(
            "the TSIG key in Secret {} is not base64: write it as the name server has it",
            tsig.secret.name
        ))
    })?;
    TSigner::new(key, algorithm, name, FUDGE)
        .map_err(|error| BuildError::Unfit(format!("the TSIG key cannot be used: {error}")))
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::spec::object::{SecretKeyRef, SecretObject};

    fn record() -> TxtRecord {
        TxtRecord {
            host: "www.example.com".to_owned(),
            name: "_acme-challenge.www.example.com".to_owned(),
            zone: "example.com".to_owned(),
            value: "text".to_owned(),
        }
    }

    #[test]
    fn one_value_is_added_or_removed() {
        let added = update_message(&record(), Change::Add).unwrap();
        let removed = update_message(&record(), Change::Remove).unwrap();
        for (update, class, ttl) in [(added, DNSClass::IN, 60), (removed, DNSClass::NONE, 0)] {
            let read = decode(&update.to_vec().unwrap()).unwrap();
            assert_eq!(read.metadata.op_code, OpCode::Update);
            assert_eq!(read.queries[0].name.to_ascii(), "example.com.");
            assert_eq!(read.queries[0].query_type, RecordType::SOA);
            let [change] = &read.authorities[..] else { panic!("one change") };
            assert_eq!((change.dns_class, change.ttl), (class, ttl));
            assert_eq!(change.name.to_ascii(), "_acme-challenge.www.example.com.");
            assert_eq!(change.data, RData::TXT(TXT::new(vec!["text".to_owned()])));
        }
    }

    #[test]
    fn a_key_that_is_none_is_not_shown() {
        let build = |value: &str, key_name: &str| {
            let value = Zeroizing::new(value.as_bytes().to_vec());
            let secret = SecretObject::new(None, "tsig".to_owned(), [("key".to_owned(), value)]);
            let materials = Materials::default().with_secret("tsig", Ok(secret));
            let reference = SecretKeyRef { name: "tsig".to_owned(), key: Some("key".to_owned()) };
            let algorithm = TsigAlgorithm::HmacSha384;
            let key_name = key_name.to_owned();
            let error = signer(&TsigSpec { key_name, algorithm, secret: reference }, &materials);
            error.map(|signer| signer.signer_name().to_ascii()).map_err(|error| error.to_string())
        };
        assert_eq!(build("c2VjcmV0\n", "Key").unwrap(), "key.");
        let said = build("s3cret!", "key").unwrap_err();
        assert!(said.contains("not base64") && !said.contains("s3cret"), "{said}");
        assert!(build("two words", "key").unwrap_err().contains("not one word"));
        assert!(build("c2VjcmV0", "a..b").unwrap_err().contains("tsigKeyName"));
    }
}
