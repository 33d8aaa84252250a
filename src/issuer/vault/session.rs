//! Logins and their tokens: one for each identity, shared by all volumes.
//!
//! A token is kept by a task of its own, which renews it at two thirds of its life while it is used
//! and gives it back when it is not used any more, or when the issuer goes.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use super::api::{Api, Grant, Refusal};
use crate::clock::Clock;
use crate::issuer::{IssueError, IssueErrorKind, Order, Requester};
use crate::kubernetes::Access;
use crate::spec::tokens::PodToken;
use crate::sync::lock;

/// What certmount logs in with.
pub(super) enum Credentials {
    /// A token that somebody else got: never revoked.
    Token(Zeroizing<String>),
    AppRole {
        mount: String,
        role_id: String,
        secret_id: Zeroizing<String>,
    },
    /// The certificate itself is the client's.
    ClientCertificate {
        mount: String,
        name: Option<String>,
    },
    /// A service account's token that does not change.
    Jwt {
        mount: String,
        role: String,
        jwt: Zeroizing<String>,
    },
    /// A service account's fresh token.
    ServiceAccount {
        mount: String,
        role: String,
        namespace: String,
        name: String,
        audiences: Vec<String>,
        access: Access,
    },
    /// The token of the pod that asks.
    Pod {
        mount: String,
        role: String,
        audience: Option<String>,
    },
}

/// As whom a volume asks. Those that are equal share a login.
pub(super) struct Identity<'a> {
    /// The pod's; `None` for certmount itself.
    of_pod: Option<Account>,
    token: Option<&'a PodToken>,
}

/// Namespace and name of a service account.
type Account = (String, String);

/// All logins of one issuer.
#[derive(Debug)]
pub(super) struct Sessions {
    api: Arc<Api>,
    credentials: Credentials,
    clock: Clock,
    sessions: Mutex<HashMap<Option<Account>, Arc<Session>>>,
    keepers: TaskTracker,
    stop: CancellationToken,
    _stop_with_us: DropGuard,
}

/// The login of one identity: whoever holds the lock logs in, and the others find what comes of it.
type Session = tokio::sync::Mutex<State>;

#[derive(Debug, Default)]
struct State {
    token: Option<Arc<Token>>,
    /// The last failure and when it was known.
    failure: Option<(Instant, IssueError)>,
}

/// A token of the server. Prints nothing of it; it is zeroized.
pub(super) struct Token {
    secret: Zeroizing<String>,
    /// Whether it came of a login of ours, and may be revoked.
    ours: bool,
    renewable: bool,
    since: Instant,
    lease: Mutex<Lease>,
    used: AtomicBool,
    /// Cancelled when it is not to be used any more.
    over: CancellationToken,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    from: Instant,
    /// `None` for a token that does not end.
    length: Option<Duration>,
}

/// A token that was refused sooner than this after its login was refused for what it may do: the
/// next one could do no more.
const YOUNG: Duration = Duration::from_secs(60);

/// A token is not used in its last seconds: it could end on the way.
const MARGIN: Duration = Duration::from_secs(5);

impl Sessions {
    pub(super) fn new(api: Api, credentials: Credentials, clock: Clock) -> Self {
        let stop = CancellationToken::new();
        Self {
            api: Arc::new(api),
            credentials,
            clock,
            sessions: Mutex::default(),
            keepers: TaskTracker::new(),
            _stop_with_us: stop.clone().drop_guard(),
            stop,
        }
    }

    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    /// Who logs in, for people.
    pub(super) fn who(&self) -> String {
        match &self.credentials {
            Credentials::Token(_) => "the token of tokenSecretRef".to_owned(),
            Credentials::AppRole { role_id, .. } => format!("AppRole {role_id}"),
            Credentials::ClientCertificate { name: Some(name), .. } => {
                format!("certificate {name}")
            }
            Credentials::ClientCertificate { name: None, .. } => {
                "the client certificate".to_owned()
            }
            Credentials::Jwt { mount, role, .. }
            | Credentials::ServiceAccount { mount, role, .. }
            | Credentials::Pod { mount, role, .. } => format!("role {role} of {mount}"),
        }
    }

