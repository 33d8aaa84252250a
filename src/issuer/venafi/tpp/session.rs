//! Who we are at a server: somebody's access token, or tokens that a user and a password get.
//!
//! All volumes of an issuer share them: one login is enough for all. What the server refused is not
//! tried again before a while, since that can lock an account.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{Sdk, refused, said};
use crate::clock::Timestamp;
use crate::issuer::venafi::{secret_text, words};
use crate::issuer::web::Answer;
use crate::issuer::{BuildError, IssueError, IssueErrorKind, Materials};
use crate::spec::object::TppSpec;

/// What one logs in with, from a Secret.
pub(in crate::issuer::venafi) struct Login {
    /// The Secret, for people.
    secret: String,
    credentials: Credentials,
}

enum Credentials {
    AccessToken(Zeroizing<String>),
    Password { client_id: String, username: String, password: Zeroizing<String> },
}

/// The session that all volumes of an issuer share.
pub(super) struct Session {
    login: Login,
    state: Mutex<State>,
    /// When somebody's access token ends.
    expires: OnceLock<Timestamp>,
}

#[derive(Default)]
struct State {
    tokens: Option<Arc<Tokens>>,
    /// What the server said when it let us in no more, and until when it is believed.
    refused: Option<(Instant, String)>,
}

/// What we are let in with. Prints nothing, and is zeroized.
pub(super) struct Tokens {
    access: Zeroizing<String>,
    refresh: Option<Zeroizing<String>>,
    /// When to have it refreshed.
    until: Option<Instant>,
}

/// The application that cert-manager's users have registered.
const CLIENT_ID: &str = "cert-manager.io";

/// What is needed to ask for certificates and to pick them up.
const SCOPE: &str = "certificate:manage";

/// How long a refusal is believed.
const REFUSAL: Duration = Duration::from_secs(60);

/// Operators get so much time to put another access token into the Secret.
const WARN_BEFORE_END: Duration = Duration::from_secs(14 * 86_400);

impl Login {
    /// Reads the Secret that `spec` names.
    ///
    /// # Errors
    ///
    /// When it is not there, or has neither a token nor user and password.
    pub(in crate::issuer::venafi) fn new(
        spec: &TppSpec,
        materials: &Materials,
    ) -> Result<Self, BuildError> {
        let secret = materials.secret(&spec.credentials)?;
        let text = |key| secret.get(key).and_then(secret_text);
        let credentials = match (text("access-token"), text("username"), text("password")) {
            (Some(token), _, _) => Credentials::AccessToken(token),
            (None, Some(username), Some(password)) => Credentials::Password {
                client_id: text("client-id")
                    .map_or_else(|| CLIENT_ID.to_owned(), |id| id.to_string()),
                username: username.to_string(),
                password,
            },
            _ => {
                return Err(BuildError::Missing(format!(
                    "{secret} has neither access-token nor username and password: add them"
                )));
            }
        };
        Ok(Self { secret: secret.to_string(), credentials })
    }
}

impl Session {
    pub(super) fn new(login: Login) -> Self {
        Self { login, state: Mutex::default(), expires: OnceLock::new() }
    }

    /// The tokens to use now: others than those that the server has just `rejected`.
    ///
    /// # Errors
    ///
    /// `Config` when it lets us in no more; what stood in the way of asking.
    pub(super) async fn tokens(
        &self,
        sdk: &Sdk,
        rejected: Option<(&Arc<Tokens>, &Answer)>,
    ) -> Result<Arc<Tokens>, IssueError> {
        let mut state = self.state.lock().await;
        if let Some((until, message)) = &state.refused
            && Instant::now() < *until
        {
            return Err(IssueError::new(IssueErrorKind::Config, message.clone()));
        }
        let is_rejected = |tokens: &Arc<Tokens>| {
            rejected.is_some_and(|(rejected, _)| Arc::ptr_eq(rejected, tokens))
        };
        let old = match &state.tokens {
            Some(tokens) if !is_rejected(tokens) && tokens.are_fresh() => {
                return Ok(Arc::clone(tokens));
            }
            old => old.clone(),
        };
        let got = match (&self.login.credentials, rejected) {
            (Credentials::AccessToken(_), Some((_, answer))) => Err(self.shut_out(sdk, answer)),
            (Credentials::AccessToken(token), None) => self.verify(sdk, token).await,
            (Credentials::Password { client_id, username, password }, _) => {
                let refreshed = match old.as_ref().and_then(|old| old.refresh.as_ref()) {
                    Some(token) => Self::refresh(sdk, client_id, token).await?,
                    None => None,
                };
                match refreshed {
                    Some(tokens) => Ok(tokens),
                    None => self.log_in(sdk, client_id, username, password).await,
                }
            }
        };
        match got {
            Ok(tokens) => {
                let tokens = Arc::new(tokens);
                *state = State { tokens: Some(Arc::clone(&tokens)), refused: None };
                Ok(tokens)
            }
            Err(error) => {
                state.tokens = None;
                if error.kind == IssueErrorKind::Config {
                    state.refused = Some((Instant::now() + REFUSAL, error.message.clone()));
                }
                Err(error)
            }
        }
    }

