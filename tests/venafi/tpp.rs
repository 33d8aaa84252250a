//! A TPP as its clients see it: tokens, policy folders, and objects that are enrolled in stages.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certmount::clock::{Clock, Timestamp};
use certmount::x509::{Certificate, chain_to_pem};
use serde_json::{Value, json};

use super::server::{Ca, Call, Reply, Server};

/// The server. Knows the policy folder `\VED\Policy\DevOps\shop`, the access token `token-0`, and
/// the user `certmount` with the password `sesame`, for the application `cert-manager.io`.
pub struct Tpp {
    pub server: Server,
    state: Arc<Mutex<State>>,
}

struct State {
    ca: Ca,
    calls: Vec<Call>,
    /// Answers that are given instead of the right ones, each once.
    told: Vec<(&'static str, Reply)>,
    objects: BTreeMap<String, Object>,
    settings: Settings,
    access_tokens: Vec<String>,
    refresh_tokens: Vec<String>,
    logins: usize,
}

/// How it behaves.
#[derive(Clone)]
pub struct Settings {
    /// Where it listens.
    pub address: &'static str,
    /// How often an enrolment is looked at before it is done; `None` until [`Tpp::approve`].
    pub stages: Option<u32>,
    /// How many enrolments fail, and what of.
    pub failures: (u32, &'static str),
    pub policy: Value,
    /// The life of certificates, where it is not what is asked for.
    pub life: Option<Duration>,
    pub root_first: bool,
    pub wrong_key: bool,
    /// What of the PEM text is answered, in bytes.
    pub cut_at: Option<usize>,
    /// The life of OAuth tokens, in seconds.
    pub expires_in: u64,
}

/// A certificate object.
struct Object {
    certificate: Option<Vec<Certificate>>,
    enrolment: Enrolment,
}

enum Enrolment {
    None,
    /// The request, and what is left to be done.
    Running {
        request: String,
        life: Duration,
        stages: Option<u32>,
    },
    Failed(&'static str),
}

const FOLDER: &str = r"\VED\Policy\DevOps\shop";

impl Tpp {
    pub async fn start() -> Self {
        Self::with(Settings::default()).await
    }

    pub async fn with(settings: Settings) -> Self {
        let address = settings.address;
        let state = State {
            ca: Ca::new(),
            calls: Vec::new(),
            told: Vec::new(),
            objects: BTreeMap::new(),
            settings,
            access_tokens: vec!["token-0".to_owned()],
            refresh_tokens: Vec::new(),
            logins: 0,
        };
        let state = Arc::new(Mutex::new(state));
        let answering = Arc::clone(&state);
        let server = Server::start(address, move |call| lock(&answering).answer(call)).await;
        Self { server, state }
    }

    /// Answers the next call of `path` so.
    pub fn tell(&self, path: &'static str, reply: Reply) {
        lock(&self.state).told.push((path, reply));
    }

    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut lock(&self.state).settings);
    }

    /// Has all enrolments that wait for it done.
    pub fn approve(&self) {
        for object in lock(&self.state).objects.values_mut() {
            if let Enrolment::Running { stages, .. } = &mut object.enrolment {
                *stages = Some(0);
            }
        }
    }

    /// Has all enrolments that run end without a certificate.
    pub fn reject(&self, status: &'static str) {
        for object in lock(&self.state).objects.values_mut() {
            object.enrolment = Enrolment::Failed(status);
        }
    }

    /// Takes all tokens out of use.
    pub fn revoke_tokens(&self) {
        let mut state = lock(&self.state);
        state.access_tokens.clear();
        state.refresh_tokens.clear();
    }

    pub fn allow_token(&self, token: &str) {
        lock(&self.state).access_tokens.push(token.to_owned());
    }

    /// The calls of `path`, or all of them.
    pub fn calls(&self, path: &str) -> Vec<Call> {
        let calls = lock(&self.state).calls.clone();
        calls.into_iter().filter(|call| call.what.ends_with(path)).collect()
    }

    /// The names of the objects.
    pub fn objects(&self) -> Vec<String> {
        lock(&self.state).objects.keys().cloned().collect()
    }