    /// As whom `order` is made.
    ///
    /// # Errors
    ///
    /// Where pods log in as themselves and it is not a pod that asks.
    pub(super) fn identity<'a>(&self, order: &Order<'a>) -> Result<Identity<'a>, IssueError> {
        match (&self.credentials, order.requester) {
            (Credentials::Pod { audience, .. }, Requester::Volume { pod, .. }) => {
                let token = order.tokens.get(audience.as_deref());
                let of_pod = Some((pod.namespace.clone(), pod.service_account.clone()));
                Ok(Identity { of_pod, token })
            }
            (Credentials::Pod { .. }, Requester::Node { .. }) => {
                let message = "podIdentity is for pods, and it is a node that asks: have the \
                               issuer log in with serviceAccountRef, appRole or a certificate";
                Err(IssueError::new(IssueErrorKind::Config, message))
            }
            _ => Ok(Identity { of_pod: None, token: None }),
        }
    }

    /// As whom certmount itself asks; `None` where only pods do.
    pub(super) fn own_identity(&self) -> Option<Identity<'static>> {
        let is_pod = matches!(self.credentials, Credentials::Pod { .. });
        (!is_pod).then_some(Identity { of_pod: None, token: None })
    }

    /// A token of `who`, from a login where there is none that holds. However many ask at once,
    /// there is one login, and they share its failure too.
    pub(super) async fn token(&self, who: &Identity<'_>) -> Result<Arc<Token>, IssueError> {
        let asked_at = Instant::now();
        let session = self.session(who);
        let mut state = session.lock().await;
        if let Some(token) = state.token.as_ref().filter(|token| token.holds()) {
            token.used.store(true, Ordering::Relaxed);
            return Ok(Arc::clone(token));
        }
        if let Some((known_at, failure)) = &state.failure
            && *known_at >= asked_at
        {
            return Err(copy_of(failure));
        }
        match self.log_in(who).await {
            Ok(token) => {
                let token = Arc::new(token);
                self.keep(&token);
                *state = State { token: Some(Arc::clone(&token)), failure: None };
                Ok(token)
            }
            Err(error) => {
                *state = State { token: None, failure: Some((Instant::now(), copy_of(&error))) };
                Err(error)
            }
        }
    }

    /// Whether the server does not know `token` any more, so that another login could help. Asked
    /// when it was refused; the refusal itself does not say.
    pub(super) async fn is_over(&self, token: &Token) -> Result<bool, IssueError> {
        if token.since.elapsed() > YOUNG && token.ours {
            return Ok(true);
        }
        match self.api.look_up(token).await {
            Ok(_) => Ok(false),
            Err(refusal) if refusal.is_forbidden() => match token.ours {
                true => Ok(true),
                false => Err(IssueError::new(
                    IssueErrorKind::Config,
                    format!(
                        "{} does not know the token of tokenSecretRef any more: put a new one \
                         there",
                        self.api.place()
                    ),
                )),
            },
            Err(refusal) => Err(refusal.error),
        }
    }

    /// Has the next of `who` log in again, unless somebody did already.
    pub(super) async fn forget(&self, who: &Identity<'_>, token: &Arc<Token>) {
        let session = self.session(who);
        let mut state = session.lock().await;
        if state.token.as_ref().is_some_and(|current| Arc::ptr_eq(current, token)) {
            state.token = None;
            token.over.cancel();
        }
    }

    /// Gives all tokens back.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.keepers.close();
        self.keepers.wait().await;
    }

    fn session(&self, who: &Identity<'_>) -> Arc<Session> {
        let mut sessions = lock(&self.sessions);
        Arc::clone(sessions.entry(who.of_pod.clone()).or_default())
    }

    async fn log_in(&self, who: &Identity<'_>) -> Result<Token, IssueError> {
        let (path, body) = match &self.credentials {
            Credentials::Token(secret) => return self.adopt(secret).await,
            Credentials::AppRole { mount, role_id, secret_id } => {
                (mount, json!({"role_id": role_id, "secret_id": &**secret_id}))
            }
            Credentials::ClientCertificate { mount, name: Some(name) } => {
                (mount, json!({"name": name}))
            }
            Credentials::ClientCertificate { mount, name: None } => (mount, json!({})),
            Credentials::Jwt { mount, role, jwt } => (mount, with_jwt(role, jwt)),
            Credentials::ServiceAccount { mount, role, namespace, name, audiences, access } => {
                let jwt = access.service_account_token(namespace, name, audiences).await.map_err(
                    |reason| {
                        let message = format!(
                            "the Kubernetes API gives no token of service account \
                             {namespace}/{name}: {reason}; let certmount create \
                             serviceaccounts/token of it: in the chart, list it in \
                             issuers.serviceAccounts"
                        );
                        IssueError::new(IssueErrorKind::Config, message)
                    },
                )?;
                (mount, with_jwt(role, &jwt))
            }
            Credentials::Pod { mount, role, audience } => {
                let jwt = self.pod_token(who, audience.as_deref())?;
                (mount, with_jwt(role, jwt))
            }
        };
        let body = Wiped(body);
        let login = self.api.log_in(&format!("{path}/login"), &body.0).await;
        let grant = login.map_err(|refusal| self.not_let_in(path, refusal))?;
        Ok(Token::granted(grant))
    }

    /// The token of the pod, if it holds.
    fn pod_token<'a>(
        &self,
        who: &Identity<'a>,
        audience: Option<&str>,
    ) -> Result<&'a str, IssueError> {
        let pending = |message| IssueError::new(IssueErrorKind::Pending, message);
        let Some(token) = who.token else {
            let audience = audience.map_or_else(
                || {
                    "; where there are several, the issuer's podIdentity must name an audience"
                        .to_owned()
                },
                |audience| format!(" for the audience {audience:?}"),
            );
            return Err(pending(format!(
                "kubelet has handed over no token of the pod's service account{audience}: the \
                 CSIDriver needs tokenRequests, serviceAccountTokenInSecrets: true and \
                 requiresRepublish: true"
            )));
        };
        if token.expires_at <= self.clock.now() {
            return Err(pending(format!(
                "the token of the pod's service account ended at {}, and kubelet has handed over \
                 no other: the CSIDriver needs requiresRepublish: true",
                token.expires_at
            )));
        }
        Ok(token.secret())
    }

    /// A token that somebody else got, with what the server knows of it.
    async fn adopt(&self, secret: &Zeroizing<String>) -> Result<Token, IssueError> {
        let mut token = Token::new(secret.clone(), None);
        match self.api.look_up(&token).await {
            Ok(data) => {
                let length = (data.ttl > 0).then(|| Duration::from_secs(data.ttl));
                token.lease = Mutex::new(Lease { from: Instant::now(), length });
                token.renewable = data.renewable;
                Ok(token)
            }
            // It may be good for signing and nothing else.
            Err(refusal) if refusal.is_forbidden() => Ok(token),
            Err(refusal) => Err(refusal.error),
        }
    }

    fn not_let_in(&self, mount: &str, refusal: Refusal) -> IssueError {
        let Refusal { status, said, error } = refusal;
        let is_ours = matches!(
            status,
            Some(
                StatusCode::BAD_REQUEST
                    | StatusCode::UNAUTHORIZED
                    | StatusCode::FORBIDDEN
                    | StatusCode::NOT_FOUND
            )
        );
        if !is_ours {
            return error;
        }
        let hint = match &self.credentials {
            Credentials::AppRole { .. } => {
                ": every node logs in for itself, so the secret id must not be for one use \
                 (secret_id_num_uses=0)"
            }
            _ => "",
        };
        let message =
            format!("{} does not let {} in at {mount}: {said}{hint}", self.api.place(), self.who());
        IssueError::new(IssueErrorKind::Config, message)
    }

    /// Starts the task that keeps `token`.
    fn keep(&self, token: &Arc<Token>) {
        let (api, token, stop) = (Arc::clone(&self.api), Arc::clone(token), self.stop.clone());
        self.keepers.spawn(async move {
            keep_alive(&api, &token, &stop).await;
            token.over.cancel();
            if token.ours {
                // It ends by itself where this fails.
                let _ = api.revoke_self(&token).await;
            }
        });
    }
}