    /// Looks at somebody's access token before its first use.
    async fn verify(&self, sdk: &Sdk, token: &Zeroizing<String>) -> Result<Tokens, IssueError> {
        let answer = sdk.get("vedauth/authorize/verify", token).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(self.shut_out(sdk, &answer));
            }
            _ => return Err(refused(&answer)),
        }
        let verified = answer.json::<Verified>()?;
        if !verified.scope.is_empty() && !verified.scope.contains("certificate") {
            let message = format!(
                "the access token in the {} is for {}, and not for {SCOPE}: put another one there",
                self.login.secret,
                words(&verified.scope)
            );
            return Err(IssueError::new(IssueErrorKind::Config, message));
        }
        if let Ok(expires) = verified.expires.parse() {
            // Another token is in another Secret, and so in another session.
            let _ = self.expires.set(expires);
        }
        Ok(Tokens { access: token.clone(), refresh: None, until: None })
    }

    /// New tokens for a refresh token; `None` where the server does not take it any more.
    async fn refresh(
        sdk: &Sdk,
        client_id: &str,
        token: &Zeroizing<String>,
    ) -> Result<Option<Tokens>, IssueError> {
        let asked = Refresh { client_id, refresh_token: token };
        let answer = sdk.post("vedauth/authorize/token", None, &asked).await?;
        match answer.status.as_u16() {
            200 => Ok(Some(Tokens::from_answer(&answer)?)),
            400 | 401 | 403 => Ok(None),
            _ => Err(refused(&answer)),
        }
    }

    async fn log_in(
        &self,
        sdk: &Sdk,
        client_id: &str,
        username: &str,
        password: &Zeroizing<String>,
    ) -> Result<Tokens, IssueError> {
        let asked = Authorize { client_id, username, password, scope: SCOPE };
        let answer = sdk.post("vedauth/authorize/oauth", None, &asked).await?;
        match answer.status {
            StatusCode::OK => Tokens::from_answer(&answer),
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let message = format!(
                    "{} does not let the user of the {} in: {}; correct username and password, and \
                     have the application {} there with the scope {SCOPE}",
                    sdk.place(),
                    self.login.secret,
                    told(&answer),
                    words(client_id),
                );
                Err(IssueError::new(IssueErrorKind::Config, message))
            }
            _ => Err(refused(&answer)),
        }
    }

    /// Somebody's access token is of no use any more.
    fn shut_out(&self, sdk: &Sdk, answer: &Answer) -> IssueError {
        let message = format!(
            "{} does not take the access token in the {}: {}; put a new one there",
            sdk.place(),
            self.login.secret,
            told(answer)
        );
        IssueError::new(IssueErrorKind::Config, message)
    }

    /// What an operator should do about an access token that ends soon.
    pub(super) fn warning(&self, now: Timestamp) -> Option<String> {
        let expires = *self.expires.get()?;
        let left = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
        (left < WARN_BEFORE_END).then(|| {
            format!(
                "the access token in the {} ends at {expires}: put a new one there",
                self.login.secret
            )
        })
    }
}

impl Tokens {
    pub(super) fn access(&self) -> &str {
        &self.access
    }

    fn are_fresh(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }

    fn from_answer(answer: &Answer) -> Result<Self, IssueError> {
        let granted = answer.json::<Granted>()?;
        // Refreshed a little before the end, so that none ends on its way.
        let left = granted.expires_in.map(Duration::from_secs);
        let left = left.map(|left| left - (left / 10).min(Duration::from_secs(60)));
        Ok(Self {
            access: Zeroizing::new(granted.access_token),
            refresh: granted.refresh_token.map(Zeroizing::new),
            until: left.map(|left| Instant::now() + left.min(LONGEST_USE)),
        })
    }
}

/// Tokens that claim to hold for longer are refreshed after this.
const LONGEST_USE: Duration = Duration::from_secs(86_400);

fn told(answer: &Answer) -> String {
    let said = said(answer).or_else(|| answer.reason.clone());
    words(&said.unwrap_or_else(|| format!("status {}", answer.status.as_u16())))
}

#[derive(Serialize)]
struct Authorize<'a> {
    client_id: &'a str,
    username: &'a str,
    password: &'a str,
    scope: &'a str,
}

#[derive(Serialize)]
struct Refresh<'a> {
    client_id: &'a str,
    refresh_token: &'a str,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    refresh_token: Option<String>,
    /// In seconds.
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct Verified {
    #[serde(default)]
    scope: String,
    #[serde(default, rename = "expires_ISO8601")]
    expires: String,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("secret", &self.login.secret).finish_non_exhaustive()
    }
}
