//! Who asks Route 53: a user's access key, or a role that STS gives for one or for a service
//! account.

use std::sync::Arc;

use tokio::sync::Mutex;
use url::Url;
use zeroize::Zeroizing;

use super::super::word;
use super::signature::{Keys, Scope, encoded};
use super::{error, xml};
use crate::clock::{Clock, Timestamp};
use crate::issuer::web::{Answer, Web};
use crate::issuer::{BuildError, IssueError, IssueErrorKind, Materials, Surroundings};
use crate::kubernetes::Access;
use crate::spec::object::dns01::{AccessKeyId, Route53Auth, Route53Spec, ServiceAccountRef};

/// Where the keys come from that requests are signed with.
pub(super) struct Credentials {
    source: Source,
    role: Option<String>,
    region: String,
    pub(super) sts: Url,
    /// What STS gave, while it is good. Others wait for who gets it.
    session: Mutex<Option<Session>>,
    clock: Clock,
}

enum Source {
    Keys(Arc<Keys>),
    ServiceAccount { access: Access, namespace: String, account: ServiceAccountRef },
}

struct Session {
    keys: Arc<Keys>,
    until: Timestamp,
}

/// Whom the tokens of service accounts are for, where the spec does not say.
const STS_AUDIENCE: &str = "sts.amazonaws.com";

/// How long a role is taken on: the longest that every role allows.
const SESSION_SECONDS: u32 = 3600;
/// New keys are got so long before the old ones end.
const MARGIN_SECONDS: i64 = 300;

impl Credentials {
    pub(super) fn build(
        spec: &Route53Spec,
        namespace: Option<&str>,
        materials: &Materials,
        surroundings: &Surroundings,
    ) -> Result<Self, BuildError> {
        let source = match &spec.auth {
            Route53Auth::Keys { id, secret } => {
                let id = match id {
                    AccessKeyId::Text(id) => id.clone(),
                    AccessKeyId::Secret(id) => word(materials, id, "access-key-id")?.to_string(),
                };
                let secret = word(materials, secret, "secret-access-key")?;
                Source::Keys(Arc::new(Keys { id, secret, session_token: None }))
            }
            Route53Auth::ServiceAccount(account) => {
                let access = surroundings.access.clone().ok_or_else(|| {
                    BuildError::Missing(
                        "route53.auth.kubernetes needs the Kubernetes API, and this driver was \
                         started without it: start it with --kubernetes, or use an access key"
                            .to_owned(),
                    )
                })?;
                let namespace = namespace.unwrap_or(&access.namespace).to_owned();
                let mut account = account.clone();
                if account.audiences.is_empty() {
                    account.audiences.push(STS_AUDIENCE.to_owned());
                }
                Source::ServiceAccount { access, namespace, account }
            }
        };
        let domain =
            if spec.region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let sts = format!("https://sts.{}.{domain}/", spec.region).parse();
        let invalid =
            |error| BuildError::Unfit(format!("route53.region is not one of AWS: {error}"));
        Ok(Self {
            source,
            role: spec.role.clone(),
            region: spec.region.clone(),
            sts: sts.map_err(invalid)?,
            session: Mutex::default(),
            clock: surroundings.clock.clone(),
        })
    }

    /// The keys to sign with now.
    pub(super) async fn get(&self, web: &Web) -> Result<Arc<Keys>, IssueError> {
        let role = match (&self.role, &self.source) {
            (None, Source::Keys(keys)) => return Ok(Arc::clone(keys)),
            (role, _) => role.as_deref().unwrap_or_default(),
        };
        let mut session = self.session.lock().await;
        if let Some(Session { keys, until }) = &*session
            && *until > self.clock.now()
        {
            return Ok(Arc::clone(keys));
        }
        let new = self.take_on(role, web).await?;
        let keys = Arc::clone(&new.keys);
        *session = Some(new);
        Ok(keys)
    }

    /// Has STS give the keys of `role`.
    async fn take_on(&self, role: &str, web: &Web) -> Result<Session, IssueError> {
        let common = format!(
            "Version=2011-06-15&DurationSeconds={SESSION_SECONDS}&RoleSessionName=certmount\
             &RoleArn={}",
            encoded(role)
        );
        let request = web.post(&self.sts);
        let request = match &self.source {
            Source::Keys(keys) => {
                let body = format!("Action=AssumeRole&{common}").into_bytes();
                let scope = Scope { region: &self.region, service: "sts" };
                let method = hyper::Method::POST;
                let signed = keys.sign(&method, &self.sts, &body, scope, self.clock.now());
                signed.put_on(request.body(FORM, body))
            }
            Source::ServiceAccount { access, namespace, account } => {
                let token = token(access, namespace, account).await?;
                let body = format!(
                    "Action=AssumeRoleWithWebIdentity&{common}&WebIdentityToken={}",
                    encoded(&token)
                );
                request.body(FORM, body.into_bytes())
            }
        };
        let answer = request.send().await?;
        if !answer.status.is_success() {
            return Err(error(&answer));
        }
        session(&answer)
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

async fn token(
    access: &Access,
    namespace: &str,
    account: &ServiceAccountRef,
) -> Result<Zeroizing<String>, IssueError> {
    let ServiceAccountRef { name, audiences } = account;
    access.service_account_token(namespace, name, audiences).await.map_err(|error| {
        let message = format!(
            "there is no token of the service account {namespace}/{name}: let certmount create \
             serviceaccounts/token of it, in the chart by issuers.serviceAccounts ({error})"
        );
        IssueError::new(IssueErrorKind::Config, message)
    })
}

/// What STS gave.
fn session(answer: &Answer) -> Result<Session, IssueError> {
    let body = Zeroizing::new(String::from_utf8_lossy(&answer.body).into_owned());
    let text = |name| xml::text(&body, name).filter(|text| !text.is_empty());
    let found = || {
        let until: Timestamp = text("Expiration")?.parse().ok()?;
        let margin = jiff::SignedDuration::from_secs(MARGIN_SECONDS);
        let keys = Keys {
            id: text("AccessKeyId")?,
            secret: Zeroizing::new(text("SecretAccessKey")?),
            session_token: Some(Zeroizing::new(text("SessionToken")?)),
        };
        Some(Session { keys: Arc::new(keys), until: until.saturating_sub(margin).ok()? })
    };
    found().ok_or_else(|| {
        let message = format!("{} answered without credentials", answer.place());
        IssueError::new(IssueErrorKind::BadResponse, message)
    })
}
