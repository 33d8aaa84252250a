//! The driver in front of TPP and of the cloud, both played over HTTPS with each failure that they
//! know: what is on the mount, and what the pod's owner is told.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test, which may panic and asks for the time"
)]
#![allow(dead_code, unreachable_pub, reason = "parts of test files are used by some of them")]

#[path = "venafi/cloud.rs"]
mod cloud;
mod common;
#[path = "venafi/server.rs"]
mod server;
#[path = "venafi/tpp.rs"]
mod tpp;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use certmount::clock::Clock;
use certmount::csi::client::{InlineVolume, Kubelet};
use certmount::x509::{Certificate, certificates_from_pem};
use cloud::Cloud;
use common::{Plugin, namespaced_async};
use serde_json::json;
use server::Reply;
use tonic::{Code, Status};
use tpp::{Settings, Tpp};

const TOKEN: &str = "{access-token: token-0}";
const PASSWORD: &str = "{username: certmount, password: sesame}";

// TPP.

#[test]
fn tpp_signs_for_each_volume_what_it_asked_for() {
    namespaced_async(|| async {
        let tpp = Tpp::start().await;
        let fields = "customFields: [{name: Cost center, value: '1'}, {name: Owner, value: web}]";
        let plugin =
            driver(&with_tpp(&tpp, TOKEN).replace("zone:", &format!("{fields}\n    zone:")));
        let kubelet = plugin.kubelet();
        let mut web = volume("web-0");
        let annotation = r#"[{"name": "Cost center", "value": "4711", "type": "Plain"}]"#;
        let key = "venafi.cert-manager.io/custom-fields".to_owned();
        web.attributes.insert(key, annotation.to_owned());
        let target = kubelet.publish(&web).await.unwrap();
        let chain = certificates(&target.join("tls.crt"));
        assert_eq!(
            chain[0].names(),
            ["dns:web.shop.svc", "uri:spiffe://cluster.local/ns/shop/sa/default"]
        );
        assert_eq!(chain[0].subject(), "CN=web.shop.svc");
        assert_eq!(chain.len(), 2, "leaf and intermediate");
        assert_eq!(certificates(&target.join("ca.crt")), [tpp.root()]);
        let life = chain[0].validity().not_after.duration_since(Clock::system().now());
        let life = Duration::try_from(life).unwrap();
        assert!(life > Duration::from_secs(7100) && life <= Duration::from_secs(7200), "{life:?}");

        let calls: Vec<String> = tpp.calls("").into_iter().map(|call| call.what).collect();
        assert_eq!(
            calls,
            [
                "GET vedauth/authorize/verify",
                "POST vedsdk/certificates/checkpolicy",
                "POST vedsdk/certificates/reset",
                "POST vedsdk/certificates/request",
                "POST vedsdk/certificates/retrieve",
            ]
        );
        let request = &tpp.calls("request")[0].body;
        assert_eq!(
            request["CustomFields"],
            json!([
                {"Name": "Cost center", "Values": ["4711"]},
                {"Name": "Owner", "Values": ["web"]},
            ])
        );
        assert_eq!(request["KeyAlgorithm"], "ECC");
        assert_eq!(request["EllipticCurve"], "P256");
        assert_eq!(request["DisableAutomaticRenewal"], true);
        assert!(tpp.objects()[0].starts_with(r"\VED\Policy\DevOps\shop\shop.web-0-"));

        // A second volume of the same common name is an object of its own, and so is its key. The
        // token is known to be good by now.
        let other = kubelet.publish(&volume("web-1")).await.unwrap();
        assert_eq!(tpp.objects().len(), 2);
        let leaves = [&target, &other].map(|target| leaf(target).serial_number());
        assert_ne!(leaves[0], leaves[1]);
        assert_eq!(tpp.calls("verify").len(), 1);
        for target in [&target, &other] {
            assert_key_is_of_leaf(target);
        }
        assert!(!plugin.log().contains("token-0"), "{}", plugin.log());
    });
}