/// Renews `token` while it is used, and returns when it is to be given back.
async fn keep_alive(api: &Api, token: &Token, stop: &CancellationToken) {
    let mut retry_at = None;
    loop {
        let due = retry_at.take().or_else(|| token.lease().renew_at());
        tokio::select! {
            () = stop.cancelled() => return,
            () = token.over.cancelled() => return,
            () = sleep_until(due) => {}
        }
        let wanted = token.used.swap(false, Ordering::Relaxed) || !token.ours;
        if !token.renewable || !wanted {
            // What was not used for so long is not missed; what cannot be renewed serves to its end.
            if token.renewable {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = token.over.cancelled() => return,
                () = sleep_until(token.lease().ends_at()) => return,
            }
        }
        match api.renew_self(token).await {
            Ok(grant) => {
                let before = token.lease().length;
                let lease = Lease::of_seconds(grant.lease_duration);
                *lock(&token.lease) = lease;
                // It comes to the end of what it may live at all: another login serves better.
                if token.ours && lease.length < before.map(|before| before / 3) {
                    return;
                }
            }
            Err(refusal) if refusal.status.is_some_and(|status| status.is_client_error()) => return,
            Err(_) => {
                let left = token.lease().ends_at().map(|end| end - Instant::now());
                let wait = left.map_or(RETRY, |left| (left / 4).min(RETRY));
                if left.is_some_and(|left| left.is_zero()) {
                    return;
                }
                token.used.store(wanted, Ordering::Relaxed);
                retry_at = Some(Instant::now() + wait.max(Duration::from_secs(1)));
            }
        }
    }
}

