//! The driver is killed in the middle of everything that it does, again and again.
//!
//! Each round kills it at another moment, spread evenly over the time that the work takes, so that
//! every step is hit. After the next start each volume must be whole or gone: no mount, file or
//! key is left of what ended, and a pod never sees a key beside another's certificate.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use certmount::csi::client::InlineVolume;
use certmount::x509::{PrivateKey, certificates_from_pem};
use common::{Plugin, namespaced_async};

/// Of each kind; with three kinds that is 210 kills.
const ROUNDS: u32 = 70;

#[test]
fn killed_while_it_publishes() {
    namespaced_async(|| async {
        let mut plugin = Plugin::start();
        let kubelet = plugin.kubelet();
        let whole = time_of(async {
            let volume = volume("warm-up", "1h");
            kubelet.publish(&volume).await.unwrap();
            kubelet.unpublish(&volume).await.unwrap();
        });
        let whole = whole.await;
        for round in 0..ROUNDS {
            let volume = volume(&format!("publish-{round}"), "1h");
            let publish = tokio::spawn({
                let (kubelet, volume) = (plugin.kubelet(), volume.clone());
                async move { kubelet.publish(&volume).await }
            });
            spin(whole * round / ROUNDS);
            plugin.kill();
            let _ = publish.await.unwrap();
            plugin.restart();

            // Kubelet asks again, or the pod is gone meanwhile.
            if round % 2 == 0 {
                kubelet.publish(&volume).await.unwrap();
                assert_whole(&plugin, &volume);
            }
            kubelet.unpublish(&volume).await.unwrap();
            assert_eq!(plugin.leftovers(), Vec::<PathBuf>::new(), "round {round}");
        }
    });
}

#[test]
fn killed_while_it_unpublishes() {
    namespaced_async(|| async {
        let mut plugin = Plugin::start();
        let kubelet = plugin.kubelet();
        let mut whole = Duration::from_millis(1);
        for round in 0..ROUNDS {
            let volume = volume(&format!("unpublish-{round}"), "1h");
            kubelet.publish(&volume).await.unwrap();
            let unpublish = tokio::spawn({
                let (kubelet, volume) = (plugin.kubelet(), volume.clone());
                async move { kubelet.unpublish(&volume).await }
            });
            spin(whole * round / ROUNDS);
            plugin.kill();
            let _ = unpublish.await.unwrap();
            plugin.restart();

            whole = time_of(async { kubelet.unpublish(&volume).await.unwrap() }).await;
            assert_eq!(plugin.leftovers(), Vec::<PathBuf>::new(), "round {round}");
        }
    });
}

#[test]
fn killed_while_it_renews() {
    namespaced_async(|| async {
        let mut plugin = Plugin::start();
        let kubelet = plugin.kubelet();
        // Two seconds each, out of step, so that at any moment some renewal is under way.
        let volumes: Vec<_> = (0..30).map(|n| volume(&format!("renew-{n}"), "2s")).collect();
        for volume in &volumes {
            kubelet.publish(volume).await.unwrap();
        }
        let first: Vec<_> = volumes.iter().map(|volume| serial(&plugin, volume)).collect();
        for round in 0..ROUNDS {
            tokio::time::sleep(Duration::from_millis(20 + u64::from(round * 7 % 60))).await;
            plugin.kill();
            for volume in &volumes {
                assert_pair(&plugin.kubelet().target(volume));
            }
            plugin.restart();
        }
        for (volume, first) in volumes.iter().zip(&first) {
            plugin.wait("every volume was renewed", || serial(&plugin, volume) != *first);
            kubelet.publish(volume).await.unwrap();
        }
        plugin.terminate();
        for volume in &volumes {
            assert_pair(&plugin.kubelet().target(volume));
        }
        plugin.restart();
        for volume in &volumes {
            kubelet.unpublish(volume).await.unwrap();
        }
        assert_eq!(plugin.leftovers(), Vec::<PathBuf>::new());
    });
}

/// A P-256 certificate of the self-signed issuer.
fn volume(pod: &str, duration: &str) -> InlineVolume {
    let attributes = [
        ("certmount.dev/issuer-name", "self-signed"),
        ("certmount.dev/issuer-kind", "ClusterIssuer"),
        ("certmount.dev/dns-names", "web.shop.svc"),
        ("certmount.dev/key-algorithm", "ECDSA"),
        ("certmount.dev/duration", duration),
    ];
    InlineVolume::new("shop", pod, &attributes)
}

/// What the pod sees fits together, and nothing of an order under way is left in the volume.
fn assert_whole(plugin: &Plugin, volume: &InlineVolume) {
    assert_pair(&plugin.kubelet().target(volume));
    let folder = plugin.data_root().join(volume.id());
    assert!(!folder.join("pending/key").exists(), "a pending key is left");
    let states = fs::read_dir(folder.join("state")).unwrap().count();
    assert_eq!(states, 1, "one state for the one certificate");
}

/// Key and certificate of one moment fit.
fn assert_pair(target: &Path) {
    let now = fs::canonicalize(target.join("..data")).unwrap();
    let key = PrivateKey::from_pem(&fs::read(now.join("tls.key")).unwrap()).unwrap();
    let chain = certificates_from_pem(&fs::read(now.join("tls.crt")).unwrap()).unwrap();
    assert_eq!(chain[0].public_key_info(), key.public_key_info(), "{}", target.display());
}

fn serial(plugin: &Plugin, volume: &InlineVolume) -> String {
    let path = plugin.kubelet().target(volume).join("tls.crt");
    certificates_from_pem(&fs::read(path).unwrap()).unwrap()[0].serial_number()
}

async fn time_of(work: impl Future<Output = ()>) -> Duration {
    let began = Instant::now();
    work.await;
    began.elapsed()
}

/// Sleeping is too coarse to hit a step of some microseconds.
fn spin(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        std::hint::spin_loop();
    }
}