#[test]
fn tpp_renews_the_same_object_with_a_new_key() {
    namespaced_async(|| async {
        let settings = Settings { life: Some(Duration::from_secs(9)), ..Settings::default() };
        let tpp = Tpp::with(settings).await;
        let plugin = driver(&with_tpp(&tpp, TOKEN));
        let mut web = volume("web-0");
        web.attributes.insert("certmount.dev/duration".to_owned(), "9s".to_owned());
        let target = plugin.kubelet().publish(&web).await.unwrap();
        let first = leaf(&target);
        plugin.wait("the renewal", || leaf(&target) != first);
        assert_eq!(tpp.objects().len(), 1);
        assert_ne!(leaf(&target).public_key_info(), first.public_key_info());
        assert_key_is_of_leaf(&target);

        // What cannot be renewed is kept.
        tpp.change(|settings| settings.failures = (u32::MAX, "CA is offline"));
        plugin.wait("the failure", || plugin.log().contains("CA is offline"));
        assert_key_is_of_leaf(&target);
    });
}

#[test]
fn tpp_takes_user_and_password_once_for_all_volumes() {
    namespaced_async(|| async {
        let tpp = Tpp::start().await;
        let plugin = driver(&with_tpp(&tpp, PASSWORD));
        let kubelet = plugin.kubelet();
        let pods: Vec<_> = (0..12).map(|n| volume(&format!("web-{n}"))).collect();
        let published = futures_util::future::join_all(pods.iter().map(|pod| kubelet.publish(pod)));
        for target in published.await {
            assert_key_is_of_leaf(&target.unwrap());
        }
        assert_eq!(tpp.calls("authorize/oauth").len(), 1);
        assert_eq!(tpp.calls("authorize/verify").len(), 0);

        // Tokens that were revoked, and their refresh tokens with them, cost one more.
        tpp.revoke_tokens();
        kubelet.publish(&volume("late-0")).await.unwrap();
        assert_eq!(tpp.calls("authorize/token").len(), 1);
        assert_eq!(tpp.calls("authorize/oauth").len(), 2);
        assert!(!plugin.log().contains("sesame") && !plugin.log().contains("access-"));
    });
}

#[test]
fn tpp_tokens_are_refreshed_before_they_end() {
    namespaced_async(|| async {
        let tpp = Tpp::with(Settings { expires_in: 1, ..Settings::default() }).await;
        let plugin = driver(&with_tpp(&tpp, PASSWORD));
        let kubelet = plugin.kubelet();
        kubelet.publish(&volume("web-0")).await.unwrap();
        let logged_in = tpp.calls("authorize/oauth").len();
        tokio::time::sleep(Duration::from_secs(1)).await;
        kubelet.publish(&volume("web-1")).await.unwrap();
        assert!(!tpp.calls("authorize/token").is_empty());
        assert_eq!(tpp.calls("authorize/oauth").len(), logged_in, "no password for a refresh");
    });
}

#[test]
fn tpp_that_does_not_know_us_is_asked_no_more_until_the_secret_changes() {
    namespaced_async(|| async {
        let tpp = Tpp::start().await;
        let plugin = driver(&with_tpp(&tpp, &PASSWORD.replace("sesame", "guess")));
        let kubelet = plugin.kubelet();
        for pod in ["web-0", "web-1"] {
            let status = kubelet.publish(&volume(pod)).await.unwrap_err();
            says(
                &status,
                &["Username/password combination not valid", "Secret tpp", "cert-manager.io"],
            );
            assert!(!status.message().contains("guess"), "{status}");
        }
        assert_eq!(tpp.calls("authorize/oauth").len(), 1, "guessing on would lock the account");

        plugin.configure("venafi.yaml", &with_tpp(&tpp, PASSWORD));
        until_published(&kubelet, &volume("web-0")).await;
        until_published(&kubelet, &volume("web-1")).await;
    });
}

#[test]
fn tpp_token_that_expires_in_use_is_told_and_replaced() {
    namespaced_async(|| async {
        let tpp = Tpp::start().await;
        let plugin = driver(&with_tpp(&tpp, TOKEN));
        let kubelet = plugin.kubelet();
        kubelet.publish(&volume("web-0")).await.unwrap();
        tpp.revoke_tokens();
        let status = kubelet.publish(&volume("web-1")).await.unwrap_err();
        says(
            &status,
            &["Access token is expired or was revoked", "Secret tpp", "put a new one there"],
        );
        let asked = tpp.calls("").len();
        kubelet.publish(&volume("web-2")).await.unwrap_err();
        assert_eq!(tpp.calls("").len(), asked, "a token that was refused is not tried again");

        tpp.allow_token("token-1");
        plugin.configure("venafi.yaml", &with_tpp(&tpp, "{access-token: token-1}"));
        until_published(&kubelet, &volume("web-1")).await;
        assert!(!plugin.log().contains("token-0") && !plugin.log().contains("token-1"));
    });
}