/// After a renewal that failed for want of a server.
const RETRY: Duration = Duration::from_secs(60);

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Token {
    fn new(secret: Zeroizing<String>, length: Option<Duration>) -> Self {
        let now = Instant::now();
        Self {
            secret,
            ours: false,
            renewable: false,
            since: now,
            lease: Mutex::new(Lease { from: now, length }),
            used: AtomicBool::new(true),
            over: CancellationToken::new(),
        }
    }

    fn granted(grant: Grant) -> Self {
        let Grant { client_token, lease_duration, renewable, token_type } = grant;
        let length = Lease::of_seconds(lease_duration).length;
        let ours = token_type != "batch";
        Self { ours, renewable: renewable && ours, ..Self::new(client_token, length) }
    }

    /// The token itself, for the server only.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    fn holds(&self) -> bool {
        let Lease { from, length } = self.lease();
        let left = length.map(|length| (from + length).saturating_duration_since(Instant::now()));
        let margin = length.map_or(MARGIN, |length| MARGIN.min(length / 10));
        !self.over.is_cancelled() && left.is_none_or(|left| left > margin)
    }

    fn lease(&self) -> Lease {
        *lock(&self.lease)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("ours", &self.ours).finish_non_exhaustive()
    }
}

impl Lease {
    fn of_seconds(seconds: u64) -> Self {
        let length = (seconds > 0).then(|| Duration::from_secs(seconds));
        Self { from: Instant::now(), length }
    }

    fn renew_at(self) -> Option<Instant> {
        self.length.map(|length| self.from + length * 2 / 3)
    }

    fn ends_at(self) -> Option<Instant> {
        self.length.map(|length| self.from + length)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

fn with_jwt(role: &str, jwt: &str) -> Value {
    json!({"role": role, "jwt": jwt})
}

/// A login, wiped when it is sent.
struct Wiped(Value);

impl Drop for Wiped {
    fn drop(&mut self) {
        use zeroize::Zeroize as _;
        for value in self.0.as_object_mut().into_iter().flat_map(|fields| fields.values_mut()) {
            if let Value::String(text) = value {
                text.zeroize();
            }
        }
    }
}

/// The same for another who waited for it.
fn copy_of(error: &IssueError) -> IssueError {
    let message = crate::error::with_causes(error);
    IssueError { retry_after: error.retry_after, ..IssueError::new(error.kind, message) }
}
