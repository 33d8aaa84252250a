//! What callers see while an issuer takes its time: the plugin in this process, over its real
//! socket and with real mounts, in front of an issuer that answers when it is told to.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use certmount::anchors::AnchorSources;
use certmount::clock::Clock;
use certmount::csi::client::{InlineVolume, Kubelet};
use certmount::csi::{Listener, Plugin};
use certmount::issuer::{Entry, IssueError, Issuer, IssuerKey, IssuerSet, Issuers, Order};
use certmount::renew::{Renewer, Settings};
use certmount::spec::policy::NamePolicy;
use certmount::spec::request::NodeContext;
use certmount::volume::Volumes;
use certmount::x509::{AuthorityInformation, Issued, Validity, self_sign};
use common::namespaced_async;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

#[test]
fn the_answer_comes_before_the_caller_s_deadline_and_the_work_goes_on() {
    namespaced_async(|| async {
        let node = Node::start();
        let volume = volume();
        let kubelet = node.kubelet();
        let mut request = Request::new(kubelet.publish_request(&volume).await.unwrap());
        fs::create_dir_all(kubelet.target(&volume).parent().unwrap()).unwrap();
        request.set_timeout(Duration::from_millis(600));
        let mut client = kubelet.node().await.unwrap();
        let status = client.node_publish_volume(request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(
            status.message(),
            "the certificate is still being issued: the issuer has not answered yet"
        );

        node.answer.send_replace(true);
        let target = kubelet.publish(&volume).await.unwrap();
        assert!(target.join("tls.crt").exists());
        assert_eq!(node.asked.load(Ordering::SeqCst), 1, "the issuer was asked again");
    });
}

#[test]
fn a_caller_who_hangs_up_stops_nothing() {
    namespaced_async(|| async {
        let node = Node::start();
        let (kubelet, volume) = (node.kubelet(), volume());
        let publish = node.start_publish().await;
        publish.abort();
        assert!(publish.await.unwrap_err().is_cancelled());

        // At once, and many: kubelet may have started again meanwhile.
        let again = (0..16).map(|_| kubelet.publish(&volume));
        let again = futures_util::future::join_all(again);
        node.answer.send_replace(true);
        for published in again.await {
            published.unwrap();
        }
        assert_eq!(node.asked.load(Ordering::SeqCst), 1, "the issuer was asked again");
    });
}

#[test]
fn an_unpublish_ends_the_wait_and_leaves_nothing() {
    namespaced_async(|| async {
        let node = Node::start();
        let (kubelet, volume) = (node.kubelet(), volume());
        let publish = node.start_publish().await;
        kubelet.unpublish(&volume).await.unwrap();
        let status = publish.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert_eq!(fs::read_dir(node.folder.path().join("data")).unwrap().count(), 0);
    });
}

#[test]
fn a_shutdown_answers_those_who_wait_and_is_not_held_up() {
    namespaced_async(|| async {
        let node = Node::start();
        let publish = node.start_publish().await;
        let began = tokio::time::Instant::now();
        node.shutdown.cancel();
        let status = publish.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("restarting"), "{status}");
        node.serving.await.unwrap().unwrap();
        assert!(began.elapsed() < Duration::from_secs(2));
    });
}

/// A plugin with the ClusterIssuer `slow`.
struct Node {
    folder: tempfile::TempDir,
    /// Whether the issuer answers.
    answer: watch::Sender<bool>,
    /// How often the issuer was asked.
    asked: Arc<AtomicUsize>,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), certmount::csi::ServeError>>,
}

impl Node {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let answer = watch::Sender::new(false);
        let asked = Arc::new(AtomicUsize::new(0));
        let slow = Slow { answer: answer.subscribe(), asked: Arc::clone(&asked) };
        let key = IssuerKey {
            group: "certmount.dev".to_owned(),
            kind: "ClusterIssuer".to_owned(),
            namespace: None,
            name: "slow".to_owned(),
        };
        let entry = Entry { policy: Some(NamePolicy::default()), issuer: Ok(Arc::new(slow)) };
        let (_, issuers) = Issuers::channel(IssuerSet::from_iter([(key, entry)]));
        let node = NodeContext {
            driver_name: "csi.certmount.dev".to_owned(),
            node_name: "node-1".to_owned(),
        };
        let renewer = Renewer::new(Settings {
            volumes: Volumes::open(&folder.path().join("data")).unwrap(),
            issuers,
            anchors: AnchorSources::of_objects(watch::channel(Arc::default()).1),
            clock: Clock::system(),
            node: node.clone(),
            reports: mpsc::unbounded_channel().0,
        });
        let shutdown = CancellationToken::new();
        let listener = Listener::bind(&folder.path().join("csi.sock")).unwrap();
        let plugin =
            Plugin { renewer, node, access: None, ready: watch::Sender::new(true).subscribe() };
        let serving = tokio::spawn(plugin.serve(listener, shutdown.clone()));
        Self { folder, answer, asked, shutdown, serving }
    }

    fn kubelet(&self) -> Kubelet {
        let path = |name: &str| -> PathBuf { self.folder.path().join(name) };
        Kubelet::new(path("kubelet"), path("csi.sock"))
    }

    /// A publish of [`volume`] that the issuer has been asked for.
    async fn start_publish(&self) -> JoinHandle<Result<PathBuf, Status>> {
        let kubelet = self.kubelet();
        let publish = tokio::spawn(async move { kubelet.publish(&volume()).await });
        while self.asked.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        publish
    }
}

fn volume() -> InlineVolume {
    InlineVolume::new(
        "shop",
        "web-0",
        &[
            ("certmount.dev/issuer-name", "slow"),
            ("certmount.dev/issuer-kind", "ClusterIssuer"),
            ("certmount.dev/dns-names", "web.shop.svc"),
        ],
    )
}

/// An issuer that answers once it is told to.
#[derive(Debug)]
struct Slow {
    answer: watch::Receiver<bool>,
    asked: Arc<AtomicUsize>,
}

#[async_trait]
impl Issuer for Slow {
    async fn issue(&self, order: Order<'_>) -> Result<Issued, IssueError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let _ = self.answer.clone().wait_for(|answer| *answer).await;
        let now = Clock::system().now();
        let validity = Validity { not_before: now, not_after: now + order.spec.duration };
        let information = AuthorityInformation::default();
        let leaf = self_sign(&order.spec.template, order.key, validity, &information).unwrap();
        Ok(Issued { chain: vec![leaf.clone()], trust_anchors: vec![leaf] })
    }
}
