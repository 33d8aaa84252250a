//! One order, from its names to its chain (RFC 8555 §7.4).

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::json;
use url::Url;

use super::account::Account;
use super::answers::AcmeAnswers;
use super::challenge::Prover;
use super::client::{Failure, alternates, location};
use super::journal::Journal;
use super::jws::base64;
use super::poll::Poll;
use super::protocol::{Identifier, OrderObject, OrderStatus};
use super::renewal;
use crate::clock::{Clock, between};
use crate::issuer::web::{Answer, words};
use crate::issuer::{Dns01, IssueError, IssueErrorKind, Order, Published, Requester, TxtRecord};
use crate::spec::object::acme::AcmeSpec;
use crate::x509::{
    Certificate, DistinguishedName, GeneralName, Issued, Template, certificates_from_pem,
};

/// One attempt at a certificate.
pub(super) struct Attempt<'a> {
    spec: &'a AcmeSpec,
    dns01: &'a [Option<Arc<Dns01>>],
    answers: &'a AcmeAnswers,
    clock: &'a Clock,
    order: &'a Order<'a>,
    journal: Journal<'a>,
    identifiers: Vec<Identifier>,
}

/// A certificate that could not be used is fetched again for so long, and then ordered anew.
const TAKE_AGAIN: std::time::Duration = std::time::Duration::from_secs(86_400);

impl<'a> Attempt<'a> {
    /// # Errors
    ///
    /// When ACME does not know such names.
    pub(super) fn new(
        spec: &'a AcmeSpec,
        dns01: &'a [Option<Arc<Dns01>>],
        answers: &'a AcmeAnswers,
        clock: &'a Clock,
        order: &'a Order<'a>,
    ) -> Result<Self, IssueError> {
        let template = &order.spec.template;
        if let (Requester::Node { issuer, .. }, []) =
            (&order.requester, &template.subject_alt_names[..])
        {
            let message = format!(
                "an ACME server signs only for names that are proved to it, and the intermediate has \
                 none: write dnsNames into {issuer}, such as mesh.example.com, which a solver here \
                 is for"
            );
            return Err(IssueError::new(IssueErrorKind::Config, message));
        }
        let identifiers = identifiers(template)
            .map_err(|message| IssueError::new(IssueErrorKind::Request, message))?;
        let journal = Journal::load(order.handle);
        Ok(Self { spec, dns01, answers, clock, order, journal, identifiers })
    }

    /// What is asked for, sorted.
    pub(super) fn identifiers(&self) -> &[Identifier] {
        &self.identifiers
    }

    /// Goes on with the order of an earlier attempt, or makes one, until there is a certificate.
    pub(super) async fn run(&self, account: &Account) -> Result<Issued, Failure> {
        // The records of attempts that were cut off; those that are needed again are published again.
        let _left_behind = left_behind(self.spec, self.dns01, self.journal.records());
        let (url, mut state) = match self.resume(account).await? {
            Some((url, state)) => {
                if state.status == OrderStatus::Valid
                    && let Some(issued) = self.download(account, &state, true).await?
                {
                    return Ok(issued);
                }
                match state.status {
                    OrderStatus::Valid => self.make(account).await?,
                    _ => (url, state),
                }
            }
            None => self.make(account).await?,
        };
        let mut poll = Poll::new();
        let mut finalized = false;
        loop {
            match state.status {
                OrderStatus::Pending => self.prove(account, &state).await?,
                OrderStatus::Ready if !finalized => {
                    finalized = true;
                    state = self.finalize(account, &url, &state).await?;
                    continue;
                }
                OrderStatus::Ready | OrderStatus::Processing => {}
                OrderStatus::Valid => {
                    let issued = self.download(account, &state, false).await?;
                    return issued.ok_or_else(|| missing(&url).into());
                }
                OrderStatus::Invalid => return Err(invalid(&state).into()),
            }
            let answer = account.get(&url).await?;
            state = answer.json()?;
            let waits = matches!(state.status, OrderStatus::Pending | OrderStatus::Processing);
            if (waits || finalized && state.status == OrderStatus::Ready)
                && !poll.wait(answer.retry_after()).await
            {
                let message = "the CA has not decided on the order yet; certmount goes on with the \
                               same order";
                return Err(IssueError::new(IssueErrorKind::Pending, message).into());
            }
        }
    }

