//! Proving control of one name (RFC 8555 §7.5, §8).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::time::Instant;
use url::Url;

use super::account::Account;
use super::answers::{AcmeAnswers, is_token};
use super::client::Failure;
use super::journal::Journal;
use super::jws::base64;
use super::poll::Poll;
use super::protocol::{Authorization, AuthorizationStatus, Challenge, ChallengeStatus};
use super::responder::sni_of;
use crate::clock::Clock;
use crate::issuer::{Dns01, IssueError, IssueErrorKind, Published};
use crate::spec::object::acme::{Solver, SolverMethod};
use crate::x509::{
    GeneralName, KeyAlgorithm, PrivateKey, Validity, acme_challenge_certificate, sha256,
};

/// Proves names with the solvers of one issuer.
#[derive(Debug)]
pub(super) struct Prover<'a> {
    pub(super) account: &'a Account,
    pub(super) solvers: &'a [Solver],
    /// Beside each solver, what publishes its TXT records.
    pub(super) dns01: &'a [Option<Arc<Dns01>>],
    pub(super) journal: &'a Journal<'a>,
    pub(super) answers: &'a AcmeAnswers,
    pub(super) clock: &'a Clock,
}

/// How long the servers of a zone may take to have a record; the next attempt publishes it again.
const LONGEST_PROPAGATION: Duration = Duration::from_secs(600);

/// A TLS-ALPN-01 certificate lives for one check; CAs do not look at how long.
const CHALLENGE_LIFE: Duration = Duration::from_secs(7 * 86_400);

