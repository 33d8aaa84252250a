//! Trust anchors that volumes take from a ConfigMap beside those of their issuer.

use certmount::x509::chain_to_pem;

use super::*;

const ATTRIBUTES: [(&str, &str); 3] = [
    ("trust-config-maps", "roots/bundle.pem"),
    ("pkcs12-truststore-file", "trust.p12"),
    ("pkcs12-password", "sesame"),
];

#[test]
fn a_volume_waits_for_whom_to_trust() {
    in_world(async |world| {
        let refused = world.try_publish("web", &ATTRIBUTES).await.unwrap_err();
        let said = "there is no ConfigMap shop/roots, which trust-config-maps names: create it";
        assert!(refused.contains(said), "{refused}");
        assert_eq!(world.ca.asked.load(Ordering::SeqCst), 0, "the CA was asked for nothing");

        world.config_map("other.pem", "");
        let refused = world.until_refused("it has other.pem: write name/key").await;
        assert!(refused.contains("ConfigMap shop/roots: there is no bundle.pem"), "{refused}");

        let root = world.put_root("partner");
        let volume = world.volume_id("web");
        world.until(|world| world.status(&volume).phase == Phase::Ready).await;
        world.publish("web", &ATTRIBUTES).await;
        assert_eq!(world.anchors(&volume), [world.ca.anchors[0].clone(), root]);
        assert_eq!(world.truststore(&volume), 2);
        world.unpublish("web").await;
        world.assert_nothing_left();
    });
}

#[test]
fn changes_of_the_source_are_taken_over_without_a_new_certificate() {
    in_world(async |mut world| {
        let first = world.put_root("first");
        let volume = world.publish("web", &ATTRIBUTES).await;
        let plain = world.publish("plain", &[]).await;
        let serial = world.leaf(&volume).serial_number();
        assert!(contains(&world.anchors(&volume), &first));
        assert!(!contains(&world.anchors(&plain), &first), "nobody asked for it there");

        let second = world.put_root("second");
        world.until(|world| contains(&world.anchors(&volume), &second)).await;
        assert_eq!(world.anchors(&volume), [world.ca.anchors[0].clone(), second.clone()]);
        assert_eq!(world.truststore(&volume), 2);

        // Neither the CA nor what is trusted elsewhere is lost by the other's change.
        let new_ca = world.replace_ca("new");
        world.until(|world| contains(&world.anchors(&volume), &new_ca)).await;
        assert!(contains(&world.anchors(&volume), &second));
        assert_eq!(world.leaf(&volume).serial_number(), serial);
        assert_eq!(world.issued(), [false, false]);

        world.sleep(HOUR).await;
        assert_ne!(world.leaf(&volume).serial_number(), serial, "it was renewed");
        assert!(contains(&world.anchors(&volume), &second));
    });
}

#[test]
fn a_mistake_in_the_source_costs_no_trust_and_is_told_once() {
    in_world(async |mut world| {
        let root = world.put_root("partner");
        let volume = world.publish("web", &ATTRIBUTES).await;
        let trusted = world.anchors(&volume);
        assert!(contains(&trusted, &root));

        world.config_map("bundle.pem", "-----BEGIN CERTIFICATE-----\nMA");
        world.sleep(HOUR).await;
        assert_ne!(world.issued(), [] as [bool; 0], "renewals go on");
        assert_eq!(world.anchors(&volume), trusted);
        world.config_maps.send_replace(Arc::default());
        world.sleep(Duration::from_secs(1)).await;
        assert_eq!(world.anchors(&volume), trusted);
        let kept = world.kept();
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert!(kept[0].contains("there is no ConfigMap shop/roots"), "{kept:?}");

        // Not even a new process, which has never seen it right, forgets it.
        let mut world = world.restart().await;
        world.sleep(HOUR).await;
        assert_eq!(world.anchors(&volume), trusted);
        assert_eq!(world.kept().len(), 1);

        let corrected = world.put_root("corrected");
        world.until(|world| contains(&world.anchors(&volume), &corrected)).await;
        assert!(!contains(&world.anchors(&volume), &root));
        assert_eq!(world.status(&volume).last_error, None);
    });
}

#[test]
fn more_than_a_volume_holds_together_with_the_issuers_is_refused_or_told() {
    in_world(async |mut world| {
        let now = world.clock.now();
        let roots: Vec<_> = (0..200)
            .map(|number| new_authority(&format!("root-{number}"), now).certificate().clone())
            .collect();
        world.config_map("bundle.pem", &chain_to_pem(&roots));
        let said = "there are 201 trust anchors, 1 of the issuer and the others from";
        let refused = world.until_refused(said).await;
        assert!(refused.contains("a volume holds 200 at most; leave some out"), "{refused}");

        world.config_map("bundle.pem", &chain_to_pem(&roots[..199]));
        let volume = world.volume_id("web");
        world.until(|world| world.status(&volume).phase == Phase::Ready).await;
        world.publish("web", &ATTRIBUTES).await;
        let trusted = world.anchors(&volume);
        assert_eq!(trusted.len(), 200);
        let serial = world.leaf(&volume).serial_number();

        // What is there keeps what it trusts, through renewals too.
        world.config_map("bundle.pem", &chain_to_pem(&roots));
        world.sleep(HOUR).await;
        assert_ne!(world.leaf(&volume).serial_number(), serial, "renewals go on");
        assert_eq!(world.anchors(&volume), trusted);
        let kept = world.kept();
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert!(kept[0].contains(said), "{kept:?}");
    });
}

impl World {
    fn config_map(&self, key: &str, text: &str) {
        let name = (Some("shop".to_owned()), "roots".to_owned());
        let data = BTreeMap::from([(key.to_owned(), text.to_owned())]);
        self.config_maps.send_replace(Arc::new(ConfigMaps([(name, data)].into())));
    }

    /// Makes a new CA the only one in the ConfigMap.
    fn put_root(&self, name: &str) -> Certificate {
        let root = new_authority(name, self.clock.now()).certificate().clone();
        self.config_map("bundle.pem", &chain_to_pem([&root]));
        root
    }

    /// Publishes until the answer has these words.
    async fn until_refused(&self, words: &str) -> String {
        for _ in 0..600 {
            let refused = self.try_publish("web", &ATTRIBUTES).await.unwrap_err();
            if refused.contains(words) {
                return refused;
            }
            self.sleep(Duration::from_secs(1)).await;
        }
        panic!("it never says {words:?}");
    }

    /// How many certificates the PKCS#12 truststore holds.
    fn truststore(&self, volume: &VolumeId) -> usize {
        let file = self.read(volume, "trust.p12");
        KeyStore::from_pkcs12(&file, "sesame", Pkcs12ImportPolicy::Strict)
            .unwrap()
            .entries()
            .count()
    }

    /// What was told, since the last call, of anchors that stay.
    fn kept(&mut self) -> Vec<String> {
        let mut kept = Vec::new();
        while let Ok(report) = self.reports.try_recv() {
            if let Outcome::TrustKept { message } = report.outcome {
                kept.push(message);
            }
        }
        kept
    }
}
