//! `acme`: a CA that is asked over ACME (RFC 8555), such as Let's Encrypt, step-ca or a Vault.
//!
//! What this promises:
//!
//! - One account for an issuer, made once, whose key is kept before the server sees it.
//! - An attempt that was cut off goes on with its order: its URL is kept beside the volume's key.
//! - What one volume is told about limits holds for all that it concerns.
//! - One name is proved by one volume at a time; others then find it proved.
//! - The chain that the issuer prefers is taken, where the CA offers it.

mod account;
mod answers;
mod challenge;
mod client;
mod journal;
mod jws;
mod order;
mod pauses;
mod poll;
mod probe;
mod protocol;
mod renewal;
mod responder;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use tokio::sync::Mutex;

use self::account::{Account, KeyPlace, KeySource, read_key};
pub use self::answers::AcmeAnswers;
use self::answers::Answered;
use self::client::{Client, Failure};
use self::journal::Journal;
use self::jws::{AccountKey, BindingKey};
use self::order::Attempt;
use self::pauses::Pauses;
use super::web::{Reach, Web, WebOptions};
use super::{
    BuildError, Dns01, HandleInMemory, IssueError, Issuer, Issuers, Materials, Order,
    RenewalAdvice, Surroundings,
};
use crate::clock::{Clock, Timestamp};
use crate::spec::object::IssuerObject;
use crate::spec::object::acme::{AcmeSpec, Sharing, SolverMethod};
use crate::x509::{Certificate, Issued};

/// Has certificates signed by an ACME server.
pub struct Acme {
    spec: AcmeSpec,
    client: Arc<Client>,
    key: KeySource,
    binding: Option<BindingKey>,
    /// Beside each solver, what publishes its TXT records.
    dns01: Vec<Option<Arc<Dns01>>>,
    account: Mutex<Option<Arc<Account>>>,
    answers: AcmeAnswers,
    pauses: OnceLock<Arc<Pauses>>,
    /// While it is there, HTTP-01 is answered for what other nodes ask with this account.
    known: OnceLock<Answered>,
    clock: Clock,
}

/// The key of a Secret that cert-manager keeps an account's key under.
const DEFAULT_KEY: &str = "tls.key";

impl Acme {
    /// The issuer that `object` and its `spec` describe. Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// When a key that is there cannot be read, or one that must be there is not.
    pub(super) fn build(
        object: &IssuerObject,
        spec: &AcmeSpec,
        materials: &Materials,
        surroundings: &Surroundings,
    ) -> Result<Self, BuildError> {
        let namespace = object.namespace.as_deref();
        let options = WebOptions {
            reach: Reach::of(namespace, surroundings),
            ca_bundle: materials.ca_bundle(spec.ca_bundle.as_ref())?,
            ..WebOptions::default()
        };
        let web = Web::new(options, surroundings.clock.clone())?;
        let binding = match &spec.external_account_binding {
            None => None,
            Some(binding) => {
                let secret = materials.value(&binding.key_secret_ref, "secret")?;
                let key = BindingKey::new(&binding.key_id, secret).ok_or_else(|| {
                    BuildError::Unfit(format!(
                        "the key of externalAccountBinding in Secret {} is not base64url: put it \
                         there as the CA gave it",
                        binding.key_secret_ref.name
                    ))
                })?;
                Some(key)
            }
        };
        let dns01 = spec.solvers.iter().map(|solver| match &solver.method {
            SolverMethod::Dns01(spec) => {
                let dns01 = Dns01::build(spec, namespace, materials, surroundings)?;
                Ok(Some(Arc::new(dns01)))
            }
            _ => Ok(None),
        });
        let acme = Self {
            dns01: dns01.collect::<Result<_, BuildError>>()?,
            client: Arc::new(Client::new(web, spec.server.url().clone())),
            key: key_source(spec, namespace, materials, surroundings)?,
            binding,
            account: Mutex::default(),
            answers: surroundings.acme.clone(),
            pauses: OnceLock::new(),
            known: OnceLock::new(),
            clock: surroundings.clock.clone(),
            spec: spec.clone(),
        };
        if let KeySource::Given(key) = &acme.key {
            acme.know(key);
        }
        Ok(acme)
    }

    /// The account, found or made when it is first needed.
    async fn account(&self) -> Result<Arc<Account>, Failure> {
        let mut held = self.account.lock().await;
        if let Some(account) = &*held {
            return Ok(Arc::clone(account));
        }
        let key = self.key.key().await?;
        self.know(&key);
        let email = self.spec.email.as_deref();
        let account = Account::open(&self.client, key, email, self.binding.as_ref()).await?;
        let account = Arc::new(account);
        *held = Some(Arc::clone(&account));
        Ok(account)
    }

