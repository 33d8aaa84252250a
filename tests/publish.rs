//! What kubelet and a pod see of the driver: codes, messages and files, over the real socket with
//! real mounts.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use certmount::csi::client::{InlineVolume, Kubelet, is_final};
use certmount::csi::proto::csi::volume_capability::access_mode::Mode;
use certmount::csi::proto::csi::volume_capability::{AccessType, BlockVolume};
use certmount::csi::proto::csi::volume_usage::Unit;
use certmount::csi::proto::csi::{
    NodeGetVolumeStatsRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest,
};
use common::{Plugin, namespaced_async};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use tonic::{Code, Status};

/// `volumeAttributes` that the ClusterIssuer of [`Plugin::start`] answers.
const ATTRIBUTES: [(&str, &str); 3] = [
    ("certmount.dev/issuer-name", "self-signed"),
    ("certmount.dev/issuer-kind", "ClusterIssuer"),
    ("certmount.dev/dns-names", "${POD_NAME}.${POD_NAMESPACE}.svc"),
];

/// A request, what is changed in it, and what is said about it.
type Bend = fn(&mut NodePublishVolumeRequest);

#[test]
fn a_bad_request_is_refused_for_good_and_leaves_nothing() {
    let table: [(Bend, Code, &str); 21] = [
        (|r| r.volume_id.clear(), Code::InvalidArgument, "volume_id"),
        (|r| r.target_path.clear(), Code::InvalidArgument, "target_path"),
        (|r| r.target_path = "pods/mount".into(), Code::InvalidArgument, "absolute"),
        (|r| r.volume_capability = None, Code::InvalidArgument, "volume_capability"),
        (|r| capability(r).access_type = None, Code::InvalidArgument, "access type"),
        (
            |r| capability(r).access_type = Some(AccessType::Block(BlockVolume {})),
            Code::InvalidArgument,
            "fsType: block",
        ),
        (|r| mode(r, Mode::Unknown.into()), Code::InvalidArgument, "access mode"),
        (|r| mode(r, 99), Code::InvalidArgument, "access mode"),
        (
            |r| mode(r, Mode::MultiNodeReaderOnly.into()),
            Code::FailedPrecondition,
            "MULTI_NODE_READER_ONLY",
        ),
        (|r| mode(r, Mode::MultiNodeMultiWriter.into()), Code::FailedPrecondition, "one node"),
        (|r| r.readonly = false, Code::InvalidArgument, "csi.readOnly must be set to 'true'"),
        (|r| group(r, "staff"), Code::InvalidArgument, "volume_mount_group"),
        (|r| group(r, "4294967296"), Code::InvalidArgument, "volume_mount_group"),
        (
            |r| set(r, "csi.storage.k8s.io/ephemeral", "false"),
            Code::InvalidArgument,
            "only inline volumes",
        ),
        (|r| r.volume_context.clear(), Code::InvalidArgument, "podInfoOnMount: true"),
        (|r| set(r, "certmount.dev/dns-nams", "x"), Code::InvalidArgument, "dns-names"),
        (|r| set(r, "certmount.dev/duration", "soon"), Code::InvalidArgument, "duration"),
        (
            |r| set(r, "certmount.dev/certificate-file", "../../../etc/passwd"),
            Code::InvalidArgument,
            "certificate-file",
        ),
        (
            |r| set(r, "csi.storage.k8s.io/pod.uid", "another-uid"),
            Code::PermissionDenied,
            "must come from kubelet",
        ),
        (
            |r| r.target_path = r.target_path.replace("web-0", "db-0"),
            Code::PermissionDenied,
            "must come from kubelet",
        ),
        (
            |r| set(r, "certmount.dev/dns-names", "www.example.com"),
            Code::PermissionDenied,
            "www.example.com",
        ),
    ];
    namespaced_async(|| async move {
        let plugin = Plugin::start();
        let kubelet = plugin.kubelet();
        let volume = InlineVolume::new("shop", "web-0", &ATTRIBUTES);
        for (bend, code, words) in table {
            let mut request = kubelet.publish_request(&volume).await.unwrap();
            bend(&mut request);
            let status = publish(&kubelet, &volume, request).await.unwrap_err();
            assert_eq!(status.code(), code, "{status}");
            assert!(status.message().contains(words), "{:?} not in {status}", words);
            assert!(is_final(code) && status.details().is_empty(), "{status}");
            assert!(status.message().len() <= 1024, "{status}");
            // Kubelet forgets the volume now and never unpublishes it.
            fs::remove_dir(folder(&kubelet, &volume)).unwrap();
            assert_eq!(plugin.leftovers(), [] as [PathBuf; 0], "after {status}");
        }
    });
}

