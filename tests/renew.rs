//! The life of volumes in the renewer: real mounts, real keys and certificates, a CA that can be
//! told to misbehave, and hours that pass in milliseconds on a paused clock.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a test that does damage")]

mod common;
#[path = "renew/elsewhere.rs"]
mod elsewhere;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use certmount::anchors::{AnchorSources, ConfigMaps};
use certmount::clock::{Clock, Timestamp};
use certmount::issuer::{
    Entry, IssueError, IssueErrorKind, Issuer, IssuerKey, IssuerSet, Issuers, Order,
};
use certmount::renew::{Outcome, Phase, PublishError, Renewer, Report, Settings};
use certmount::spec::policy::NamePolicy;
use certmount::spec::request::{NodeContext, RawRequest, Secrets};
use certmount::spec::volume::VolumeId;
use certmount::volume::{Record, Volumes};
use certmount::x509::{
    AuthorityInformation, BasicConstraints, Certificate, CertificateAuthority, DistinguishedName,
    Issued, KeyAlgorithm, KeyUsages, NameConstraints, PrivateKey, Template, Validity,
    certificates_from_pem, self_sign,
};
use common::namespaced;
use nix::mount::{MsFlags, mount, umount};
use p12_keystore::{KeyStore, Pkcs12ImportPolicy};
use tokio::sync::{mpsc, watch};

/// Long enough that jitter and steps of the clock are small beside it.
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn renews_in_place_with_a_new_key_when_a_third_of_the_life_is_left() {
    in_world(async |mut world| {
        let volume = world.publish("web", &[]).await;
        let (serial, key) = (world.leaf(&volume).serial_number(), world.key(&volume));

        world.sleep(HOUR * 55 / 100).await;
        assert_eq!(world.leaf(&volume).serial_number(), serial, "renewed too early");

        world.sleep(HOUR * 12 / 100).await;
        assert_ne!(world.leaf(&volume).serial_number(), serial, "not renewed");
        assert_ne!(world.key(&volume), key, "the key was kept");
        assert_eq!(world.status(&volume).renewals, 1);
        assert_eq!(world.issued(), [false, true]);
    });
}

#[test]
fn what_the_ca_has_to_say_is_told_once() {
    in_world(async |mut world| {
        *world.ca.trick.lock().unwrap() = Some(Trick::Warns);
        let volume = world.publish("web", &[]).await;
        world.sleep(HOUR * 67 / 100).await;
        assert_eq!(world.status(&volume).renewals, 1);
        let mut told = Vec::new();
        while let Ok(report) = world.reports.try_recv() {
            if let Outcome::Warned { message } = report.outcome {
                told.push(message);
            }
        }
        assert_eq!(told, ["told to warn"]);
    });
}

#[test]
fn keeps_the_key_where_the_volume_asks_for_it() {
    in_world(async |world| {
        let volume = world.publish("web", &[("reuse-private-key", "true")]).await;
        let (serial, key) = (world.leaf(&volume).serial_number(), world.key(&volume));
        world.sleep(HOUR * 70 / 100).await;
        assert_ne!(world.leaf(&volume).serial_number(), serial);
        assert_eq!(world.key(&volume), key);
    });
}

#[test]
fn a_failing_renewal_keeps_the_good_files_tries_again_and_recovers() {
    in_world(async |world| {
        let volume = world.publish("web", &[]).await;
        let serial = world.leaf(&volume).serial_number();
        world.ca.failing.store(true, Ordering::SeqCst);

        world.sleep(HOUR * 90 / 100).await;
        let status = world.status(&volume);
        assert_eq!(status.phase, Phase::RenewalFailing);
        assert!(status.last_error.unwrap().contains("told to fail"));
        assert_eq!(world.leaf(&volume).serial_number(), serial, "good files were lost");
        let attempts = world.ca.asked.load(Ordering::SeqCst);
        assert!((4..60).contains(&attempts), "{attempts} attempts");

        world.sleep(HOUR * 20 / 100).await;
        assert_eq!(world.status(&volume).phase, Phase::Expired);
        world.publish("web", &[]).await;

        world.ca.failing.store(false, Ordering::SeqCst);
        world.sleep(Duration::from_secs(300)).await;
        assert_eq!(world.status(&volume).phase, Phase::Ready);
        assert_ne!(world.leaf(&volume).serial_number(), serial);
        assert_eq!(world.status(&volume).last_error, None);
    });
}

#[test]
fn answers_that_do_not_fit_the_request_never_reach_the_pod() {
    in_world(async |world| {
        let volume = world.publish("web", &[]).await;
        let serial = world.leaf(&volume).serial_number();
        for (trick, word) in [
            (Trick::AnothersKey, "key"),
            (Trick::AnothersName, "name"),
            (Trick::Expired, "expire"),
            (Trick::FromTheFuture, "clock"),
            (Trick::Nothing, "no certificate"),
        ] {
            *world.ca.trick.lock().unwrap() = Some(trick);
            world.sleep(HOUR * 70 / 100).await;
            let status = world.status(&volume);
            let error = status.last_error.unwrap_or_default();
            assert!(error.to_lowercase().contains(word), "{trick:?} gave {error:?}");
            assert_eq!(world.leaf(&volume).serial_number(), serial, "{trick:?} got through");
        }
    });
}