    /// Answers for the account, and shares its pauses with those made of it before.
    fn know(&self, key: &AccountKey) {
        let thumbprint = key.thumbprint();
        self.pauses.get_or_init(|| {
            self.answers.pauses(format!("{} {thumbprint}", self.client.directory_url()))
        });
        let solvers = self.spec.solvers.iter();
        let http01 = solvers.filter(|solver| solver.method == SolverMethod::Http01);
        let selectors = http01.map(|solver| solver.selector.clone()).collect();
        self.known.get_or_init(|| self.answers.know_account(thumbprint.to_owned(), selectors));
    }
}

/// Where the account's key is: in the Secret that the issuer names, or else where it is made.
fn key_source(
    spec: &AcmeSpec,
    namespace: Option<&str>,
    materials: &Materials,
    surroundings: &Surroundings,
) -> Result<KeySource, BuildError> {
    let secret = &spec.private_key;
    let key = secret.key.as_deref().unwrap_or(DEFAULT_KEY);
    let Err(missing) = materials.secret(&secret.name) else {
        let pem = materials.value(secret, DEFAULT_KEY)?;
        let read = read_key(pem).map(|key| KeySource::Given(Arc::new(key)));
        let invalid = |reason| BuildError::Unfit(format!("Secret {}: {reason}", secret.name));
        return read.map_err(invalid);
    };
    if !spec.make_account_key {
        return Ok(KeySource::Awaited(missing.to_string()));
    }
    Ok(match (&surroundings.access, &surroundings.state_dir) {
        (Some(access), _) => KeySource::Place(KeyPlace::Secret {
            access: access.clone(),
            namespace: namespace.unwrap_or(&access.namespace).to_owned(),
            name: secret.name.clone(),
            key: key.to_owned(),
        }),
        // Known at once, so that a driver that starts answers for the orders of the one before it.
        (None, Some(folder)) => {
            KeySource::in_file(file(folder, namespace, &secret.name)).map_err(BuildError::Unfit)?
        }
        (None, None) => KeySource::Awaited(format!(
            "{missing}, or name a folder to make it in with --state-dir"
        )),
    })
}

/// Names of objects have no underscore, so no two are one file.
fn file(folder: &Path, namespace: Option<&str>, name: &str) -> std::path::PathBuf {
    let prefix = namespace.map(|namespace| format!("{namespace}_")).unwrap_or_default();
    folder.join("acme").join(format!("{prefix}{name}.pem"))
}

#[async_trait]
impl Issuer for Acme {
    async fn issue(&self, order: Order<'_>) -> Result<Issued, IssueError> {
        let attempt = Attempt::new(&self.spec, &self.dns01, &self.answers, &self.clock, &order)?;
        let issued = async {
            let account = self.account().await?;
            if let Some(pauses) = self.pauses.get() {
                pauses.check(attempt.identifiers())?;
            }
            attempt.run(&account).await
        }
        .await;
        if let Err(failure) = &issued {
            if failure.kind() == Some("accountDoesNotExist") {
                *self.account.lock().await = None;
            }
            if let (Failure::Refused(refusal), Some(pauses)) = (failure, self.pauses.get()) {
                pauses.note(refusal, attempt.identifiers());
            }
        }
        Ok(issued?)
    }

    async fn probe(&self, _: &Issuers) -> Result<(), IssueError> {
        Ok(probe::probe(self).await?)
    }

    fn forget(&self, handle: &str) {
        let handle = HandleInMemory(std::sync::Mutex::new(Some(handle.to_owned())));
        let records = Journal::load(&handle).records();
        // Whatever is dropped is taken away.
        drop(order::left_behind(&self.spec, &self.dns01, records));
    }

    fn warning(&self, _: Timestamp) -> Option<String> {
        let ignored = self.spec.solvers.iter().find_map(|solver| solver.ignored)?;
        Some(format!(
            "{ignored} of cert-manager makes nothing here: have /.well-known/acme-challenge/ of the \
             names led to certmount's --acme-http01-address, and write http01: {{}}"
        ))
    }

    fn shares_on_node(&self) -> bool {
        self.spec.sharing == Sharing::Node
    }

    async fn renewal(&self, leaf: &Certificate) -> Result<Option<RenewalAdvice>, IssueError> {
        if !self.spec.renewal_information {
            return Ok(None);
        }
        Ok(renewal::advice(&self.client, leaf).await?)
    }
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("server", self.client.directory_url()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
