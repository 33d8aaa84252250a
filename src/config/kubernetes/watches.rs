//! One watch for each kind of issuer and for each Secret, as words about what changed.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use super::{IssuerName, SecretName};
use crate::kubernetes::watch_reason;
use crate::spec::object::{self, API_VERSION, IssuerKind, Object, SecretObject};

/// What is watched.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Subject {
    Issuers(IssuerKind),
    Secret(SecretName),
}

/// Something that a watch told.
pub(super) enum Heard {
    /// An issuer as it is now, or what is wrong with it; `None` if it is gone.
    Issuer { name: IssuerName, read: Option<Result<Object, String>> },
    /// These are all issuers of the kind that there are.
    All { kind: IssuerKind, names: BTreeSet<IssuerName> },
    /// A Secret as it is now.
    Secret { name: SecretName, secret: Option<SecretObject> },
    /// A watch fails, and will be tried again.
    Trouble { subject: Subject, reason: String },
    /// It works again.
    GoesOn { subject: Subject },
}

/// Starts watches.
pub(super) struct Watcher {
    client: Client,
    heard: mpsc::Sender<Heard>,
}

impl Watcher {
    pub(super) fn new(client: Client, heard: mpsc::Sender<Heard>) -> Self {
        Self { client, heard }
    }

    /// Watches `subject` until the handle is dropped.
    pub(super) fn watch(&self, subject: Subject) -> AbortOnDropHandle<()> {
        let heard = self.heard.clone();
        let client = self.client.clone();
        AbortOnDropHandle::new(match subject {
            Subject::Issuers(kind) => tokio::spawn(issuers(client, kind, heard)),
            Subject::Secret(name) => tokio::spawn(secret(client, name, heard)),
        })
    }
}

async fn issuers(client: Client, kind: IssuerKind, heard: mpsc::Sender<Heard>) {
    let (group, version) = API_VERSION.split_once('/').expect("it has a group");
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind.to_string()));
    let objects: Api<DynamicObject> = Api::all_with(client, &resource);
    let types = TypeMeta { api_version: API_VERSION.to_owned(), kind: kind.to_string() };
    let mut listed = BTreeSet::new();
    tell(watcher(objects, Config::default()), Subject::Issuers(kind), heard, move |event| {
        let name = |object: &DynamicObject| (kind, object.namespace(), object.name_any());
        match event {
            Event::Init => {
                listed.clear();
                None
            }
            Event::InitDone => Some(Heard::All { kind, names: std::mem::take(&mut listed) }),
            Event::InitApply(object) => {
                listed.insert(name(&object));
                Some(Heard::Issuer { name: name(&object), read: Some(read(object, &types)) })
            }
            Event::Apply(object) => {
                Some(Heard::Issuer { name: name(&object), read: Some(read(object, &types)) })
            }
            Event::Delete(object) => Some(Heard::Issuer { name: name(&object), read: None }),
        }
    })
    .await;
}

/// Reads an object by the same rules as one in a file.
fn read(mut object: DynamicObject, types: &TypeMeta) -> Result<Object, String> {
    object.types = Some(types.clone());
    // Kilobytes that nobody reads.
    object.metadata.managed_fields = None;
    object.metadata.annotations = None;
    let text = serde_json::to_string(&object).map_err(|error| error.to_string())?;
    let document = object::parse(&text).pop().ok_or("the object is empty")?;
    document.map(|document| document.object).map_err(|error| error.message)
}

async fn secret(client: Client, name: SecretName, heard: mpsc::Sender<Heard>) {
    let secrets: Api<Secret> = Api::namespaced(client, &name.0);
    let only_one = Config::default().fields(&format!("metadata.name={}", name.1));
    let mut there = false;
    let subject = Subject::Secret(name.clone());
    tell(watcher(secrets, only_one), subject, heard, move |event| {
        let secret = match event {
            Event::Init => {
                there = false;
                return None;
            }
            Event::InitDone if there => return None,
            Event::InitDone | Event::Delete(_) => None,
            Event::InitApply(secret) | Event::Apply(secret) => {
                there = true;
                Some(values(secret, &name))
            }
        };
        Some(Heard::Secret { name: name.clone(), secret })
    })
    .await;
}

/// The values move, so that what is wiped later is all there is.
fn values(secret: Secret, (namespace, name): &SecretName) -> SecretObject {
    let values = secret.data.into_iter().flatten();
    let values = values.map(|(key, value)| (key, Zeroizing::new(value.0)));
    SecretObject::new(Some(namespace.clone()), name.clone(), values)
}

/// Hands on what `words` makes of each event, and what goes wrong in between.
async fn tell<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    subject: Subject,
    heard: mpsc::Sender<Heard>,
    mut words: impl FnMut(Event<K>) -> Option<Heard>,
) where
    K: Send,
{
    let mut events = pin!(events.default_backoff());
    let mut in_trouble = false;
    while let Some(event) = events.next().await {
        let said = match event {
            // Nothing was read with it.
            Ok(Event::Init) => words(Event::Init),
            Ok(event) => {
                if std::mem::take(&mut in_trouble) {
                    let _ = heard.send(Heard::GoesOn { subject: subject.clone() }).await;
                }
                words(event)
            }
            // The server has forgotten what it had told last, as after its restart; all is listed anew.
            Err(watcher::Error::WatchError(status)) if status.code == GONE => None,
            Err(error) => {
                in_trouble = true;
                let reason = watch_reason(&error);
                Some(Heard::Trouble { subject: subject.clone(), reason })
            }
        };
        if let Some(said) = said
            && heard.send(said).await.is_err()
        {
            return;
        }
    }
}

/// The status of a watch whose place in time is no longer known.
const GONE: u16 = 410;

impl Subject {
    pub(super) fn is_issuers(&self) -> bool {
        matches!(self, Self::Issuers(_))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issuers(kind) => write!(f, "the {kind}s"),
            Self::Secret((namespace, name)) => write!(f, "Secret {namespace}/{name}"),
        }
    }
}