#[test]
fn a_ca_that_gives_next_to_no_lifetime_is_not_asked_in_a_loop() {
    in_world(async |world| {
        *world.ca.trick.lock().unwrap() = Some(Trick::ThreeSeconds);
        world.publish("web", &[]).await;
        world.sleep(Duration::from_secs(60)).await;
        let asked = world.ca.asked.load(Ordering::SeqCst);
        assert!(asked <= 62, "asked {asked} times in a minute");
    });
}

#[test]
fn sixteen_publishes_at_once_make_one_key_and_one_certificate() {
    in_world(async |mut world| {
        world.ca.delay.store(5, Ordering::SeqCst);
        let publishes = (0..16).map(|_| world.try_publish("web", &[]));
        for result in futures_util::future::join_all(publishes).await {
            result.unwrap();
        }
        assert_eq!(world.ca.asked.load(Ordering::SeqCst), 1);
        assert_eq!(world.issued(), [false]);
    });
}

#[test]
fn an_issuer_that_comes_later_is_taken_up_at_once() {
    in_world(async |world| {
        let set = world.issuers.borrow().clone();
        world.issuers.send_replace(Arc::default());
        let refused = world.try_publish("web", &[]).await.unwrap_err();
        assert!(refused.contains("no ClusterIssuer"), "{refused}");
        assert_eq!(world.status(&world.volume_id("web")).phase, Phase::Waiting);

        world.issuers.send_replace(set);
        world.sleep(Duration::from_millis(500)).await;
        assert_eq!(world.status(&world.volume_id("web")).phase, Phase::Ready);
        world.publish("web", &[]).await;
    });
}

#[test]
fn a_name_that_the_policy_denies_is_refused_and_leaves_nothing() {
    in_world(async |world| {
        let refused = world.try_publish("web", &[("dns-names", "www.example.com")]).await;
        assert!(refused.unwrap_err().contains("www.example.com"));
        assert_eq!(world.renewer.volumes().len(), 0);
        world.assert_nothing_left();
    });
}

#[test]
fn a_replaced_ca_is_trusted_at_once_followed_in_time_and_the_old_one_goes_when_not_needed() {
    in_world(async |world| {
        let volumes = [world.publish("one", &[]).await, world.publish("two", &[]).await];
        let old = world.ca.authority().certificate().clone();
        world.sleep(Duration::from_secs(60)).await;

        let new = world.replace_ca("second");
        world.sleep(Duration::from_millis(10)).await;
        for volume in &volumes {
            let anchors = world.anchors(volume);
            assert!(contains(&anchors, &old) && contains(&anchors, &new), "both are trusted");
        }

        world.sleep(HOUR / 10).await;
        for volume in &volumes {
            assert!(world.leaf(volume).is_signed_by(&new), "the leaf follows within the window");
            assert!(contains(&world.anchors(volume), &old), "leaves of other nodes may need it");
        }

        world.sleep(HOUR * 4 / 10).await;
        for volume in &volumes {
            let anchors = world.anchors(volume);
            assert!(contains(&anchors, &new) && !contains(&anchors, &old), "the old one is gone");
        }
    });
}

#[test]
fn a_restart_takes_volumes_over_as_they_are() {
    in_world(async |mut world| {
        let volume = world.publish("web", &[]).await;
        let (serial, key) = (world.leaf(&volume).serial_number(), world.key(&volume));
        let renew_at = world.status(&volume).renew_at;

        world = world.restart().await;
        assert_eq!(world.status(&volume).renew_at, renew_at, "the plan changed");
        world.ca.failing.store(true, Ordering::SeqCst);
        world.publish("web", &[]).await;
        assert_eq!(world.leaf(&volume).serial_number(), serial);
        assert_eq!(world.key(&volume), key);
        world.ca.failing.store(false, Ordering::SeqCst);

        world.sleep(HOUR * 70 / 100).await;
        assert_ne!(world.leaf(&volume).serial_number(), serial, "renewal does not go on");
    });
}

#[test]
fn an_order_under_way_goes_on_with_its_key_after_a_restart() {
    in_world(async |mut world| {
        world.ca.delay.store(3_600, Ordering::SeqCst);
        let publish = world.start_publish("web", &[]);
        world.until(|world| world.ca.asked.load(Ordering::SeqCst) == 1).await;
        let first = world.ca.last_key();
        world.renewer.drain().await;
        assert!(publish.await.unwrap().is_err(), "the publish ended with its process");
        world.ca.delay.store(0, Ordering::SeqCst);
        world = world.restart().await;

        world.until(|world| world.ca.asked.load(Ordering::SeqCst) == 2).await;
        assert_eq!(world.ca.last_key(), first, "a new key was made");
        let volume = world.publish("web", &[]).await;
        assert_eq!(world.leaf(&volume).public_key_info(), first);
    });
}

#[test]
fn unpublish_in_the_middle_of_an_order_leaves_nothing() {
    in_world(async |world| {
        world.ca.delay.store(3_600, Ordering::SeqCst);
        let publish = world.start_publish("web", &[]);
        world.until(|world| world.ca.asked.load(Ordering::SeqCst) == 1).await;
        let volume = world.volume_id("web");
        world.unpublish("web").await;
        world.unpublish("web").await;
        assert!(publish.await.unwrap().is_err());
        assert!(world.renewer.get(&volume).is_none());
        world.assert_nothing_left();
    });
}