impl Prover<'_> {
    /// Has the authorization at `url` become valid, if it is not.
    pub(super) async fn prove(&self, url: &Url) -> Result<(), Failure> {
        let mut authorization = self.read(url).await?;
        if authorization.status == AuthorizationStatus::Valid {
            return Ok(());
        }
        let name = name_of(&authorization);
        self.check(&authorization, &name, None)?;
        let (solver, challenge) = self.choose(&authorization, &name)?;
        let kind = kind_of(&self.solvers[solver].method);
        let _turn = self.answers.turn(&name, kind).await;
        let _answered = self.answer(solver, challenge, &authorization).await?;
        // Others may have proved the name meanwhile; and who repeats what is under way is refused.
        let now: Challenge = self.account.get(&challenge.url).await?.json()?;
        if now.status == ChallengeStatus::Pending {
            self.account.post(&challenge.url, &json!({})).await?;
        }
        let mut poll = Poll::new();
        loop {
            let answer = self.account.get(url).await?;
            authorization = answer.json()?;
            if authorization.status != AuthorizationStatus::Pending {
                return self.check(&authorization, &name, Some(kind));
            }
            if !poll.wait(answer.retry_after()).await {
                let message = format!(
                    "the CA has not checked {kind} of {name} yet; certmount goes on with the same \
                     order"
                );
                return Err(IssueError::new(IssueErrorKind::Pending, message).into());
            }
        }
    }

    async fn read(&self, url: &Url) -> Result<Authorization, Failure> {
        Ok(self.account.get(url).await?.json()?)
    }

    /// Whether the name is proved or can be yet.
    fn check(
        &self,
        authorization: &Authorization,
        name: &str,
        tried: Option<&str>,
    ) -> Result<(), Failure> {
        let status = match authorization.status {
            AuthorizationStatus::Valid => return Ok(()),
            AuthorizationStatus::Pending if tried.is_none() => return Ok(()),
            status => format!("{status:?}").to_lowercase(),
        };
        let failed = authorization
            .challenges
            .iter()
            .find_map(|challenge| challenge.error.as_ref().map(|error| (challenge, error)));
        let message = match failed {
            Some((challenge, problem)) => format!(
                "the CA could not check that {name} is ours by {}: {problem} ({}); {}",
                kind(challenge),
                problem.kind(),
                self.advice(challenge, name)
            ),
            None => format!("the CA's authorization of {name} is {status}; it is asked for anew"),
        };
        Err(IssueError::new(IssueErrorKind::Denied, message).into())
    }

    /// The number of the solver for the name, and its challenge among those that the CA offers.
    fn choose<'b>(
        &'b self,
        authorization: &'b Authorization,
        name: &str,
    ) -> Result<(usize, &'b Challenge), IssueError> {
        let mut best = None;
        for (number, solver) in self.solvers.iter().enumerate() {
            let Some(how) = solver.selector.matches(name) else { continue };
            let kind = kind_of(&solver.method);
            let Some(challenge) =
                authorization.challenges.iter().find(|challenge| challenge.kind == kind)
            else {
                continue;
            };
            if best.as_ref().is_none_or(|(held, _, _)| how > *held) {
                best = Some((how, number, challenge));
            }
        }
        best.map(|(_, number, challenge)| (number, challenge)).ok_or_else(|| {
            let offered: Vec<_> =
                authorization.challenges.iter().map(|challenge| challenge.kind.as_str()).collect();
            let message = format!(
                "no solver of the issuer is for {name}: the CA offers {}; add a solver with one of \
                 them, and a selector that takes the name in",
                crate::error::excerpt(&offered.join(", "), 200)
            );
            IssueError::new(IssueErrorKind::Config, message)
        })
    }

    /// What to look at when a check failed.
    fn advice(&self, challenge: &Challenge, name: &str) -> String {
        let host = name.trim_start_matches("*.");
        match challenge.kind.as_str() {
            "http-01" => format!(
                "have http://{host}/.well-known/acme-challenge/ on port 80 lead to certmount's \
                 --acme-http01-address"
            ),
            "tls-alpn-01" => {
                format!("have port 443 of {host} lead to certmount's --acme-tls-alpn-address")
            }
            "dns-01" => format!("look at the TXT records of _acme-challenge.{host}"),
            "dns-persist-01" => {
                let domain = challenge.issuer_domain_names.first().map_or("", String::as_str);
                let domain = crate::error::excerpt(domain, 253);
                let policy = if host == name { "" } else { "; policy=wildcard" };
                format!(
                    "let the TXT record _validation-persist.{host} be \"{domain}; \
                     accounturi={}{policy}\"",
                    self.account.url
                )
            }
            _ => "ask whoever runs the name's servers".to_owned(),
        }
    }

    /// Has the challenge answered until what this returns is dropped.
    async fn answer(
        &self,
        solver: usize,
        challenge: &Challenge,
        authorization: &Authorization,
    ) -> Result<Option<Box<dyn Send>>, Failure> {
        let host = &authorization.identifier.value;
        Ok(match &self.solvers[solver].method {
            SolverMethod::Dns01(_) => Some(Box::new(self.publish(solver, challenge, host).await?)),
            SolverMethod::Http01 => {
                let (token, authorization) = self.key_authorization(challenge)?;
                Some(Box::new(self.answers.serve_token(host, token, authorization)))
            }
            SolverMethod::TlsAlpn01 => {
                let (_, authorization) = self.key_authorization(challenge)?;
                let (sni, key) = self.certificate(host, &authorization)?;
                Some(Box::new(self.answers.serve_certificate(&sni, Arc::new(key))))
            }
            // The record is there for good.
            SolverMethod::DnsPersist01 => None,
        })
    }

    /// Has the TXT record published and seen (RFC 8555 §8.4).
    async fn publish(
        &self,
        solver: usize,
        challenge: &Challenge,
        host: &str,
    ) -> Result<Published, Failure> {
        let dns01 = self.dns01[solver].as_ref().expect("a solver with dns01 has it beside it");
        let (_, authorization) = self.key_authorization(challenge)?;
        let value = base64(&sha256(authorization.as_bytes()));
        let record = dns01.record(host, &value).await?;
        self.journal.add(&record).map_err(|error| {
            let message = "the name of a TXT record cannot be kept in the volume";
            IssueError::new(IssueErrorKind::Node, message).caused_by(error)
        })?;
        let published = dns01.publish(record).await?;
        dns01.propagated(published.record(), Instant::now() + LONGEST_PROPAGATION).await?;
        Ok(published)
    }

    fn key_authorization<'b>(
        &self,
        challenge: &'b Challenge,
    ) -> Result<(&'b str, String), IssueError> {
        let token = challenge.token.as_deref().filter(|token| is_token(token));
        let token = token.ok_or_else(|| {
            let message = format!("the CA's {} has no token that can be used", kind(challenge));
            IssueError::new(IssueErrorKind::BadResponse, message)
        })?;
        Ok((token, self.account.key.key_authorization(token)))
    }

    /// The name of a handshake for `host`, and the certificate that answers it.
    fn certificate(
        &self,
        host: &str,
        authorization: &str,
    ) -> Result<(String, CertifiedKey), IssueError> {
        let (sni, name) = match host.parse::<IpAddr>() {
            Ok(address) => (sni_of(address), GeneralName::Ip(address)),
            Err(_) => (host.to_owned(), GeneralName::Dns(host.to_owned())),
        };
        let node = |error: Box<dyn std::error::Error + Send + Sync>| {
            let message = "no certificate can be made for tls-alpn-01";
            IssueError::new(IssueErrorKind::Node, message).caused_by(error)
        };
        let now = self.clock.now();
        let validity = Validity {
            not_before: now.saturating_sub(CHALLENGE_LIFE).unwrap_or(now),
            not_after: now.saturating_add(CHALLENGE_LIFE).unwrap_or(now),
        };
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).map_err(|e| node(e.into()))?;
        let digest = sha256(authorization.as_bytes());
        let certificate = acme_challenge_certificate(name, &digest, &key, validity)
            .map_err(|error| node(error.into()))?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8_der()));
        let signing = any_supported_type(&der).map_err(|error| node(error.into()))?;
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        Ok((sni, CertifiedKey::new(chain, signing)))
    }
}

/// What the name is in selectors and messages.
fn name_of(authorization: &Authorization) -> String {
    let value = crate::error::excerpt(&authorization.identifier.value, 253);
    if authorization.wildcard { format!("*.{value}") } else { value }
}

fn kind_of(method: &SolverMethod) -> &'static str {
    match method {
        SolverMethod::Dns01(_) => "dns-01",
        SolverMethod::Http01 => "http-01",
        SolverMethod::TlsAlpn01 => "tls-alpn-01",
        SolverMethod::DnsPersist01 => "dns-persist-01",
    }
}

fn kind(challenge: &Challenge) -> String {
    crate::error::excerpt(&challenge.kind, 32)
}
