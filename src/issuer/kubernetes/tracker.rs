//! Requests under way: made with one write each, and followed by one watch for all of the node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::utils::Backoff as _;
use kube::runtime::watcher::{self, DefaultBackoff, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::error::{api_error, no_token, pod_error};
use super::name::{NODE_LABEL, Name, VOLUME_LABEL};
use crate::issuer::{IssueError, IssueErrorKind};
use crate::kubernetes::{BearerClient, watch_reason};
use crate::spec::tokens::PodToken;
use crate::sync::lock;

/// A kind of object by which the API server is asked for a certificate.
pub(super) trait Request:
    Resource<DynamicType = ()>
    + Clone
    + fmt::Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// Where such objects are.
    fn api(client: Client, namespace: Option<&str>) -> Api<Self>;

    /// How far this one has come.
    fn progress(&self) -> Progress;
}

/// How far a request has come.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    /// Not decided: who has to do what.
    Waiting(String),
    /// Signed.
    Issued(Answer),
    /// There will be no certificate.
    Refused(IssueErrorKind, String),
}

/// What a signer answered: PEM texts, unchecked.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) certificate: Vec<u8>,
    pub(super) ca: Vec<u8>,
}

/// In whose name a request is made, for those who decide about it.
#[derive(Debug)]
pub(super) enum Author<'a> {
    Driver,
    Pod {
        client: &'a BearerClient,
        /// What kubelet last handed over; it does so a minute or so after a restart.
        token: Option<&'a PodToken>,
        /// The pod's service account, for people.
        account: String,
    },
}

/// How a request ended.
pub(super) type Decision = Result<Answer, IssueError>;

/// The requests of one kind that this node makes.
pub(super) struct Tracker<K> {
    client: Client,
    /// The value of [`NODE_LABEL`].
    node: String,
    board: Arc<Mutex<Board>>,
    /// Each write that waits takes up a connection.
    writes: Semaphore,
    watch: OnceLock<AbortOnDropHandle<()>>,
    /// Wakes a watch that waits before it tries again.
    answers: Arc<Notify>,
    kind: std::marker::PhantomData<fn() -> K>,
}

/// What the watch tells and the orders read.
#[derive(Debug, Default)]
struct Board {
    /// What orders wait for.
    awaited: HashMap<Name, Awaited>,
    /// The requests of each volume that are there, and whether each was signed.
    of_volume: HashMap<String, BTreeMap<Name, bool>>,
    /// While everything is listed: what orders wait for and was not seen yet.
    unseen: BTreeSet<Name>,
    /// Why nothing is heard at present.
    trouble: Option<String>,
}

#[derive(Debug)]
struct Awaited {
    progress: watch::Sender<Progress>,
    /// Whether it is known to be there.
    made: bool,
    /// What the order's last attempt ended with.
    told: Option<String>,
}

/// Whoever is to decide mostly does it at once. After this long somebody should be told to.
const PATIENCE: Duration = Duration::from_secs(10);

/// An attempt waits no longer, though nothing has changed.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// The API server answers a write within this, or never.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

const MOST_WRITES: usize = 32;

/// A watch that was cut off tries again after this at the latest.
const LONGEST_DEAFNESS: Duration = Duration::from_secs(30);

impl<K: Request> Tracker<K> {
    pub(super) fn new(client: Client, node: String) -> Self {
        Self {
            client,
            node,
            board: Arc::default(),
            writes: Semaphore::new(MOST_WRITES),
            watch: OnceLock::new(),
            answers: Arc::default(),
            kind: std::marker::PhantomData,
        }
    }

    /// The value of [`NODE_LABEL`].
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// Has the request `name` decided: makes it as `author`, unless it is there, and waits.
    ///
    /// # Errors
    ///
    /// What stands in the way of a decision. While nobody decides the error is of the kind
    /// [`IssueErrorKind::Pending`]; the next call with the same name takes the request up again.
    pub(super) async fn decision(
        &self,
        name: &Name,
        author: &Author<'_>,
        make: impl FnOnce() -> K,
    ) -> Result<Decision, IssueError> {
        self.watch.get_or_init(|| self.start_watch());
        let (mut progress, made, told) = lock(&self.board).await_progress(name);
        if !made {
            let object = self.submit(name, author, make()).await?;
            let mut board = lock(&self.board);
            board.submitted(name, &object);
            if board.is_deaf() {
                // The API server is back, so the answer would come sooner than the watch.
                self.answers.notify_one();
            }
        }
        let mut deadline = Instant::now() + if told.is_some() { LONGEST_WAIT } else { PATIENCE };
        let mut looked = false;
        loop {
            let now = progress.borrow_and_update().clone();
            let waiting = match now.decision() {
                Ok(decision) => {
                    lock(&self.board).awaited.remove(name);
                    return Ok(decision);
                }
                Err(waiting) => waiting,
            };
            if told.as_ref().is_some_and(|told| *told != waiting) {
                deadline = deadline.min(Instant::now() + PATIENCE);
            }
            if timeout_at(deadline, progress.changed()).await.is_ok() {
                continue;
            }
            // A watch that was cut off comes back later than the API server does.
            if looked || !lock(&self.board).is_deaf() {
                return Err(lock(&self.board).undecided(name, waiting));
            }
            looked = true;
            self.look_at(name).await;
        }
    }