#[test]
fn an_order_that_nobody_goes_on_with_is_taken_back() {
    in_world(async |mut world| {
        *world.ca.trick.lock().unwrap() = Some(Trick::Awaits);
        world.try_publish("web", &[]).await.unwrap_err();
        assert_eq!(world.ca.forgotten(), [""; 0], "it goes on");
        world.unpublish("web").await;
        world.until(|world| world.ca.forgotten() == ["order"]).await;

        // After a restart, of an issuer that is read a while later.
        world.try_publish("web", &[]).await.unwrap_err();
        let set = world.issuers.send_replace(Arc::default());
        world = world.restart().await;
        world.unpublish("web").await;
        world.assert_nothing_left();
        world.sleep(Duration::from_secs(60)).await;
        assert_eq!(world.ca.forgotten().len(), 1);
        world.issuers.send_replace(set);
        world.until(|world| world.ca.forgotten() == ["order", "order"]).await;

        // What has its certificate is not taken back.
        *world.ca.trick.lock().unwrap() = Some(Trick::Remembers);
        world.publish("web", &[]).await;
        world.unpublish("web").await;
        world.sleep(Duration::from_secs(60)).await;
        assert_eq!(world.ca.forgotten().len(), 2);
    });
}

#[test]
fn who_shares_makes_no_key_before_it_is_needed() {
    in_world(async |world| {
        world.ca.shares.store(true, Ordering::SeqCst);
        world.ca.delay.store(60, Ordering::SeqCst);
        let first = world.start_publish("one", &[]);
        world.until(|world| world.ca.asked.load(Ordering::SeqCst) == 1).await;
        let second = world.start_publish("two", &[]);
        world.sleep(Duration::from_secs(10)).await;
        let made = |name| world.directory.path().join("data").join(world.volume_id(name).as_str());
        assert!(made("one").exists() && !made("two").exists());
        first.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
        assert_eq!(world.ca.asked.load(Ordering::SeqCst), 1);
        assert_eq!(world.key(&world.volume_id("one")), world.key(&world.volume_id("two")));
        assert!(!made("two").join("pending/key").exists());
    });
}

#[test]
fn who_shares_goes_on_after_a_restart_with_what_the_other_has() {
    in_world(async |mut world| {
        *world.ca.trick.lock().unwrap() = Some(Trick::Awaits);
        world.try_publish("two", &[]).await.unwrap_err();
        *world.ca.trick.lock().unwrap() = None;
        world.publish("one", &[]).await;
        let asked = world.ca.asked.load(Ordering::SeqCst);
        world.ca.shares.store(true, Ordering::SeqCst);
        world = world.restart().await;
        world.until(|world| world.status(&world.volume_id("two")).phase == Phase::Ready).await;
        world.publish("two", &[]).await;
        assert_eq!(world.ca.asked.load(Ordering::SeqCst), asked, "there was no need");
        assert_eq!(world.key(&world.volume_id("one")), world.key(&world.volume_id("two")));
        assert_eq!(world.ca.forgotten(), ["order"], "the order of its own is over");
    });
}

#[test]
fn whatever_a_ca_says_it_sees_no_storm_while_kubelet_asks_and_asks() {
    use IssueErrorKind::{
        BadResponse, Config, Denied, Node, Pending, RateLimited, Request, Unavailable,
    };
    in_world(async |world| {
        world.ca.failing.store(true, Ordering::SeqCst);
        for (kind, most) in [
            (Denied, 40),
            (RateLimited, 10),
            (BadResponse, 200),
            (Config, 3_000),
            (Request, 3_000),
            (Unavailable, 3_000),
            (Node, 3_000),
            (Pending, 6_000),
        ] {
            *world.ca.failure.lock().unwrap() = kind;
            world.ca.asked.store(0, Ordering::SeqCst);
            for _ in 0..24 * 30 {
                let _ = world.try_publish("web", &[]).await;
                world.sleep(HOUR / 30).await;
            }
            let asked = world.ca.asked.load(Ordering::SeqCst);
            assert!((2..most).contains(&asked), "{kind:?}: asked {asked} times in a day");
            world.unpublish("web").await;
        }
    });
}

#[test]
fn a_volume_that_kubelet_forgot_is_removed_after_ten_minutes() {
    in_world(async |world| {
        world.ca.failing.store(true, Ordering::SeqCst);
        world.try_publish("web", &[]).await.unwrap_err();
        world.sleep(Duration::from_secs(500)).await;
        world.try_publish("web", &[]).await.unwrap_err();
        world.sleep(Duration::from_secs(500)).await;
        assert_eq!(world.renewer.volumes().len(), 1, "kubelet asked for it meanwhile");

        world.sleep(Duration::from_secs(200)).await;
        world.until(|world| world.renewer.volumes().is_empty()).await;
        world.until(|world| world.leftovers().is_empty()).await;
    });
}

#[test]
fn a_mounted_volume_is_never_taken_for_forgotten() {
    in_world(async |world| {
        let volume = world.publish("web", &[]).await;
        world.sleep(HOUR * 5).await;
        assert_eq!(world.status(&volume).phase, Phase::Ready);
        assert!(world.status(&volume).renewals >= 5);
    });
}