    pub fn root(&self) -> Certificate {
        lock(&self.state).ca.root.clone()
    }
}

impl Default for Settings {
    fn default() -> Self {
        let set = |value: Value| json!({"Locked": false, "Value": value});
        Self {
            address: "127.0.0.1",
            stages: Some(0),
            failures: (0, ""),
            policy: json!({
                "CertificateAuthority": set(r"\VED\Policy\CAs\issuing".into()),
                "CsrGeneration": set("UserProvided".into()),
                "KeyGeneration": set("Central".into()),
                "KeyPair": {
                    "KeyAlgorithm": set("RSA".into()),
                    "KeySize": set(2048.into()),
                    "EllipticCurve": set("P256".into()),
                },
                "ManagementType": set("Enrollment".into()),
                "PrivateKeyReuseAllowed": true,
                "SubjAltNameDnsAllowed": true,
                "SubjAltNameEmailAllowed": true,
                "SubjAltNameIpAllowed": true,
                "SubjAltNameUpnAllowed": false,
                "SubjAltNameUriAllowed": true,
                "Subject": {
                    "City": set(Value::Null),
                    "Country": set(Value::Null),
                    "Organization": set(Value::Null),
                    "OrganizationalUnit": {"Locked": false, "Values": []},
                    "State": set(Value::Null),
                },
                "UniqueSubjectEnforced": false,
                "WhitelistedDomains": [],
                "WildcardsAllowed": true,
            }),
            life: None,
            root_first: false,
            wrong_key: false,
            cut_at: None,
            expires_in: 3600,
        }
    }
}

impl State {
    fn answer(&mut self, call: &Call) -> Reply {
        self.calls.push(call.clone());
        if let Some(at) = self.told.iter().position(|(path, _)| call.what.ends_with(path)) {
            return self.told.remove(at).1;
        }
        match call.what.as_str() {
            "POST vedauth/authorize/oauth" => return self.authorize(call),
            "POST vedauth/authorize/token" => return self.refresh(call),
            _ => {}
        }
        let known = |token: &str| self.access_tokens.iter().any(|known| known == token);
        if !call.bearer().is_some_and(known) {
            let error = json!({
                "error": "invalid_token",
                "error_description": "Access token is expired or was revoked",
            });
            return Reply::json(401, &error);
        }
        let dn = call.text("CertificateDN");
        match call.what.as_str() {
            "GET vedauth/authorize/verify" => Reply::json(
                200,
                &json!({
                    "application": "cert-manager.io",
                    "expires_ISO8601": "2999-01-01T00:00:00.0000000Z",
                    "identity": "local:{6a1f6b9c-4c1a-4d5b-9f0e-1a2b3c4d5e6f}",
                    "scope": "certificate:manage",
                    "valid_for": 7_776_000,
                }),
            ),
            // What cert-manager asks to see whether it is let in.
            "GET vedsdk/" => Reply::json(200, &json!({})),
            "GET vedsdk/Identity/Self" => Reply::json(
                200,
                &json!({"Identities": [{
                    "FullName": r"\VED\Identity\certmount",
                    "Name": "certmount",
                    "Prefix": "local",
                    "PrefixedName": "local:certmount",
                    "PrefixedUniversal": "local:{6a1f6b9c-4c1a-4d5b-9f0e-1a2b3c4d5e6f}",
                    "Type": 1,
                    "Universal": "{6a1f6b9c-4c1a-4d5b-9f0e-1a2b3c4d5e6f}",
                }]}),
            ),
            // Custom fields that the object has.
            "POST vedsdk/metadata/get" => Reply::json(200, &json!({"Data": [], "Result": 0})),
            "POST vedsdk/certificates/checkpolicy" => match call.text("PolicyDN") {
                FOLDER => Reply::json(200, &json!({"Policy": self.settings.policy})),
                dn => error(&format!("PolicyDN: {dn} does not exist")),
            },
            "POST vedsdk/certificates/reset" => self.reset(dn),
            "POST vedsdk/certificates/request" => self.request(call),
            "POST vedsdk/certificates/retrieve" => self.retrieve(dn),
            _ => Reply::status(404),
        }
    }

    fn authorize(&mut self, call: &Call) -> Reply {
        let expected = json!({
            "client_id": "cert-manager.io",
            "username": "certmount",
            "password": "sesame",
            "scope": "certificate:manage",
        });
        if call.body != expected {
            let error = json!({
                "error": "invalid_grant",
                "error_description": "Username/password combination not valid",
            });
            return Reply::json(400, &error);
        }
        self.grant()
    }

    fn refresh(&mut self, call: &Call) -> Reply {
        let token = call.text("refresh_token");
        let Some(at) = self.refresh_tokens.iter().position(|known| known == token) else {
            let error = json!({"error": "invalid_grant", "error_description": "Grant has expired"});
            return Reply::json(400, &error);
        };
        self.refresh_tokens.remove(at);
        self.grant()
    }

