//! What this node answers to CAs that check challenges, shared by all ACME issuers of the process.
//!
//! HTTP-01 is answered without shared state: the token is in the URL, and what goes with it is the
//! thumbprint of the account, which every node knows that has the account's key. So any node may
//! stand behind the address of a name. A node that did not ask for the order answers only for hosts
//! that a solver of the account is for, and only where that leaves one account.
//!
//! TLS-ALPN-01 says no token, so it is answered by the node that asked for the order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use rustls::sign::CertifiedKey;
use tokio::sync::OwnedMutexGuard;

use super::pauses::Pauses;
use crate::spec::object::acme::Selector;
use crate::sync::lock;

/// What all ACME issuers of a process share. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct AcmeAnswers(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    next: u64,
    accounts: HashMap<u64, KnownAccount>,
    /// By host and token.
    tokens: HashMap<(String, String), (u64, String)>,
    /// By SNI.
    certificates: HashMap<String, (u64, Arc<CertifiedKey>)>,
    /// By name and type of challenge.
    locks: HashMap<(String, &'static str), Arc<tokio::sync::Mutex<()>>>,
    /// By server and account.
    pauses: HashMap<String, Arc<Pauses>>,
}

#[derive(Debug)]
struct KnownAccount {
    thumbprint: String,
    /// The hosts that it proves by HTTP-01.
    selectors: Vec<Selector>,
}

/// Something that is answered until this is dropped.
#[derive(Debug)]
pub(super) struct Answered {
    answers: AcmeAnswers,
    what: What,
    id: u64,
}

#[derive(Debug)]
enum What {
    Account,
    Token(String, String),
    Certificate(String),
}

impl AcmeAnswers {
    /// What is served at `http://<host>/.well-known/acme-challenge/<token>` (RFC 8555 §8.3).
    pub(super) fn key_authorization(&self, host: &str, token: &str) -> Option<String> {
        if !is_token(token) {
            return None;
        }
        let host = host.to_ascii_lowercase();
        let held = self.held();
        let asked = (host, token.to_owned());
        if let Some((_, authorization)) = held.tokens.get(&asked) {
            return Some(authorization.clone());
        }
        let (host, token) = asked;
        let knows = |account: &&KnownAccount| {
            account.selectors.iter().any(|selector| selector.matches(&host).is_some())
        };
        let mut thumbprints = held.accounts.values().filter(knows).map(|known| &known.thumbprint);
        let thumbprint = thumbprints.next()?;
        thumbprints.all(|other| other == thumbprint).then(|| format!("{token}.{thumbprint}"))
    }

    /// The certificate for a TLS handshake that names `sni` (RFC 8737 §3).
    pub(super) fn certificate(&self, sni: &str) -> Option<Arc<CertifiedKey>> {
        let held = self.held();
        held.certificates.get(&sni.to_ascii_lowercase()).map(|(_, key)| Arc::clone(key))
    }

    /// Answers HTTP-01 for what other nodes ask with this account.
    pub(super) fn know_account(&self, thumbprint: String, selectors: Vec<Selector>) -> Answered {
        self.answer(|held, id| {
            held.accounts.insert(id, KnownAccount { thumbprint, selectors });
            What::Account
        })
    }

    /// Answers an HTTP-01 challenge of this node.
    pub(super) fn serve_token(&self, host: &str, token: &str, authorization: String) -> Answered {
        let (host, token) = (host.to_ascii_lowercase(), token.to_owned());
        self.answer(|held, id| {
            held.tokens.insert((host.clone(), token.clone()), (id, authorization));
            What::Token(host, token)
        })
    }

    /// Answers a TLS-ALPN-01 challenge of this node.
    pub(super) fn serve_certificate(&self, sni: &str, key: Arc<CertifiedKey>) -> Answered {
        let sni = sni.to_ascii_lowercase();
        self.answer(|held, id| {
            held.certificates.insert(sni.clone(), (id, key));
            What::Certificate(sni)
        })
    }