#[test]
fn tpp_may_take_some_stages() {
    namespaced_async(|| async {
        let tpp = Tpp::with(Settings { stages: Some(2), ..Settings::default() }).await;
        let plugin = driver(&with_tpp(&tpp, TOKEN));
        let target = plugin.kubelet().publish(&volume("web-0")).await.unwrap();
        assert_key_is_of_leaf(&target);
        assert_eq!(tpp.calls("certificates/request").len(), 1);
        assert_eq!(tpp.calls("certificates/retrieve").len(), 3);
    });
}

#[test]
fn tpp_approval_may_take_longer_than_kubelet_waits_and_the_driver_lives() {
    namespaced_async(|| async {
        let tpp = Tpp::with(Settings { stages: None, ..Settings::default() }).await;
        let mut plugin = driver(&with_tpp(&tpp, TOKEN));
        let kubelet = plugin.kubelet();
        let web = volume("web-0");
        let status = kubelet.publish(&web).await.unwrap_err();
        assert_eq!(status.code(), Code::Aborted);
        says(
            &status,
            &[
                "Waiting for approval by Security",
                r"\VED\Policy\DevOps\shop\shop.web-0-",
                "approved there",
            ],
        );

        // Killed and started, asked again and again, and killed once more after the approval.
        plugin.restart();
        kubelet.publish(&web).await.unwrap_err();
        plugin.kill();
        tpp.approve();
        plugin.restart();
        let target = until_published(&kubelet, &web).await;
        assert_key_is_of_leaf(&target);
        assert_eq!(tpp.calls("certificates/request").len(), 1, "asked for once");
        assert_eq!(tpp.calls("certificates/reset").len(), 1, "a reset would undo the approval");
        let polls = tpp.calls("certificates/retrieve").len();
        assert!(polls < 15, "{polls} polls");
    });
}

#[test]
fn tpp_that_gets_a_request_and_loses_its_client_is_not_asked_twice() {
    namespaced_async(|| async {
        let tpp = Tpp::with(Settings { stages: None, ..Settings::default() }).await;
        let mut plugin = driver(&with_tpp(&tpp, TOKEN));
        let kubelet = plugin.kubelet();
        let web = volume("web-0");
        let publish = tokio::spawn({
            let (kubelet, web) = (kubelet.clone(), web.clone());
            async move { kubelet.publish(&web).await }
        });
        while tpp.calls("certificates/request").is_empty() {
            tokio::task::yield_now().await;
        }
        // Before the answer, or just after it.
        plugin.kill();
        publish.await.unwrap().unwrap_err();
        tpp.approve();
        plugin.restart();
        assert_key_is_of_leaf(&until_published(&kubelet, &web).await);
        assert_eq!(tpp.calls("certificates/request").len(), 1);
    });
}

#[test]
fn tpp_enrolment_that_fails_is_reset_and_asked_for_again() {
    namespaced_async(|| async {
        let settings = Settings { failures: (1, "CA is offline"), ..Settings::default() };
        let tpp = Tpp::with(settings).await;
        let plugin = driver(&with_tpp(&tpp, TOKEN));
        let target = plugin.kubelet().publish(&volume("web-0")).await.unwrap();
        assert_key_is_of_leaf(&target);
        assert_eq!(tpp.calls("certificates/request").len(), 2);
        assert_eq!(tpp.objects().len(), 1);
    });
}

#[test]
fn tpp_enrolment_that_goes_on_failing_is_told_and_left_alone() {
    namespaced_async(|| async {
        let settings = Settings { failures: (u32::MAX, "CA is offline"), ..Settings::default() };
        let tpp = Tpp::with(settings).await;
        let plugin = driver(&with_tpp(&tpp, TOKEN));
        let kubelet = plugin.kubelet();
        let web = volume("web-0");
        for _ in 0..5 {
            let status = kubelet.publish(&web).await.unwrap_err();
            says(&status, &["stage 500, CA is offline", r"shop\shop.web-0-"]);
        }
        assert_eq!(tpp.calls("certificates/request").len(), 2, "the next try is in a minute");
        assert!(!kubelet.target(&web).join("tls.crt").exists());
        kubelet.unpublish(&web).await.unwrap();
        assert!(plugin.leftovers().is_empty());
    });
}