#[test]
fn other_arguments_for_a_live_volume_are_refused_and_harm_nothing() {
    in_world(async |world| {
        let volume = world.publish("web", &[]).await;
        let serial = world.leaf(&volume).serial_number();
        let refused = world.try_publish("web", &[("duration", "2h")]).await.unwrap_err();
        assert!(refused.contains("already published with other attributes"), "{refused}");
        assert_eq!(world.leaf(&volume).serial_number(), serial);
    });
}

#[test]
fn the_wall_clock_may_step_forward_and_back() {
    in_world(async |world| {
        let volume = world.publish("web", &[]).await;
        let serial = world.leaf(&volume).serial_number();
        world.step.store(-200, Ordering::SeqCst);
        world.sleep(Duration::from_secs(180)).await;
        assert_eq!(world.ca.asked.load(Ordering::SeqCst), 1, "a short step back renews nothing");

        world.step.store(3_000, Ordering::SeqCst);
        world.sleep(Duration::from_secs(120)).await;
        assert_ne!(world.leaf(&volume).serial_number(), serial, "a step forward is noticed");
        assert_eq!(world.ca.asked.load(Ordering::SeqCst), 2, "and renews once");

        // A machine that started with its clock in the future, until NTP set it right.
        world.step.store(-1_500, Ordering::SeqCst);
        world.sleep(Duration::from_secs(180)).await;
        assert!(world.leaf(&volume).validity().not_before <= world.clock.now(), "it holds again");
        assert_eq!(world.ca.asked.load(Ordering::SeqCst), 3, "and was renewed once for that");
    });
}

#[test]
fn a_retry_does_not_wait_for_a_time_that_was_a_mistake() {
    in_world(async |world| {
        world.step.store(365 * 86_400, Ordering::SeqCst);
        world.ca.failing.store(true, Ordering::SeqCst);
        world.try_publish("web", &[]).await.unwrap_err();
        world.step.store(0, Ordering::SeqCst);
        world.ca.failing.store(false, Ordering::SeqCst);
        world.sleep(Duration::from_secs(120)).await;
        world.publish("web", &[]).await;
    });
}

#[test]
fn an_issuer_that_breaks_down_is_an_attempt_that_failed() {
    in_world(async |world| {
        let volume = world.publish("web", &[]).await;
        let serial = world.leaf(&volume).serial_number();
        *world.ca.trick.lock().unwrap() = Some(Trick::Panic);
        world.sleep(HOUR * 70 / 100).await;
        let status = world.status(&volume);
        assert_eq!(status.phase, Phase::RenewalFailing);
        assert!(status.last_error.unwrap().contains("broke down"));
        assert_eq!(world.leaf(&volume).serial_number(), serial);
        let refused = world.try_publish("other", &[]).await.unwrap_err();
        assert!(refused.contains("broke down"), "{refused}");

        *world.ca.trick.lock().unwrap() = None;
        world.sleep(HOUR * 10 / 100).await;
        assert_ne!(world.leaf(&volume).serial_number(), serial, "nobody tried again");
        assert_eq!(world.status(&volume).phase, Phase::Ready);
        world.publish("other", &[]).await;
        world.unpublish("other").await;
        world.unpublish("web").await;
        world.assert_nothing_left();
    });
}

#[test]
fn a_change_of_other_issuers_makes_nobody_try_again() {
    in_world(async |world| {
        world.ca.failing.store(true, Ordering::SeqCst);
        world.try_publish("web", &[]).await.unwrap_err();
        // Long enough to be at the longest pause between attempts.
        world.sleep(Duration::from_secs(550)).await;
        let asked = world.ca.asked.load(Ordering::SeqCst);
        for edit in 0..20 {
            let mut set = issuer_set(&world.ca);
            let (mut key, entry) =
                set.issuers.first_key_value().map(|(k, e)| (k.clone(), e.clone())).unwrap();
            key.name = format!("other-{edit}");
            set.issuers.insert(key, entry);
            world.issuers.send_replace(Arc::new(set));
            world.sleep(Duration::from_millis(100)).await;
        }
        let more = world.ca.asked.load(Ordering::SeqCst) - asked;
        assert!(more <= 1, "asked {more} times in two seconds");
    });
}

#[test]
fn a_restart_while_a_ca_changes_drops_no_anchor_that_others_need() {
    in_world(async |mut world| {
        let volumes = [world.publish("one", &[]).await, world.publish("two", &[]).await];
        let old = world.ca.authority().certificate().clone();
        let new = world.replace_ca("second");
        world.sleep(HOUR / 10).await;
        world = world.restart().await;
        for volume in &volumes {
            assert!(world.leaf(volume).is_signed_by(&new));
            assert!(contains(&world.anchors(volume), &old), "leaves of other nodes may need it");
        }
        world.sleep(HOUR * 4 / 10).await;
        for volume in &volumes {
            assert!(!contains(&world.anchors(volume), &old), "the old one is gone");
        }
    });
}