#[test]
fn the_same_publish_again_changes_nothing_and_another_is_refused() {
    let table: [(Bend, Code); 3] = [
        (|r| group(r, "3000"), Code::AlreadyExists),
        (|r| set(r, "certmount.dev/duration", "1h"), Code::AlreadyExists),
        (
            |r| r.target_path = r.target_path.replace("/kubelet/", "/kubelet-2/"),
            Code::FailedPrecondition,
        ),
    ];
    namespaced_async(|| async move {
        let plugin = Plugin::start();
        let kubelet = plugin.kubelet();
        let volume = InlineVolume::new("shop", "web-0", &ATTRIBUTES);
        let target = kubelet.publish(&volume).await.unwrap();
        let (files, mounts) = (contents(&target), plugin.mounts());

        assert_eq!(kubelet.publish(&volume).await.unwrap(), target);
        let mut fresh_tokens = volume.clone();
        let tokens = "csi.storage.k8s.io/serviceAccount.tokens".to_owned();
        fresh_tokens.secrets.insert(tokens.clone(), "{}".to_owned());
        fresh_tokens.attributes.insert(tokens, "{}".to_owned());
        kubelet.publish(&fresh_tokens).await.unwrap();
        for (bend, code) in table {
            let mut request = kubelet.publish_request(&volume).await.unwrap();
            bend(&mut request);
            let status = publish(&kubelet, &volume, request).await.unwrap_err();
            assert_eq!(status.code(), code, "{status}");
        }
        assert_eq!((contents(&target), plugin.mounts()), (files, mounts));
    });
}

#[test]
fn sixteen_publishes_at_once_make_one_certificate() {
    namespaced_async(|| async {
        let plugin = Plugin::start();
        let kubelet = plugin.kubelet();
        let volume = InlineVolume::new("shop", "web-0", &ATTRIBUTES);
        let publishes = (0..16).map(|_| async {
            let target = kubelet.publish(&volume).await?;
            Ok::<_, Status>(contents(&target))
        });
        let seen = futures_util::future::try_join_all(publishes).await.unwrap();
        assert!(seen.windows(2).all(|two| two[0] == two[1]), "not all saw the same files");
        // The tmpfs and what the pod sees of it.
        assert_eq!(plugin.mounts().len(), 2, "{:?}", plugin.mounts());
    });
}

#[test]
fn an_issuer_that_is_not_there_yet_is_waited_for() {
    const LATE: &str = "
apiVersion: certmount.dev/v1alpha1
kind: ClusterIssuer
metadata: { name: late }
spec: { selfSigned: {} }
";
    namespaced_async(|| async {
        let plugin = Plugin::start();
        let kubelet = plugin.kubelet();
        let mut volume = InlineVolume::new("shop", "web-0", &ATTRIBUTES);
        volume.attributes.insert("certmount.dev/issuer-name".into(), "late".into());
        let status = kubelet.publish(&volume).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("late"), "{status}");

        // The pod may go before the issuer comes.
        kubelet.unpublish(&volume).await.unwrap();
        assert_eq!(plugin.leftovers(), [] as [PathBuf; 0]);

        kubelet.publish(&volume).await.unwrap_err();
        plugin.configure("late.yaml", LATE);
        let mut published = kubelet.publish(&volume).await;
        while published.as_ref().is_err_and(|status| status.code() == Code::Unavailable) {
            published = kubelet.publish(&volume).await;
        }
        assert!(published.unwrap().join("tls.crt").exists());
    });
}