    /// The order of an earlier attempt, if it is for the same and can still be had.
    async fn resume(&self, account: &Account) -> Result<Option<(Url, OrderObject)>, Failure> {
        let Some(url) = self.journal.order() else { return Ok(None) };
        let same_server = account.url.origin() == url.origin();
        if !same_server {
            return Ok(None);
        }
        let state: OrderObject = match account.get(&url).await {
            Ok(answer) => answer.json()?,
            // It is over, or another account's.
            Err(failure @ Failure::Refused(_)) => match failure.kind() {
                Some("accountDoesNotExist" | "rateLimited" | "serverInternal" | "badNonce") => {
                    return Err(failure);
                }
                _ => return Ok(None),
            },
            Err(failure) => return Err(failure),
        };
        let mut identifiers = state.identifiers.clone();
        identifiers.sort();
        // A server that was asked for no profile may tell which one it took.
        let profiles = self.spec.profile.as_ref().zip(state.profile.as_ref());
        let same = identifiers == self.identifiers
            && profiles.is_none_or(|(wanted, taken)| wanted == taken);
        Ok((same && state.status != OrderStatus::Invalid).then_some((url, state)))
    }

    /// Makes a new order, as the successor of the certificate that the volume holds if the CA wants
    /// to know (RFC 9773 §5).
    async fn make(&self, account: &Account) -> Result<(Url, OrderObject), Failure> {
        let directory = account.client.directory().await?;
        account.client.check_profile(self.spec.profile.as_deref()).await?;
        let mut request = json!({"identifiers": self.identifiers});
        if let Some(profile) = &self.spec.profile {
            request["profile"] = json!(profile);
        }
        let replaced = self.order.previous.filter(|_| directory.renewal_info.is_some());
        if let Some(identifier) = replaced.and_then(renewal::identifier) {
            request["replaces"] = json!(identifier);
        }
        let answer = match account.post(&directory.new_order, &request).await {
            Err(failure) if request["replaces"].is_string() && is_about_replacing(&failure) => {
                request.as_object_mut().expect("it is one").remove("replaces");
                account.post(&directory.new_order, &request).await?
            }
            answer => answer?,
        };
        let url = location(&answer, &directory.new_order)?;
        self.journal.begin(&url).map_err(|error| {
            let message = "the order's URL cannot be kept in the volume";
            IssueError::new(IssueErrorKind::Node, message).caused_by(error)
        })?;
        Ok((url, answer.json()?))
    }

    /// Proves every name that is not proved yet.
    async fn prove(&self, account: &Account, state: &OrderObject) -> Result<(), Failure> {
        let prover = Prover {
            account,
            solvers: &self.spec.solvers,
            dns01: self.dns01,
            journal: &self.journal,
            answers: self.answers,
            clock: self.clock,
        };
        // All come to their end, so that none leaves a record behind.
        let proofs = state.authorizations.iter().map(|url| prover.prove(url));
        join_all(proofs).await.into_iter().collect()
    }

    async fn finalize(
        &self,
        account: &Account,
        url: &Url,
        state: &OrderObject,
    ) -> Result<OrderObject, Failure> {
        let csr = json!({"csr": base64(self.order.request.der())});
        match account.post(&state.finalize, &csr).await {
            Ok(answer) => Ok(answer.json()?),
            Err(failure) => {
                // An attempt whose answer was lost may have come so far.
                let now: OrderObject = account.get(url).await?.json()?;
                match now.status {
                    OrderStatus::Processing | OrderStatus::Valid => Ok(now),
                    OrderStatus::Pending | OrderStatus::Ready | OrderStatus::Invalid => {
                        Err(failure)
                    }
                }
            }
        }
    }

    /// The chain, and the preferred one where there are several. `None` for one that an earlier
    /// attempt could not use and that is no use now.
    async fn download(
        &self,
        account: &Account,
        state: &OrderObject,
        again: bool,
    ) -> Result<Option<Issued>, Failure> {
        let Some(url) = &state.certificate else { return Ok(None) };
        let answer = account.get(url).await?;
        let chain = chain(&answer)?;
        if again && !self.is_worth_taking(&chain) {
            return Ok(None);
        }
        let chain = match &self.spec.preferred_chain {
            Some(preferred) => self.preferred(preferred, account, chain, &answer, url).await?,
            None => chain,
        };
        Ok(Some(Issued { chain, trust_anchors: Vec::new() }))
    }