    fn grant(&mut self) -> Reply {
        self.logins += 1;
        let access = format!("access-{}", self.logins);
        let refresh = format!("refresh-{}", self.logins);
        self.access_tokens.push(access.clone());
        self.refresh_tokens.push(refresh.clone());
        let granted = json!({
            "access_token": access,
            "expires_in": self.settings.expires_in,
            "identity": "local:{6a1f6b9c-4c1a-4d5b-9f0e-1a2b3c4d5e6f}",
            "refresh_token": refresh,
            "refresh_until": 4_102_444_800_u64,
            "scope": "certificate:manage",
            "token_type": "Bearer",
        });
        Reply::json(200, &granted)
    }

    fn reset(&mut self, dn: &str) -> Reply {
        match self.objects.get_mut(dn) {
            None => not_found(dn),
            Some(Object { enrolment: Enrolment::None, .. }) => {
                error("Reset is not completed. No reset is required for the certificate.")
            }
            Some(object) => {
                object.enrolment = Enrolment::None;
                Reply::json(200, &json!({"ProcessingResetCompleted": true}))
            }
        }
    }

    fn request(&mut self, call: &Call) -> Reply {
        let name = call.text("ObjectName");
        if call.text("PolicyDN") != FOLDER || name.is_empty() || name.contains('\\') {
            return error("PolicyDN or ObjectName is not valid");
        }
        let dn = format!("{FOLDER}\\{name}");
        let attributes = call.body["CASpecificAttributes"].as_array().into_iter().flatten();
        let end = attributes.clone().find(|attribute| attribute["Name"] == "Specific End Date");
        let asked = end.map_or(Duration::from_secs(86_400), |end| {
            let end: Timestamp = end["Value"].as_str().unwrap().parse().unwrap();
            Duration::try_from(end.duration_since(Clock::system().now())).unwrap()
        });
        let object = self
            .objects
            .entry(dn.clone())
            .or_insert(Object { certificate: None, enrolment: Enrolment::None });
        if !matches!(object.enrolment, Enrolment::None) {
            return error("Fix any errors, and then click Retry.");
        }
        object.enrolment = match &mut self.settings.failures {
            (0, _) => Enrolment::Running {
                request: call.text("PKCS10").to_owned(),
                life: self.settings.life.unwrap_or(asked),
                stages: self.settings.stages,
            },
            (left, status) => {
                *left -= 1;
                Enrolment::Failed(status)
            }
        };
        Reply::json(200, &json!({"CertificateDN": dn, "Guid": "{b4b1e1d2}"}))
    }

    fn retrieve(&mut self, dn: &str) -> Reply {
        let Some(object) = self.objects.get_mut(dn) else { return not_found(dn) };
        match &mut object.enrolment {
            Enrolment::None => {}
            Enrolment::Failed(status) => {
                return Reply::json(500, &json!({"Stage": 500, "Status": status}));
            }
            Enrolment::Running { stages: None, .. } => {
                let status = "Waiting for approval by Security";
                return Reply::json(202, &json!({"Stage": 100, "Status": status}));
            }
            Enrolment::Running { stages: Some(left), .. } if *left > 0 => {
                *left -= 1;
                return Reply::json(202, &json!({"Stage": 500, "Status": "Post CSR"}));
            }
            Enrolment::Running { request, life, .. } => {
                object.certificate = Some(match self.settings.wrong_key {
                    true => self.ca.sign_for_another_key(request),
                    false => self.ca.sign(request, *life),
                });
                object.enrolment = Enrolment::None;
            }
        }
        let Some(chain) = &object.certificate else { return not_found(dn) };
        let pem = match self.settings.root_first {
            true => chain_to_pem(chain.iter().rev()),
            false => chain_to_pem(chain),
        };
        let pem = &pem[..self.settings.cut_at.unwrap_or(pem.len())];
        let data = STANDARD.encode(pem);
        let answer = json!({"CertificateData": data, "Filename": "web.cer", "Format": "base64"});
        Reply::json(200, &answer)
    }
}

fn error(message: &str) -> Reply {
    Reply::json(400, &json!({"Error": message}))
}

fn not_found(dn: &str) -> Reply {
    error(&format!(
        "Certificate {dn} does not exist or you do not have sufficient rights to the object."
    ))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