    /// Reads the request `name`, where that is possible at the moment.
    async fn look_at(&self, name: &Name) {
        let api = K::api(self.client.clone(), name.namespace.as_deref());
        if let Ok(Some(object)) = in_time("read a request", api.get_opt(&name.name)).await {
            lock(&self.board).see::<K>(&object);
        }
    }

    /// Makes `object`, or reads the one of its name that an earlier attempt made.
    async fn submit(&self, name: &Name, author: &Author<'_>, object: K) -> Result<K, IssueError> {
        let _turn = self.writes.acquire().await.expect("the semaphore is never closed");
        let api = K::api(self.client.clone(), name.namespace.as_deref());
        let to = |verb| match &name.namespace {
            Some(namespace) => format!("{verb} a {} in namespace {namespace}", K::kind(&())),
            None => format!("{verb} a {}", K::kind(&())),
        };
        let create = to("create");
        let made = match author {
            Author::Driver => in_time(&create, api.create(&PostParams::default(), &object)).await,
            Author::Pod { client, token: Some(token), .. } => {
                let namespace = name.namespace.as_deref();
                let call = client.create(K::api, namespace, &object, token.secret());
                in_time(&create, call).await
            }
            // An earlier process may have had one.
            Author::Pod { token: None, account, .. } => {
                let read = to("read");
                let found = in_time(&read, api.get_opt(&name.name)).await;
                let found = found.map_err(|error| api_error(&read, error))?;
                return found.ok_or_else(|| no_token(&create, account));
            }
        };
        match (made, author) {
            (Err(kube::Error::Api(status)), _) if status.is_already_exists() => {
                let read = to("read");
                in_time(&read, api.get(&name.name)).await.map_err(|error| api_error(&read, error))
            }
            (made, Author::Driver) => made.map_err(|error| api_error(&create, error)),
            (made, Author::Pod { account, .. }) => {
                made.map_err(|error| pod_error(&create, account, error))
            }
        }
    }

    /// Deletes the volume's other requests in the background, now that `decided` is: but for the
    /// last that was signed, which says where the certificate in use is from.
    pub(super) fn tidy(&self, volume: &str, decided: &Name, issued: bool) {
        let superfluous = lock(&self.board).superfluous(volume, decided, issued);
        if superfluous.is_empty() {
            return;
        }
        let client = self.client.clone();
        tokio::spawn(async move {
            for Name { namespace, name } in superfluous {
                let api = K::api(client.clone(), namespace.as_deref());
                // What is left goes after the next decision, or with the pod.
                let _ = timeout(WRITE_TIMEOUT, api.delete(&name, &DeleteParams::default())).await;
            }
        });
    }

    fn start_watch(&self) -> AbortOnDropHandle<()> {
        /// Few objects at a time: each may hold kilobytes.
        const PAGE: u32 = 50;
        let config = watcher::Config::default()
            .labels(&format!("{NODE_LABEL}={}", self.node))
            .page_size(PAGE);
        let events = watcher(K::api(self.client.clone(), None), config);
        let (board, answers) = (Arc::clone(&self.board), Arc::clone(&self.answers));
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut events = pin!(events);
            let mut backoff = DefaultBackoff::default();
            while let Some(event) = events.next().await {
                let failed = event.is_err();
                lock(&board).note::<K>(event);
                if failed {
                    let wait = backoff.next().unwrap_or(LONGEST_DEAFNESS);
                    let _ = timeout(wait, answers.notified()).await;
                } else {
                    backoff.reset();
                }
            }
        }))
    }
}

async fn in_time<T>(
    action: &str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    timeout(WRITE_TIMEOUT, call).await.unwrap_or_else(|_| {
        let seconds = WRITE_TIMEOUT.as_secs();
        Err(kube::Error::Service(format!("no answer to {action} in {seconds} seconds").into()))
    })
}