#[test]
fn a_container_sees_updates_after_a_kubelet_has_given_its_volume_up() {
    namespaced_async(|| async {
        let plugin = Plugin::with_config(&[]);
        bring_a_new_ca(&plugin);
        plugin.wait("the issuer is there", || plugin.get("/v1/issuers").1.contains("true"));
        let kubelet = plugin.kubelet();
        let mut volume = InlineVolume::new("shop", "web-0", &ATTRIBUTES);
        volume.attributes.insert("certmount.dev/issuer-name".into(), "shop".into());
        let target = kubelet.publish(&volume).await.unwrap();
        let container = plugin.path("container");
        fs::create_dir(&container).unwrap();
        mount(Some(&target), &container, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let before = contents(&container);

        // An issuer that fails says nothing about a volume that is mounted.
        fs::remove_file(plugin.path("config/shop-issuer.yaml")).unwrap();
        plugin.wait("the issuer is gone", || plugin.get("/v1/issuers").1 == "[]");
        kubelet.publish(&volume).await.unwrap();

        // A kubelet before 1.36.2 removes the target after any final error, unless a mount is there.
        volume.fs_group = Some(3000);
        let status = kubelet.publish(&volume).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{status}");
        assert!(status.message().contains("busy"), "{status}");
        assert_eq!(contents(&container), before);

        bring_a_new_ca(&plugin);
        plugin.wait("the container sees the new root", || contents(&container)[0] != before[0]);
        assert_eq!(contents(&container), contents(&target));
    });
}

#[test]
fn what_is_odd_about_a_volume_is_logged_once_however_often_kubelet_asks() {
    namespaced_async(|| async {
        let plugin = Plugin::start();
        let kubelet = plugin.kubelet();
        let mut volume = InlineVolume::new("shop", "web-0", &ATTRIBUTES);
        volume.attributes.insert("certmount.dev/issuer-name".into(), "late".into());
        volume.attributes.insert("csi.cert-manager.io/odd".into(), "1".into());
        for _ in 0..3 {
            let status = kubelet.publish(&volume).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable);
        }
        let log = plugin.log();
        assert_eq!(log.matches("csi.cert-manager.io/odd is not an attribute").count(), 1, "{log}");
    });
}

#[test]
fn the_driver_ends_in_two_seconds_whoever_holds_on_to_it() {
    namespaced_async(|| async {
        let mut plugin = Plugin::start();
        // It is let in before kubelet, and never says anything.
        let silent = UnixStream::connect(plugin.socket()).unwrap();
        let volume = InlineVolume::new("shop", "web-0", &ATTRIBUTES);
        let target = plugin.kubelet().publish(&volume).await.unwrap();
        let began = Instant::now();
        let ended = plugin.terminate();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert!(ended.success(), "{ended}; the log is\n{}", plugin.log());
        assert!(target.join("tls.crt").exists(), "the volume is gone");
        drop(silent);
    });
}

#[test]
fn a_second_signal_ends_the_driver_at_once() {
    namespaced_async(|| async {
        let mut plugin = Plugin::start();
        let silent = UnixStream::connect(plugin.socket()).unwrap();
        let volume = InlineVolume::new("shop", "web-0", &ATTRIBUTES);
        let target = plugin.kubelet().publish(&volume).await.unwrap();
        plugin.signal(Signal::SIGTERM);
        plugin.wait("it begins to end", || plugin.log().contains("shutting down"));
        plugin.signal(Signal::SIGINT);
        let ended = plugin.ended();
        assert_eq!(ended.code(), Some(1), "{ended}; the log is\n{}", plugin.log());
        assert!(plugin.log().contains("stopped at once by a second signal"), "{}", plugin.log());
        assert!(target.join("tls.crt").exists(), "the volume is gone");
        drop(silent);

        plugin.restart();
        plugin.kubelet().unpublish(&volume).await.unwrap();
        assert_eq!(plugin.leftovers(), [] as [PathBuf; 0]);
    });
}