#[test]
fn a_failure_to_replace_trust_anchors_is_over_when_they_are_replaced() {
    in_world(async |world| {
        let volume = world.publish("web", &[]).await;
        let states = world.directory.path().join("data").join(volume.as_str()).join("state");
        let state = fs::read_dir(states).unwrap().next().unwrap().unwrap().path();
        let good = fs::read(&state).unwrap();
        fs::write(&state, "damaged").unwrap();
        let more = world.trust_also("second");
        world.sleep(Duration::from_secs(1)).await;
        let status = world.status(&volume);
        assert_eq!(status.phase, Phase::RenewalFailing);
        assert!(status.last_error.unwrap().contains("damaged"));

        fs::write(&state, good).unwrap();
        world.sleep(Duration::from_secs(120)).await;
        assert!(contains(&world.anchors(&volume), &more));
        let status = world.status(&volume);
        assert_eq!((status.phase, status.last_error), (Phase::Ready, None));
    });
}

#[test]
fn a_volume_that_lost_its_files_or_state_is_given_new_ones() {
    in_world(async |world| {
        let volume = world.publish("web", &[("reuse-private-key", "true")]).await;
        let folder = world.directory.path().join("data").join(volume.as_str());
        let current = || fs::read_link(folder.join("data/..data")).unwrap();
        let damages: [&dyn Fn(); 2] =
            [&|| fs::remove_dir_all(folder.join("data").join(current())).unwrap(), &|| {
                fs::remove_file(folder.join("state").join(current())).unwrap()
            }];
        for (renewals, damage) in (1..).zip(damages) {
            let serial = world.status(&volume).serial_number;
            damage();
            world.sleep(HOUR * 70 / 100).await;
            let status = world.status(&volume);
            assert_eq!((status.renewals, status.last_error), (renewals, None));
            assert_ne!(Some(world.leaf(&volume).serial_number()), serial);
        }
        let key = world.key(&volume);
        world.sleep(HOUR * 70 / 100).await;
        assert_eq!(world.key(&volume), key, "there is a key again to be kept");
    });
}

#[test]
fn a_new_password_is_for_the_next_renewal_and_a_bad_one_makes_no_certificate() {
    in_world(async |world| {
        let record = |name: &str, password: &str| {
            let attributes = [("pkcs12-enable", "true"), ("pkcs12-password-key", "p12")];
            let password = ("p12".to_owned(), password.to_owned().into());
            world.record(name, &attributes, Secrets(BTreeMap::from([password])))
        };
        let volume = world.volume_id("web");
        let opens = |password: &str| {
            let file = world.read(&volume, "keystore.p12");
            KeyStore::from_pkcs12(&file, password, Pkcs12ImportPolicy::Strict).is_ok()
        };
        world.submit(record("web", "first")).await.unwrap().unwrap();
        world.submit(record("web", "second")).await.unwrap().unwrap();
        assert!(opens("first") && !opens("second"), "a publish replaces no files");
        for name in ["web", "other"] {
            for bad in ["", "\u{1f511}"] {
                let refused = record(name, bad).request(&node()).unwrap_err();
                assert!(refused.message.contains("pkcs12-password-key"), "{refused}");
            }
        }
        assert_eq!(world.ca.asked.load(Ordering::SeqCst), 1);
        world.sleep(HOUR * 70 / 100).await;
        assert!(opens("second") && !opens("first"), "the renewal has the new password");
        let world = world.restart().await;
        world.sleep(HOUR * 70 / 100).await;
        let file = world.read(&volume, "keystore.p12");
        KeyStore::from_pkcs12(&file, "second", Pkcs12ImportPolicy::Strict).unwrap();
        assert_eq!(world.ca.asked.load(Ordering::SeqCst), 3);
    });
}

#[test]
fn what_is_left_of_a_forgotten_volume_is_reported() {
    in_world(async |mut world| {
        world.ca.failing.store(true, Ordering::SeqCst);
        world.try_publish("web", &[]).await.unwrap_err();
        // Kubelet made the folder, and it cannot be removed.
        let target = world.target("web");
        fs::create_dir(&target).unwrap();
        let parent = target.parent().unwrap();
        let none = None::<&str>;
        mount(Some(parent), parent, none, MsFlags::MS_BIND, none).unwrap();
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(none, parent, none, read_only, none).unwrap();
        world.sleep(Duration::from_secs(700)).await;
        let told = async {
            loop {
                let report = world.reports.recv().await.expect("the renewer lives");
                if let Outcome::NotRemoved { message } = report.outcome {
                    return message;
                }
            }
        };
        let message = tokio::time::timeout(HOUR, told).await.expect("it is reported");
        assert!(message.contains(target.to_str().unwrap()), "{message}");
        assert!(world.renewer.volumes().is_empty());

        umount(parent).unwrap();
        world.unpublish("web").await;
        world.assert_nothing_left();
    });
}

#[test]
fn a_large_key_holds_up_nobody() {
    in_world(async |world| {
        let rsa = |size| [("key-algorithm", "RSA"), ("key-size", size)];
        let large = world.start_publish("large", &rsa("8192"));
        let volume = world.volume_id("large");
        world.publish("common", &rsa("2048")).await;
        world.publish("fast", &[]).await;
        assert_eq!(world.status(&volume).phase, Phase::Issuing);
        // Nor does it hold up its own end.
        world.unpublish("large").await;
        assert!(large.await.unwrap().is_err());
        assert_eq!(world.ca.asked.load(Ordering::SeqCst), 2, "it waited for the key");
    });
}