impl Progress {
    /// The decision, or what it waits for.
    fn decision(self) -> Result<Decision, String> {
        match self {
            Self::Issued(answer) => Ok(Ok(answer)),
            Self::Refused(kind, message) => Ok(Err(IssueError::new(kind, message))),
            Self::Waiting(message) => Err(message),
        }
    }
}

impl Board {
    /// The progress of `name`, whether it is known to be there, and what was told of it last.
    fn await_progress(&mut self, name: &Name) -> (watch::Receiver<Progress>, bool, Option<String>) {
        let awaited = self.awaited.entry(name.clone()).or_insert_with(|| Awaited {
            progress: watch::Sender::new(Progress::Waiting(format!("{name} is being made"))),
            made: false,
            told: None,
        });
        (awaited.progress.subscribe(), awaited.made, awaited.told.clone())
    }

    /// The API server has the request.
    fn submitted<K: Request>(&mut self, name: &Name, object: &K) {
        let Some(awaited) = self.awaited.get_mut(name) else { return };
        // The watch may have been faster, and ahead.
        if !std::mem::replace(&mut awaited.made, true) {
            awaited.progress.send_replace(object.progress());
        }
    }

    /// Whether nothing is heard at present.
    fn is_deaf(&self) -> bool {
        self.trouble.is_some()
    }

    /// Nobody has decided in time.
    fn undecided(&mut self, name: &Name, waiting: String) -> IssueError {
        let trouble = self.trouble.clone();
        if let Some(awaited) = self.awaited.get_mut(name) {
            awaited.told = Some(waiting.clone());
        }
        match trouble {
            Some(trouble) => {
                IssueError::new(IssueErrorKind::Unavailable, format!("{waiting}; {trouble}"))
            }
            None => IssueError::new(IssueErrorKind::Pending, waiting),
        }
    }

    fn superfluous(&self, volume: &str, decided: &Name, issued: bool) -> Vec<Name> {
        let others = self.of_volume.get(volume).into_iter().flatten();
        let others = others.filter(|(name, _)| *name != decided);
        let superfluous = others.filter(|(_, signed)| issued || !**signed);
        superfluous.map(|(name, _)| name.clone()).collect()
    }

    fn note<K: Request>(&mut self, event: watcher::Result<Event<K>>) {
        match event {
            Ok(event) => {
                self.trouble = None;
                self.take(event);
            }
            Err(error) => {
                let error = watch_reason(&error);
                self.trouble = Some(format!("{}s cannot be watched: {error}", K::kind(&())));
            }
        }
    }

    fn take<K: Request>(&mut self, event: Event<K>) {
        match event {
            Event::Init => {
                self.of_volume.clear();
                let made = self.awaited.iter().filter(|(_, awaited)| awaited.made);
                self.unseen = made.map(|(name, _)| name.clone()).collect();
            }
            Event::InitApply(object) | Event::Apply(object) => self.see(&object),
            Event::InitDone => {
                for name in std::mem::take(&mut self.unseen) {
                    self.lose::<K>(&name);
                }
            }
            Event::Delete(object) => {
                let name = Name::of(&object);
                if let Some(volume) = object.labels().get(VOLUME_LABEL)
                    && let Some(requests) = self.of_volume.get_mut(volume)
                {
                    requests.remove(&name);
                    if requests.is_empty() {
                        self.of_volume.remove(volume);
                    }
                }
                self.lose::<K>(&name);
            }
        }
    }

    fn see<K: Request>(&mut self, object: &K) {
        let name = Name::of(object);
        self.unseen.remove(&name);
        let progress = object.progress();
        if let Some(volume) = object.labels().get(VOLUME_LABEL) {
            let requests = self.of_volume.entry(volume.clone()).or_default();
            requests.insert(name.clone(), matches!(progress, Progress::Issued(_)));
        }
        if let Some(awaited) = self.awaited.get_mut(&name) {
            awaited.made = true;
            awaited.progress.send_replace(progress);
        }
    }

    /// A request is gone.
    fn lose<K: Request>(&mut self, name: &Name) {
        let Some(awaited) = self.awaited.get(name) else { return };
        if awaited.progress.is_closed() {
            // Nobody waits any more: mostly the pod went, and the request with it.
            self.awaited.remove(name);
            return;
        }
        let message =
            format!("{} {name} was deleted before it was decided; another is made", K::kind(&()));
        awaited.progress.send_replace(Progress::Refused(IssueErrorKind::Unavailable, message));
    }
}

impl<K> fmt::Debug for Tracker<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker").field("node", &self.node).finish_non_exhaustive()
    }
}