    /// Waits until nobody else proves `name` by `kind`, and keeps others waiting until dropped.
    pub(super) async fn turn(&self, name: &str, kind: &'static str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut held = self.held();
            held.locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(held.locks.entry((name.to_owned(), kind)).or_default())
        };
        lock.lock_owned().await
    }

    /// The pauses of one account; `account` tells accounts and servers apart.
    pub(super) fn pauses(&self, account: String) -> Arc<Pauses> {
        let mut held = self.held();
        held.pauses.retain(|_, pauses| Arc::strong_count(pauses) > 1);
        Arc::clone(held.pauses.entry(account).or_default())
    }

    fn answer(&self, take: impl FnOnce(&mut Held, u64) -> What) -> Answered {
        let mut held = self.held();
        held.next += 1;
        let id = held.next;
        let what = take(&mut held, id);
        Answered { answers: self.clone(), what, id }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.0)
    }
}

/// Two may answer the same at once: what the later one set stays.
impl Drop for Answered {
    fn drop(&mut self) {
        let mut held = self.answers.held();
        match &self.what {
            What::Account => {
                held.accounts.remove(&self.id);
            }
            What::Token(host, token) => {
                let key = (host.clone(), token.clone());
                if held.tokens.get(&key).is_some_and(|(id, _)| *id == self.id) {
                    held.tokens.remove(&key);
                }
            }
            What::Certificate(sni) => {
                if held.certificates.get(sni).is_some_and(|(id, _)| *id == self.id) {
                    held.certificates.remove(sni);
                }
            }
        }
    }
}

/// Whether `text` has the form of a token: base64url of at least 96 bits (§8.3 wants 128).
pub(super) fn is_token(text: &str) -> bool {
    (16..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";

    fn zone(zone: &str) -> Vec<Selector> {
        vec![Selector { dns_zones: vec![zone.to_owned()], ..Selector::default() }]
    }

    #[test]
    fn a_token_of_this_node_is_answered_for_its_host_until_the_challenge_is_over() {
        let answers = AcmeAnswers::default();
        let first = answers.serve_token("web.example", TOKEN, "a".to_owned());
        let second = answers.serve_token("web.example", TOKEN, "b".to_owned());
        drop(first);
        assert_eq!(answers.key_authorization("WEB.example", TOKEN).as_deref(), Some("b"));
        assert_eq!(answers.key_authorization("other.example", TOKEN), None);
        drop(second);
        assert_eq!(answers.key_authorization("web.example", TOKEN), None);
    }

    #[test]
    fn tokens_of_other_nodes_are_answered_for_hosts_of_the_one_account() {
        let answers = AcmeAnswers::default();
        let _production = answers.know_account("thumb".to_owned(), zone("example"));
        let answer = format!("{TOKEN}.thumb");
        assert_eq!(answers.key_authorization("web.example", TOKEN), Some(answer.clone()));
        assert_eq!(answers.key_authorization("web.test", TOKEN), None);
        for token in
            ["short", "has.a.dot.and.is.long.enough", &"a".repeat(129), "../../../../../etc/passwd"]
        {
            assert_eq!(answers.key_authorization("web.example", token), None, "{token}");
        }
        // The issuer is made anew, with the same account.
        let again = answers.know_account("thumb".to_owned(), zone("example"));
        assert_eq!(answers.key_authorization("web.example", TOKEN), Some(answer));
        drop(again);
        let _staging = answers.know_account("other".to_owned(), zone("web.example"));
        assert_eq!(answers.key_authorization("web.example", TOKEN), None, "whose is it?");
    }

    #[tokio::test]
    async fn one_name_is_proved_by_one_at_a_time() {
        let answers = AcmeAnswers::default();
        let turn = answers.turn("web.example", "http-01").await;
        let others = answers.turn("web.example", "dns-01").await;
        let mut waiting = pin!(answers.turn("web.example", "http-01"));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        drop((turn, others));
        waiting.await;
    }
}