#[test]
fn tpp_request_that_somebody_rejects_is_not_put_before_them_again_at_once() {
    namespaced_async(|| async {
        let tpp = Tpp::with(Settings { stages: None, ..Settings::default() }).await;
        let plugin = driver(&with_tpp(&tpp, TOKEN));
        let kubelet = plugin.kubelet();
        let web = volume("web-0");
        kubelet.publish(&web).await.unwrap_err();
        tpp.reject("Rejected by alice: who needs this?");
        let status = until_told(&kubelet, &web, "Rejected by alice").await;
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(tpp.calls("certificates/request").len(), 1);
    });
}

#[test]
fn tpp_refusals_are_told_in_its_words() {
    namespaced_async(|| async {
        let tpp = Tpp::start().await;
        let plugin = driver(&with_tpp(&tpp, TOKEN));
        let kubelet = plugin.kubelet();
        let policy = "certificates/checkpolicy";
        let request = "certificates/request";
        let retrieve = "certificates/retrieve";
        let refused = json!({"Error": "Value <www.example.org> is not in the whitelist"});
        for (path, reply, words) in [
            // The body is empty: what there is to say is in the status line only.
            (
                policy,
                Reply::status(403).because("No right to view the folder"),
                &["does not let us in: No right to view the folder"][..],
            ),
            (request, Reply::json(400, &refused), &["is not in the whitelist", "status 400"]),
            (request, Reply::html(200), &["text/html instead of JSON"]),
            (request, Reply::html(502), &["fails with status 502"]),
            (request, Reply::html(404), &["correct tpp.url"]),
            (
                request,
                Reply::status(302).with("location", "https://login.example/?secret=1"),
                &["redirects are not followed"],
            ),
            (retrieve, Reply::json(200, &json!({"CertificateData": "%%%"})), &["is not base64"]),
            (
                retrieve,
                Reply::json(200, &json!({"CertificateData": ""})),
                &["without a certificate"],
            ),
            (
                retrieve,
                Reply::json(200, &json!({"Filename": "a"})),
                &["is not what a CA of this kind gives"],
            ),
        ] {
            tpp.tell(path, reply);
            let name = format!("web-{}", tpp.calls("").len());
            let web = volume(&name);
            let status = kubelet.publish(&web).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable);
            says(&status, words);
            assert!(!status.message().contains("secret=1") && !status.message().contains("<html>"));
            assert!(!kubelet.target(&web).join("tls.crt").exists());
            kubelet.unpublish(&web).await.unwrap();
        }
        assert!(plugin.leftovers().is_empty());
    });
}

#[test]
fn tpp_policy_is_told_before_anything_is_asked_for() {
    namespaced_async(|| async {
        let tpp = Tpp::start().await;
        let plugin = driver(&with_tpp(&tpp, TOKEN));
        let kubelet = plugin.kubelet();
        let publish = async |attribute: &str, value: &str| {
            let mut web = volume("web-0");
            web.attributes.insert(attribute.to_owned(), value.to_owned());
            let status = kubelet.publish(&web).await.unwrap_err();
            kubelet.unpublish(&web).await.unwrap();
            status
        };
        let lock = |key: &'static str, value: &'static str| {
            tpp.change(|settings| {
                settings.policy["KeyPair"][key] = json!({"Locked": true, "Value": value});
            });
        };
        lock("EllipticCurve", "P384");
        let status = publish("certmount.dev/key-size", "256").await;
        says(&status, &[r"\VED\Policy\DevOps\shop takes keys on the curve P384 only", "key-size"]);
        lock("KeyAlgorithm", "RSA");
        let status = publish("certmount.dev/key-size", "384").await;
        says(&status, &["takes RSA keys only: set key-algorithm to RSA"]);
        let status = publish("certmount.dev/key-algorithm", "Ed25519").await;
        says(&status, &["no Ed25519 keys"]);
        tpp.change(|settings| settings.policy = Settings::default().policy);
        let status = publish("certmount.dev/common-name", "").await;
        says(&status, &["set common-name"]);
        let status = publish("venafi.cert-manager.io/custom-fields", "Cost center=1").await;
        says(&status, &["custom-fields is not a list such as"]);
        tpp.change(|settings| settings.policy["SubjAltNameUriAllowed"] = false.into());
        let status = publish("certmount.dev/duration", "1h").await;
        says(&status, &["does not allow URIs in certificates: take out uri-sans"]);
        tpp.change(|settings| settings.policy["ManagementType"]["Value"] = "Monitoring".into());
        let status = publish("certmount.dev/duration", "1h").await;
        says(&status, &["has the management type Monitoring"]);
        assert_eq!(tpp.calls("certificates/request").len(), 0);

        plugin.configure("venafi.yaml", &with_tpp(&tpp, TOKEN).replace("shop", "moved"));
        let web = volume("web-9");
        let status = until_told(&kubelet, &web, "no policy folder").await;
        says(&status, &[r"no policy folder \VED\Policy\DevOps\moved"]);
    });
}