    /// The chain that leads to `preferred`, among the `default` that came in `answer` and those that
    /// it names; else the default, with a warning.
    async fn preferred(
        &self,
        preferred: &str,
        account: &Account,
        default: Vec<Certificate>,
        answer: &Answer,
        url: &Url,
    ) -> Result<Vec<Certificate>, Failure> {
        let mut tops = BTreeSet::new();
        match top(&default) {
            Some(top) if top == preferred => return Ok(default),
            top => tops.extend(top),
        }
        for alternate in alternates(answer, url) {
            let other = chain(&account.get(&alternate).await?)?;
            match top(&other) {
                Some(top) if top == preferred => return Ok(other),
                top => tops.extend(top),
            }
        }
        let tops = words(&Vec::from_iter(tops).join(", "));
        self.order.warnings.add(format!(
            "the CA offers no chain to {preferred}, only to {tops}; its default is used: correct \
             preferredChain in the issuer, or take it out"
        ));
        Ok(default)
    }

    fn is_worth_taking(&self, chain: &[Certificate]) -> bool {
        self.order
            .leaf_in(chain)
            .is_some_and(|leaf| between(leaf.validity().not_before, self.clock.now()) < TAKE_AGAIN)
    }
}

/// The names of `template` as ACME has them, sorted and each once.
fn identifiers(template: &Template) -> Result<Vec<Identifier>, String> {
    let identifier = |kind: &str, value| Identifier { kind: kind.to_owned(), value };
    let mut identifiers = BTreeSet::new();
    for name in &template.subject_alt_names {
        identifiers.insert(match name {
            GeneralName::Dns(name) => identifier("dns", name.clone()),
            GeneralName::Ip(address) => identifier("ip", address.to_string()),
            GeneralName::Email(_) | GeneralName::Uri(_) => {
                return Err(format!(
                    "an ACME server signs host names and IP addresses only: take {name} out of the \
                     volume, or use another issuer"
                ));
            }
        });
    }
    if let Some(name) = template.subject.common_name()
        && !identifiers.iter().any(|identifier| identifier.value.eq_ignore_ascii_case(name))
    {
        return Err(format!(
            "an ACME server signs the common name only if it is a name as well: add {name} to \
             dns-names, or take common-name out"
        ));
    }
    if identifiers.is_empty() {
        return Err(
            "an ACME server signs names, and the volume asks for none: write dns-names or \
                    ip-sans"
                .to_owned(),
        );
    }
    Ok(identifiers.into_iter().collect())
}

/// Whether an order was refused because of the certificate that it is to replace.
fn is_about_replacing(failure: &Failure) -> bool {
    match failure {
        Failure::Refused(refusal) => match refusal.problem.kind() {
            "alreadyReplaced" => true,
            "malformed" | "unauthorized" => {
                let detail = refusal.problem.detail().to_ascii_lowercase();
                detail.contains("replace") || detail.contains("certificate")
            }
            _ => refusal.status == hyper::StatusCode::NOT_FOUND,
        },
        Failure::Other(_) => false,
    }
}

fn chain(answer: &Answer) -> Result<Vec<Certificate>, IssueError> {
    certificates_from_pem(&answer.body).map_err(|error| {
        let message = format!("{} sent a certificate that cannot be read", answer.place());
        IssueError::new(IssueErrorKind::BadResponse, message).caused_by(error)
    })
}

/// The common name of the issuer of the top-most certificate.
fn top(chain: &[Certificate]) -> Option<String> {
    let issuer = DistinguishedName::from_rfc4514(&chain.last()?.issuer()).ok()?;
    issuer.common_name().map(str::to_owned)
}

/// What earlier attempts published, by their solvers, to be taken away when this is dropped.
pub(super) fn left_behind(
    spec: &AcmeSpec,
    dns01: &[Option<Arc<Dns01>>],
    records: Vec<TxtRecord>,
) -> Vec<Published> {
    let solvers = || spec.solvers.iter().zip(dns01);
    let solver = |record: &TxtRecord| {
        let matching = solvers()
            .filter_map(|(solver, dns01)| {
                Some((solver.selector.matches(&record.host)?, dns01.as_ref()?))
            })
            .max_by_key(|(how, _)| *how);
        matching.map(|(_, dns01)| dns01).or_else(|| solvers().find_map(|(_, it)| it.as_ref()))
    };
    let records = records.into_iter();
    records.filter_map(|record| Some(solver(&record)?.published(record))).collect()
}

fn missing(url: &Url) -> IssueError {
    let message = format!("the order {url} is valid and has no certificate: is it an ACME server?");
    IssueError::new(IssueErrorKind::BadResponse, message)
}

fn invalid(state: &OrderObject) -> IssueError {
    let why = state.error.as_ref().map_or_else(
        || "it does not say why".to_owned(),
        |problem| format!("{problem} ({})", problem.kind()),
    );
    let message = format!("the CA has given up the order: {why}; a new one is made");
    IssueError::new(IssueErrorKind::Denied, message)
}