#[test]
fn drain_ends_the_work_and_leaves_the_volumes() {
    in_world(async |world| {
        let volume = world.publish("web", &[]).await;
        let key = world.key(&volume);
        world.renewer.drain().await;
        assert_eq!(fs::read(world.target("web").join("tls.key")).unwrap(), key);
        let refused = world.try_publish("other", &[]).await.unwrap_err();
        assert!(refused.contains("shutting down"), "{refused}");
        assert_eq!(world.status(&volume).phase, Phase::Ready, "nobody can look any more");
        world.unpublish("web").await;
        world.assert_nothing_left();
    });
}

/// A renewer with its data root, its issuers and its clock.
struct World {
    renewer: Renewer,
    ca: Arc<TestCa>,
    issuers: watch::Sender<Arc<IssuerSet>>,
    reading: Issuers,
    config_maps: watch::Sender<Arc<ConfigMaps>>,
    reports: mpsc::UnboundedReceiver<Report>,
    clock: Clock,
    step: Arc<AtomicI64>,
    directory: tempfile::TempDir,
}

/// Runs `body` in namespaces of its own, on a paused clock.
fn in_world(body: impl AsyncFnOnce(World)) {
    namespaced(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async { body(World::new()).await });
        // A key that is being made is waited for otherwise.
        runtime.shutdown_background();
    });
}

impl World {
    fn new() -> Self {
        let step = Arc::new(AtomicI64::new(0));
        let start = tokio::time::Instant::now();
        let clock = Clock::from_fn({
            let step = Arc::clone(&step);
            move || {
                let stepped = jiff::SignedDuration::from_secs(step.load(Ordering::SeqCst));
                Timestamp::from_second(1_800_000_000).unwrap() + start.elapsed() + stepped
            }
        });
        let ca = Arc::new(TestCa::new(&clock));
        let (issuers, reading) = Issuers::channel(issuer_set(&ca));
        let directory = tempfile::tempdir().unwrap();
        let config_maps = watch::Sender::default();
        let (renewer, reports) = start_renewer(&directory, &reading, &config_maps, &clock);
        Self { renewer, ca, issuers, reading, config_maps, reports, clock, step, directory }
    }

    /// The same data root under a new renewer, as after a restart.
    async fn restart(self) -> Self {
        let Self { renewer, directory, reading, config_maps, clock, .. } = self;
        renewer.drain().await;
        drop(renewer);
        let (renewer, reports) = start_renewer(&directory, &reading, &config_maps, &clock);
        let (_, problems) = renewer.adopt().await.unwrap();
        assert_eq!(problems, Vec::<String>::new());
        let world = Self { renewer, reports, directory, reading, config_maps, clock, ..self };
        world.sleep(Duration::from_millis(1)).await;
        world
    }

    /// Publishes as kubelet would and answers the volume's id.
    async fn publish(&self, name: &str, attributes: &[(&str, &str)]) -> VolumeId {
        self.try_publish(name, attributes).await.unwrap();
        self.volume_id(name)
    }

    async fn try_publish(&self, name: &str, attributes: &[(&str, &str)]) -> Result<(), String> {
        self.start_publish(name, attributes).await.unwrap()
    }

    fn start_publish(
        &self,
        name: &str,
        attributes: &[(&str, &str)],
    ) -> tokio::task::JoinHandle<Result<(), String>> {
        self.submit(self.record(name, attributes, Secrets::default()))
    }

    fn submit(&self, record: Record) -> tokio::task::JoinHandle<Result<(), String>> {
        let request = record.request(&node()).unwrap();
        let publication = self.renewer.publish(request, record);
        tokio::spawn(async move {
            let publication = publication.map_err(|error: PublishError| error.to_string())?;
            publication.ready().await.map_err(|error| error.to_string())
        })
    }

    async fn unpublish(&self, name: &str) {
        let request = self.record(name, &[], Secrets::default()).request(&node()).unwrap();
        self.renewer.unpublish(&request.volume, &request.target).await.unwrap();
    }