#[test]
fn tpp_answer_that_is_not_ours_is_never_used() {
    namespaced_async(|| async {
        let tpp = Tpp::with(Settings { wrong_key: true, ..Settings::default() }).await;
        let plugin = driver(&with_tpp(&tpp, TOKEN));
        let kubelet = plugin.kubelet();
        let web = volume("web-0");
        let status = kubelet.publish(&web).await.unwrap_err();
        says(&status, &["is for another key than the one asked for"]);
        assert!(!kubelet.target(&web).join("tls.crt").exists());
        tpp.change(|settings| settings.wrong_key = false);
        assert_key_is_of_leaf(&until_published(&kubelet, &web).await);

        tpp.change(|settings| settings.cut_at = Some(700));
        let web = volume("web-1");
        let status = kubelet.publish(&web).await.unwrap_err();
        says(&status, &["answered with cannot be read"]);
        let asked = tpp.calls("certificates/request").len();
        tpp.change(|settings| settings.cut_at = None);
        assert_key_is_of_leaf(&until_published(&kubelet, &web).await);
        assert_eq!(tpp.calls("certificates/request").len(), asked, "it was only picked up again");
    });
}

#[test]
fn tpp_chain_may_come_root_first() {
    namespaced_async(|| async {
        let tpp = Tpp::with(Settings { root_first: true, ..Settings::default() }).await;
        let plugin = driver(&with_tpp(&tpp, TOKEN));
        let target = plugin.kubelet().publish(&volume("web-0")).await.unwrap();
        let chain = certificates(&target.join("tls.crt"));
        assert_eq!(chain[0].subject(), "CN=web.shop.svc");
        assert_eq!(chain[1].subject(), "CN=issuing");
        assert_eq!(chain.len(), 2);
        assert_eq!(certificates(&target.join("ca.crt")), [tpp.root()]);
    });
}

#[test]
fn tpp_that_wants_to_be_left_alone_is_by_every_volume() {
    namespaced_async(|| async {
        let tpp = Tpp::start().await;
        let plugin = driver(&with_tpp(&tpp, TOKEN));
        let kubelet = plugin.kubelet();
        let busy = Reply::status(429).because("Too many").with("retry-after", "4");
        tpp.tell("certificates/checkpolicy", busy);
        let began = Instant::now();
        let status = kubelet.publish(&volume("web-0")).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        says(&status, &["asks to be left alone for a while: Too many"]);
        let asked = tpp.calls("").len();
        let status = kubelet.publish(&volume("web-1")).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(tpp.calls("").len(), asked);
        for pod in ["web-0", "web-1"] {
            until_published(&kubelet, &volume(pod)).await;
        }
        assert!(began.elapsed() >= Duration::from_secs(4));
    });
}

#[test]
fn tpp_that_is_down_is_named_and_comes_back() {
    namespaced_async(|| async {
        let tpp = Tpp::start().await;
        let config = with_tpp(&tpp, TOKEN);
        let plugin = driver(&config.replace(&tpp.server.url(), "https://127.0.0.1:1"));
        let kubelet = plugin.kubelet();
        let status = kubelet.publish(&volume("web-0")).await.unwrap_err();
        says(&status, &["https://127.0.0.1:1 cannot be reached"]);
        plugin.configure("venafi.yaml", &config);
        until_published(&kubelet, &volume("web-0")).await;

        // Another CA than the server's.
        let other = Tpp::start().await;
        let ours = tpp.server.ca_bundle();
        plugin.configure("venafi.yaml", &config.replace(&ours, &other.server.ca_bundle()));
        let status = until_told(&kubelet, &volume("web-1"), "is not trusted").await;
        says(&status, &["caBundle"]);
    });
}