#[test]
fn an_unpublish_succeeds_whatever_is_left_to_do() {
    namespaced_async(|| async {
        let plugin = Plugin::start();
        let kubelet = plugin.kubelet();
        let volume = InlineVolume::new("shop", "web-0", &ATTRIBUTES);
        let target = kubelet.target(&volume);
        let unpublished = async || {
            kubelet.unpublish(&volume).await.unwrap();
            assert_eq!(plugin.leftovers(), [] as [PathBuf; 0]);
        };
        // Never published, with no folder at all.
        unpublished().await;
        // Twice.
        kubelet.publish(&volume).await.unwrap();
        unpublished().await;
        unpublished().await;
        // Something is mounted over the volume.
        kubelet.publish(&volume).await.unwrap();
        for _ in 0..2 {
            let nothing = None::<&str>;
            mount(Some("tmpfs"), &target, Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
        }
        unpublished().await;
        // A node was rebooted: only the folder is left, and somebody wrote into it.
        fs::create_dir_all(target.join("folder")).unwrap();
        fs::File::create(target.join("file")).unwrap();
        unpublished().await;
        // After a kill, by a process that never saw the publish.
        let mut plugin = plugin;
        kubelet.publish(&volume).await.unwrap();
        plugin.restart();
        kubelet.unpublish(&volume).await.unwrap();
        assert_eq!(plugin.leftovers(), [] as [PathBuf; 0]);
    });
}

#[test]
fn an_unpublish_needs_arguments_and_touches_nothing_but_volumes() {
    namespaced_async(|| async {
        let plugin = Plugin::start();
        let kubelet = plugin.kubelet();
        let volume = InlineVolume::new("shop", "web-0", &ATTRIBUTES);
        let target = kubelet.publish(&volume).await.unwrap();
        let unpublish = async |volume_id: String, target_path: &Path| {
            let target_path = target_path.to_str().unwrap().to_owned();
            let request = NodeUnpublishVolumeRequest { volume_id, target_path };
            kubelet.node().await?.node_unpublish_volume(request).await
        };
        for (id, path) in [
            (String::new(), target.as_path()),
            (volume.id(), Path::new("")),
            (volume.id(), Path::new("mount")),
        ] {
            let status = unpublish(id, path).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        }
        let bystander = plugin.path("bystander");
        fs::create_dir(&bystander).unwrap();
        unpublish(volume.id(), &bystander).await.unwrap();
        unpublish("csi-unknown".to_owned(), &target).await.unwrap();
        assert!(bystander.exists() && target.join("tls.crt").exists());
    });
}

#[test]
fn a_pod_sees_its_files_as_it_asked_for_them() {
    namespaced_async(|| async {
        let plugin = Plugin::start();
        let kubelet = plugin.kubelet();
        // The longest names that Kubernetes gives, within what a path may have.
        let pod = format!("web-{}", "0".repeat(59));
        let mut volume = InlineVolume::new(&"n".repeat(63), &pod, &ATTRIBUTES);
        volume.name = "v".repeat(63);
        volume.pod.uid = "0b5a9c54-6f7c-4d4b-9d5e-3a6f1c2d4e5f".to_owned();
        // A user without rights has no other group in his namespace than his own.
        let group = if knows_group(2000) { 2000 } else { 0 };
        volume.fs_group = Some(group);
        let target = kubelet.publish(&volume).await.unwrap();
        for (file, first_line) in [
            ("tls.crt", "-----BEGIN CERTIFICATE-----"),
            ("tls.key", "-----BEGIN "),
            ("ca.crt", "-----BEGIN CERTIFICATE-----"),
        ] {
            let text = fs::read_to_string(target.join(file)).unwrap();
            assert!(text.starts_with(first_line), "{file}");
            let metadata = fs::metadata(target.join(file)).unwrap();
            assert_eq!(metadata.gid(), group, "{file}");
            assert_eq!(metadata.permissions().mode() & 0o7777, 0o440, "{file}");
        }
        let write = fs::File::create(target.join("own-file")).unwrap_err();
        assert_eq!(write.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    });
}

#[test]
fn kubelet_learns_how_full_a_volume_is() {
    namespaced_async(|| async {
        let plugin = Plugin::start();
        let kubelet = plugin.kubelet();
        let volume = InlineVolume::new("shop", "web-0", &ATTRIBUTES);
        assert_eq!(kubelet.stats(&volume).await.unwrap_err().code(), Code::NotFound);
        let target = kubelet.publish(&volume).await.unwrap();
        let usage = kubelet.stats(&volume).await.unwrap();
        assert_eq!(
            usage.iter().map(|usage| usage.unit()).collect::<Vec<_>>(),
            [Unit::Bytes, Unit::Inodes]
        );
        for usage in usage {
            assert!(usage.used > 0 && usage.used < usage.total, "{usage:?}");
            assert_eq!(usage.available, usage.total - usage.used);
        }

        for (volume_id, path, code) in [
            ("", target.to_str().unwrap(), Code::InvalidArgument),
            (&volume.id(), "", Code::InvalidArgument),
            (&volume.id(), "/elsewhere", Code::NotFound),
            (&volume.id(), "relative", Code::NotFound),
            ("../x", target.to_str().unwrap(), Code::NotFound),
        ] {
            let request = NodeGetVolumeStatsRequest {
                volume_id: volume_id.to_owned(),
                volume_path: path.to_owned(),
                ..Default::default()
            };
            let stats = kubelet.node().await.unwrap().node_get_volume_stats(request).await;
            assert_eq!(stats.unwrap_err().code(), code, "{volume_id:?} {path:?}");
        }
        kubelet.unpublish(&volume).await.unwrap();
        assert_eq!(kubelet.stats(&volume).await.unwrap_err().code(), Code::NotFound);
    });
}

#[test]
fn a_failed_call_is_logged_without_what_the_pod_keeps_secret() {
    const PLANTED: &str = "correct-horse-battery-staple";
    namespaced_async(|| async {
        let plugin = Plugin::start();
        let kubelet = plugin.kubelet();
        let mut volume = InlineVolume::new("shop", "web-0", &ATTRIBUTES);
        for key in ["token", "csi.storage.k8s.io/serviceAccount.tokens"] {
            volume.secrets.insert(key.to_owned(), PLANTED.to_owned());
        }
        for key in ["certmount.dev/jks-password", "csi.storage.k8s.io/serviceAccount.tokens"] {
            volume.attributes.insert(key.to_owned(), PLANTED.to_owned());
        }
        volume.attributes.insert("certmount.dev/jks-file".into(), "web.jks".into());
        kubelet.publish(&volume).await.unwrap();
        volume.attributes.insert("certmount.dev/duration".into(), "soon".into());
        let status = kubelet.publish(&volume).await.unwrap_err();
        plugin.wait("the failure is logged", || plugin.log().contains("InvalidArgument"));
        let log = plugin.log();
        let line = log.lines().find(|line| line.contains("NodePublishVolume")).unwrap();
        for part in [&volume.id(), "shop/web-0", "duration"] {
            assert!(line.contains(part), "{part:?} not in {line:?}");
        }
        assert!(!log.contains(PLANTED), "{log}");
        assert!(!status.message().contains(PLANTED), "{status}");
    });
}

/// A new root for the ClusterIssuer `shop`.
fn bring_a_new_ca(plugin: &Plugin) {
    let folder = tempfile::tempdir().unwrap();
    let mut init = Command::new(env!("CARGO_BIN_EXE_certmount"));
    let made = init.args(["ca", "init", "--name", "shop"]).arg(folder.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    for file in ["shop-secret.yaml", "shop-issuer.yaml"] {
        plugin.configure(file, &fs::read_to_string(folder.path().join(file)).unwrap());
    }
}

async fn publish(
    kubelet: &Kubelet,
    volume: &InlineVolume,
    request: NodePublishVolumeRequest,
) -> Result<(), Status> {
    fs::create_dir_all(folder(kubelet, volume)).unwrap();
    kubelet.node().await?.node_publish_volume(request).await?;
    Ok(())
}

/// Kubelet's own folder around the target, which the driver must not touch.
fn folder(kubelet: &Kubelet, volume: &InlineVolume) -> PathBuf {
    kubelet.target(volume).parent().unwrap().to_owned()
}

fn capability(
    request: &mut NodePublishVolumeRequest,
) -> &mut certmount::csi::proto::csi::VolumeCapability {
    request.volume_capability.as_mut().unwrap()
}

fn mode(request: &mut NodePublishVolumeRequest, mode: i32) {
    capability(request).access_mode.as_mut().unwrap().mode = mode;
}

fn set(request: &mut NodePublishVolumeRequest, attribute: &str, value: &str) {
    request.volume_context.insert(attribute.to_owned(), value.to_owned());
}

fn group(request: &mut NodePublishVolumeRequest, group: &str) {
    if let Some(AccessType::Mount(mount)) = &mut capability(request).access_type {
        mount.volume_mount_group = group.to_owned();
    }
}

/// Whether files of this namespace can be a group's (user_namespaces(7)).
fn knows_group(group: u32) -> bool {
    let map = fs::read_to_string("/proc/self/gid_map").unwrap();
    map.lines().any(|line| {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u32>().unwrap());
        let (first, _, count) = (fields.next(), fields.next(), fields.next());
        (first.unwrap()..=first.unwrap().saturating_add(count.unwrap() - 1)).contains(&group)
    })
}

/// The files that a pod sees, by name.
fn contents(target: &Path) -> Vec<(String, Vec<u8>)> {
    let files = ["ca.crt", "tls.crt", "tls.key"];
    files.map(|file| (file.to_owned(), fs::read(target.join(file)).unwrap())).into()
}