    fn record(&self, name: &str, attributes: &[(&str, &str)], secrets: Secrets) -> Record {
        let mut all = BTreeMap::from(
            [
                ("csi.storage.k8s.io/ephemeral", "true"),
                ("csi.storage.k8s.io/pod.name", "web-0"),
                ("csi.storage.k8s.io/pod.namespace", "shop"),
                ("csi.storage.k8s.io/pod.uid", "uid-1"),
                ("csi.storage.k8s.io/serviceAccount.name", "web"),
                ("certmount.dev/issuer-name", "ca"),
                ("certmount.dev/issuer-kind", "ClusterIssuer"),
                ("certmount.dev/dns-names", "web.shop.svc"),
                ("certmount.dev/duration", "1h"),
                ("certmount.dev/key-algorithm", "ECDSA"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        for (key, value) in attributes {
            all.insert(format!("certmount.dev/{key}"), (*value).to_owned());
        }
        let target = self.target(name);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let id = self.volume_id(name);
        let raw = RawRequest {
            volume_id: id.as_str(),
            target_path: target.to_str().unwrap(),
            attributes: &all,
            volume_mount_group: "",
            pod_ip: None,
        };
        Record::new(raw, true, secrets)
    }

    fn volume_id(&self, name: &str) -> VolumeId {
        VolumeId::of_inline_volume("uid-1", name)
    }

    fn target(&self, name: &str) -> PathBuf {
        let path = format!("pods/uid-1/volumes/kubernetes.io~csi/{name}/mount");
        self.directory.path().join(path)
    }

    fn status(&self, volume: &VolumeId) -> certmount::renew::VolumeStatus {
        self.renewer.get(volume).expect("the volume is there")
    }

    /// What the pod reads.
    fn read(&self, volume: &VolumeId, file: &str) -> Vec<u8> {
        let target = self.status(volume).target_path;
        fs::read(target.as_path().join(file)).unwrap()
    }

    fn leaf(&self, volume: &VolumeId) -> Certificate {
        certificates_from_pem(&self.read(volume, "tls.crt")).unwrap().remove(0)
    }

    fn anchors(&self, volume: &VolumeId) -> Vec<Certificate> {
        certificates_from_pem(&self.read(volume, "ca.crt")).unwrap()
    }

    fn key(&self, volume: &VolumeId) -> Vec<u8> {
        self.read(volume, "tls.key")
    }

    /// For each certificate since the last call, whether it was a renewal.
    fn issued(&mut self) -> Vec<bool> {
        let mut issued = Vec::new();
        while let Ok(report) = self.reports.try_recv() {
            if let Outcome::Issued { renewal, .. } = report.outcome {
                issued.push(renewal);
            }
        }
        issued
    }

    fn replace_ca(&self, name: &str) -> Certificate {
        *self.ca.authority.lock().unwrap() = Arc::new(new_authority(name, self.clock.now()));
        // As config does: a changed Secret makes a new issuer.
        let ca = Arc::new(TestCa {
            anchors: self.ca.authority().trust_anchors().to_vec(),
            ..self.ca.twin()
        });
        let certificate = ca.authority().certificate().clone();
        self.issuers.send_replace(Arc::new(issuer_set(&ca)));
        certificate
    }

    /// Makes the issuer name one more trust anchor.
    fn trust_also(&self, name: &str) -> Certificate {
        let more = new_authority(name, self.clock.now()).certificate().clone();
        let mut ca = self.ca.twin();
        ca.anchors.push(more.clone());
        self.issuers.send_replace(Arc::new(issuer_set(&Arc::new(ca))));
        more
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Waits for a fact; time passes meanwhile, but no more than half a minute.
    async fn until(&self, fact: impl Fn(&Self) -> bool) {
        for _ in 0..30_000 {
            if fact(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("what was waited for did not come");
    }

    fn leftovers(&self) -> Vec<String> {
        let root = self.directory.path();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut left: Vec<_> = mounts
            .lines()
            .filter(|line| line.contains(root.to_str().unwrap()))
            .map(str::to_owned)
            .collect();
        let volumes = fs::read_dir(root.join("data")).unwrap();
        left.extend(volumes.map(|entry| entry.unwrap().path().display().to_string()));
        left.extend(
            ["web"]
                .iter()
                .map(|name| self.target(name))
                .filter(|path| path.exists())
                .map(|path| path.display().to_string()),
        );
        left
    }

    fn assert_nothing_left(&self) {
        assert_eq!(self.leftovers(), Vec::<String>::new());
    }
}

fn start_renewer(
    directory: &tempfile::TempDir,
    issuers: &Issuers,
    config_maps: &watch::Sender<Arc<ConfigMaps>>,
    clock: &Clock,
) -> (Renewer, mpsc::UnboundedReceiver<Report>) {
    let (reports, received) = mpsc::unbounded_channel();
    let renewer = Renewer::new(Settings {
        volumes: Volumes::open(&directory.path().join("data")).unwrap(),
        issuers: issuers.clone(),
        anchors: AnchorSources::of_objects(config_maps.subscribe()),
        clock: clock.clone(),
        node: node(),
        reports,
    });
    (renewer, received)
}

fn node() -> NodeContext {
    NodeContext { driver_name: "csi.certmount.dev".to_owned(), node_name: "node1".to_owned() }
}

fn contains(anchors: &[Certificate], certificate: &Certificate) -> bool {
    anchors.iter().any(|anchor| anchor.der() == certificate.der())
}

fn issuer_set(ca: &Arc<TestCa>) -> IssuerSet {
    let key = IssuerKey {
        group: "certmount.dev".to_owned(),
        kind: "ClusterIssuer".to_owned(),
        namespace: None,
        name: "ca".to_owned(),
    };
    let issuer: Arc<dyn Issuer> = Arc::clone(ca) as _;
    let entry = Entry { policy: Some(NamePolicy::default()), issuer: Ok(issuer) };
    IssuerSet::from_iter([(key, entry)])
}

/// A CA that does as it is told.
#[derive(Debug)]
struct TestCa {
    authority: Arc<std::sync::Mutex<Arc<CertificateAuthority>>>,
    anchors: Vec<Certificate>,
    clock: Clock,
    asked: Arc<AtomicUsize>,
    /// Seconds that it takes.
    delay: Arc<AtomicUsize>,
    failing: Arc<AtomicBool>,
    /// How it fails.
    failure: Arc<std::sync::Mutex<IssueErrorKind>>,
    /// Whether pods of the node may share.
    shares: Arc<AtomicBool>,
    /// Handles of orders that nobody goes on with.
    forgotten: Arc<std::sync::Mutex<Vec<String>>>,
    trick: Arc<std::sync::Mutex<Option<Trick>>>,
    last_key: Arc<std::sync::Mutex<Vec<u8>>>,
}

/// A wrong answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Trick {
    AnothersKey,
    AnothersName,
    Expired,
    FromTheFuture,
    Nothing,
    Panic,
    ThreeSeconds,
    /// A right answer, with something to say about it.
    Warns,
    /// None yet: the order has a handle.
    Awaits,
    /// A right answer to an order with a handle.
    Remembers,
}

impl TestCa {
    fn new(clock: &Clock) -> Self {
        let authority = Arc::new(new_authority("first", clock.now()));
        Self {
            anchors: authority.trust_anchors().to_vec(),
            authority: Arc::new(std::sync::Mutex::new(authority)),
            clock: clock.clone(),
            asked: Arc::default(),
            delay: Arc::default(),
            failing: Arc::default(),
            failure: Arc::new(std::sync::Mutex::new(IssueErrorKind::Unavailable)),
            shares: Arc::default(),
            forgotten: Arc::default(),
            trick: Arc::default(),
            last_key: Arc::default(),
        }
    }

    /// Another handle on the same switches and counters.
    fn twin(&self) -> Self {
        Self {
            authority: Arc::clone(&self.authority),
            anchors: self.anchors.clone(),
            clock: self.clock.clone(),
            asked: Arc::clone(&self.asked),
            delay: Arc::clone(&self.delay),
            failing: Arc::clone(&self.failing),
            failure: Arc::clone(&self.failure),
            shares: Arc::clone(&self.shares),
            forgotten: Arc::clone(&self.forgotten),
            trick: Arc::clone(&self.trick),
            last_key: Arc::clone(&self.last_key),
        }
    }

    fn authority(&self) -> Arc<CertificateAuthority> {
        Arc::clone(&self.authority.lock().unwrap())
    }

    fn forgotten(&self) -> Vec<String> {
        self.forgotten.lock().unwrap().clone()
    }

    fn last_key(&self) -> Vec<u8> {
        self.last_key.lock().unwrap().clone()
    }
}

#[async_trait]
impl Issuer for TestCa {
    async fn issue(&self, order: Order<'_>) -> Result<Issued, IssueError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        *self.last_key.lock().unwrap() = order.key.public_key_info().to_vec();
        let delay = self.delay.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(delay as u64)).await;
        if self.failing.load(Ordering::SeqCst) {
            let kind = *self.failure.lock().unwrap();
            let limit = (kind == IssueErrorKind::RateLimited).then_some(HOUR * 3);
            return Err(IssueError { retry_after: limit, ..IssueError::new(kind, "told to fail") });
        }
        let now = self.clock.now();
        let mut template = order.spec.template.clone();
        let mut public_key = order.key.public_key_info().to_vec();
        let mut validity = Validity {
            not_before: now - Duration::from_secs(300),
            not_after: now + order.spec.duration,
        };
        let trick = *self.trick.lock().unwrap();
        match trick {
            Some(Trick::AnothersKey) => {
                let other = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
                public_key = other.public_key_info().to_vec();
            }
            Some(Trick::AnothersName) => {
                template.subject_alt_names =
                    vec![certmount::x509::GeneralName::dns("other.shop.svc").unwrap()]
            }
            Some(Trick::Expired) => validity.not_after = now - Duration::from_secs(1),
            Some(Trick::FromTheFuture) => validity.not_before = now + HOUR / 2,
            Some(Trick::ThreeSeconds) => {
                validity = Validity { not_before: now, not_after: now + Duration::from_secs(3) };
            }
            Some(Trick::Nothing) => {
                return Ok(Issued { chain: Vec::new(), trust_anchors: self.anchors.clone() });
            }
            Some(Trick::Panic) => panic!("told to"),
            Some(Trick::Warns) => order.warnings.add("told to warn".to_owned()),
            Some(Trick::Remembers) => order.handle.save("order").unwrap(),
            Some(Trick::Awaits) => {
                order.handle.save("order").unwrap();
                return Err(IssueError::new(IssueErrorKind::Pending, "told to wait"));
            }
            None => {}
        }
        let leaf = self
            .authority()
            .sign(&template, &public_key, validity, &AuthorityInformation::default())
            .map_err(|error| IssueError::new(IssueErrorKind::Config, error.to_string()))?;
        Ok(Issued { chain: vec![leaf], trust_anchors: self.anchors.clone() })
    }

    fn trust_anchors(&self) -> Option<&[Certificate]> {
        Some(&self.anchors)
    }

    fn shares_on_node(&self) -> bool {
        self.shares.load(Ordering::SeqCst)
    }

    fn forget(&self, handle: &str) {
        self.forgotten.lock().unwrap().push(handle.to_owned());
    }
}

fn new_authority(name: &str, now: Timestamp) -> CertificateAuthority {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let mut subject = DistinguishedName::default();
    subject.push("CN", name).unwrap();
    let template = Template {
        subject,
        subject_alt_names: Vec::new(),
        usages: KeyUsages::parse(["cert sign"]).unwrap(),
        basic_constraints: BasicConstraints::Ca { path_len: None },
        name_constraints: NameConstraints::default(),
    };
    let validity = Validity { not_before: now - HOUR, not_after: now + HOUR * 24 * 365 };
    let information = AuthorityInformation::default();
    let certificate = self_sign(&template, &key, validity, &information).unwrap();
    CertificateAuthority::new(vec![certificate], Vec::new(), Arc::new(key)).unwrap()
}