#[test]
fn tpp_of_a_tenant_is_not_the_node_itself() {
    namespaced_async(|| async {
        let tpp = Tpp::start().await;
        let config = with_tpp(&tpp, TOKEN)
            .replace("ClusterIssuer", "Issuer")
            .replace("name: venafi", "name: venafi\n  namespace: shop")
            .replace("name: tpp\n", "name: tpp\n  namespace: shop\n");
        let plugin = driver(&config);
        let mut web = volume("web-0");
        web.attributes.insert("certmount.dev/issuer-kind".to_owned(), "Issuer".to_owned());
        let status = plugin.kubelet().publish(&web).await.unwrap_err();
        says(&status, &["may not be asked", "127.0.0.1"]);
        assert!(tpp.calls("").is_empty());
    });
}

// The cloud.

#[test]
fn cloud_signs_by_application_and_template() {
    namespaced_async(|| async {
        let cloud = Cloud::start().await;
        let plugin = driver(&with_cloud(&cloud));
        let target = plugin.kubelet().publish(&volume("web-0")).await.unwrap();
        let chain = certificates(&target.join("tls.crt"));
        assert_eq!(chain[0].subject(), "CN=web.shop.svc");
        assert_eq!(chain.len(), 2);
        assert_eq!(certificates(&target.join("ca.crt")), [cloud.root()]);
        assert_key_is_of_leaf(&target);
        let request = &cloud.calls("POST")[0].body;
        assert_eq!(request["validityPeriod"], "PT2H0M0S");
        assert_eq!(
            request["apiClientInformation"],
            json!({"type": "certmount", "identifier": "shop/web-0"})
        );
        assert!(!plugin.log().contains("key-0"), "{}", plugin.log());
    });
}

#[test]
fn cloud_request_is_picked_up_after_a_restart() {
    namespaced_async(|| async {
        let cloud = Cloud::start().await;
        cloud.change(|settings| settings.status = "PENDING");
        let mut plugin = driver(&with_cloud(&cloud));
        let kubelet = plugin.kubelet();
        let web = volume("web-0");
        let status = kubelet.publish(&web).await.unwrap_err();
        assert_eq!(status.code(), Code::Aborted);
        says(&status, &["the request request-1 is PENDING", "approved"]);
        plugin.kill();
        cloud.set_status("ISSUED");
        cloud.tell("contents", Reply::json(409, &json!({"errors": []})));
        plugin.restart();
        assert_key_is_of_leaf(&until_published(&kubelet, &web).await);
        assert_eq!(cloud.calls("POST").len(), 1);
    });
}

#[test]
fn cloud_refusals_are_told_in_its_words() {
    namespaced_async(|| async {
        let cloud = Cloud::start().await;
        let plugin = driver(&with_cloud(&cloud));
        let kubelet = plugin.kubelet();
        let refuse = async |pod: &str| {
            let web = volume(pod);
            let status = kubelet.publish(&web).await.unwrap_err();
            assert!(!kubelet.target(&web).join("tls.crt").exists());
            kubelet.unpublish(&web).await.unwrap();
            status
        };
        cloud.change(|settings| settings.status = "FAILED");
        says(&refuse("web-0").await, &["request-1", "FAILED, The CA said no quota"]);
        assert_eq!(cloud.calls("POST").len(), 1, "a failed request is not made again at once");
        cloud.change(|settings| settings.status = "ISSUED");

        cloud.change(|settings| {
            settings.key_types = json!([{"keyType": "RSA", "keyLengths": [2048, 4096]}]);
        });
        says(
            &refuse("web-1").await,
            &[r"My shop\Short lived takes no such keys, but RSA 2048, 4096"],
        );
        cloud.change(|settings| {
            settings.key_types = json!([{"keyType": "EC", "keyCurves": ["P256"]}])
        });

        let message =
            json!({"errors": [{"code": 1, "message": "SAN does not match", "args": ["web"]}]});
        cloud.tell("certificaterequests", Reply::json(400, &message));
        says(&refuse("web-2").await, &["refused with status 400: SAN does not match"]);
        cloud.tell("applications/name", Reply::html(503));
        says(&refuse("web-3").await, &["fails with status 503"]);
        cloud.change(|settings| settings.cut_at = Some(700));
        says(&refuse("web-4").await, &["cannot be read"]);
        cloud.change(|settings| settings.cut_at = None);

        for (right, wrong, words) in [
            (
                "key-0",
                "key-1",
                &["Unable to find an API key", "put another one into the Secret"][..],
            ),
            (r"My shop\", r"Our shop\", &["there is no application Our shop"]),
            (r"\Short", r"\Long", &["has no issuing template Long lived"]),
        ] {
            plugin.configure("venafi.yaml", &with_cloud(&cloud).replace(right, wrong));
            let web = volume(&format!("web-{}", wrong.len()));
            let status = until_told(&kubelet, &web, words[0]).await;
            says(&status, words);
        }
    });
}

fn driver(config: &str) -> Plugin {
    Plugin::with_config(&[("venafi.yaml", config)])
}

/// A ClusterIssuer, and the Secret that it reads.
fn with_tpp(tpp: &Tpp, credentials: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Secret
metadata:
  name: tpp
stringData: {credentials}
---
apiVersion: certmount.dev/v1alpha1
kind: ClusterIssuer
metadata:
  name: venafi
spec:
  venafi:
    zone: DevOps\\shop
    tpp:
      url: {}/vedsdk
      credentialsRef: {{name: tpp}}
      caBundle: {}
",
        tpp.server.url(),
        tpp.server.ca_bundle()
    )
}

/// The same of the cloud.
fn with_cloud(cloud: &Cloud) -> String {
    format!(
        "
apiVersion: v1
kind: Secret
metadata:
  name: cloud
stringData: {{api-key: key-0}}
---
apiVersion: certmount.dev/v1alpha1
kind: ClusterIssuer
metadata:
  name: venafi
spec:
  venafi:
    zone: My shop\\Short lived
    cloud:
      url: {}
      apiTokenSecretRef: {{name: cloud}}
      caBundle: {}
",
        cloud.server.url(),
        cloud.server.ca_bundle()
    )
}

fn volume(pod: &str) -> InlineVolume {
    InlineVolume::new(
        "shop",
        pod,
        &[
            ("certmount.dev/issuer-name", "venafi"),
            ("certmount.dev/issuer-kind", "ClusterIssuer"),
            ("certmount.dev/common-name", "web.shop.svc"),
            ("certmount.dev/dns-names", "web.shop.svc"),
            ("certmount.dev/uri-sans", "spiffe://cluster.local/ns/shop/sa/default"),
            ("certmount.dev/duration", "2h"),
            ("certmount.dev/key-algorithm", "ECDSA"),
        ],
    )
}

/// Publishes as kubelet does: again and again.
async fn until_published(kubelet: &Kubelet, volume: &InlineVolume) -> PathBuf {
    let mut last = None;
    for _ in 0..400 {
        match kubelet.publish(volume).await {
            Ok(target) => return target,
            Err(status) => last = Some(status),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never published: {last:?}");
}

/// Publishes again and again, until the answer says so.
async fn until_told(kubelet: &Kubelet, volume: &InlineVolume, words: &str) -> Status {
    let mut last = None;
    for _ in 0..400 {
        match kubelet.publish(volume).await {
            Err(status) if status.message().contains(words) => return status,
            Err(status) => last = Some(status),
            Ok(_) => kubelet.unpublish(volume).await.unwrap(),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never told {words}: {last:?}");
}

fn says(status: &Status, words: &[&str]) {
    for words in words {
        assert!(status.message().contains(words), "{:?} does not say {words:?}", status.message());
    }
}

fn certificates(file: &Path) -> Vec<Certificate> {
    certificates_from_pem(&fs::read(file).unwrap()).unwrap()
}

fn leaf(target: &Path) -> Certificate {
    certificates(&target.join("tls.crt")).remove(0)
}

fn assert_key_is_of_leaf(target: &Path) {
    let key = fs::read(target.join("tls.key")).unwrap();
    let key = certmount::x509::PrivateKey::from_pem(&key).unwrap();
    assert_eq!(key.public_key_info(), leaf(target).public_key_info());
}
