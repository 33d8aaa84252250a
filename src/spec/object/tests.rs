use proptest::prelude::*;

use super::*;

fn objects(text: &str) -> Vec<Object> {
    parse(text).into_iter().map(|document| document.unwrap().object).collect()
}

fn issuer(text: &str) -> IssuerObject {
    match objects(text).pop() {
        Some(Object::Issuer(issuer)) => *issuer,
        other => panic!("{other:?}"),
    }
}

fn secret(text: &str) -> SecretObject {
    match objects(text).pop() {
        Some(Object::Secret(secret)) => secret,
        other => panic!("{other:?}"),
    }
}

fn cluster_issuer(spec: &str) -> String {
    format!(
        "apiVersion: certmount.dev/v1alpha1\nkind: ClusterIssuer\nmetadata: {{name: ca}}\nspec: {spec}\n"
    )
}

fn error(text: &str) -> DocumentError {
    parse(text).into_iter().find_map(Result::err).expect("an error")
}

#[test]
fn reads_an_issuer_pasted_from_cert_manager() {
    let issuer = issuer(
        "apiVersion: certmount.dev/v1alpha1\n\
         kind: ClusterIssuer\n\
         metadata:\n  \
           name: ca\n  \
           labels: {team: platform}\n  \
           annotations: {note: kept}\n\
         spec:\n  \
           ca:\n    \
             secretName: root\n    \
             crlDistributionPoints: [http://crl.example/ca.crl]\n    \
             ocspServers: [http://ocsp.example]\n    \
             issuingCertificateURLs: [http://ca.example/ca.crt]\n\
         status:\n  \
           conditions: [{type: Ready, status: 'True'}]\n",
    );
    assert_eq!(issuer.to_string(), "ClusterIssuer ca");
    assert_eq!(
        issuer.spec.method,
        IssuerMethod::Ca(CaSpec {
            source: CaSource::Secret("root".to_owned()),
            crl_distribution_points: vec!["http://crl.example/ca.crl".to_owned()],
            ocsp_servers: vec!["http://ocsp.example".to_owned()],
            issuing_certificate_urls: vec!["http://ca.example/ca.crt".to_owned()],
            max_duration: None,
            backdate: Duration::from_secs(300),
            path_len: None,
        })
    );
    assert_eq!(issuer.spec.policy, NamePolicy::default());
}

#[test]
fn reads_our_own_fields() {
    let issuer = issuer(&cluster_issuer(
        "{ca: {files: {certFile: /ca/tls.crt, keyFile: ca.key}, maxDuration: 720h, backdate: 0s}, \
          policy: [{dnsNames: ['*.example.com']}]}",
    ));
    let IssuerMethod::Ca(ca) = issuer.spec.method else { panic!("{issuer:?}") };
    assert_eq!(
        ca.source,
        CaSource::Files(CaFiles {
            cert_file: "/ca/tls.crt".into(),
            key_file: "ca.key".into(),
            ca_file: None,
        })
    );
    assert_eq!(ca.max_duration, Some(Duration::from_secs(720 * 3600)));
    assert_eq!(ca.backdate, Duration::ZERO);
    assert_ne!(issuer.spec.policy, NamePolicy::default());
}

#[test]
fn reads_several_documents_and_passes_over_empty_ones() {
    let text = format!(
        "# a comment\n---\n{}---\n\n# nothing\n--- \n{}...\n---\r\napiVersion: v1\r\nkind: Secret\r\nmetadata: {{name: s}}\r\n",
        cluster_issuer("{selfSigned: {}}"),
        cluster_issuer("{selfSigned: {crlDistributionPoints: [http://x]}}"),
    );
    let read = parse(&text);
    let lines: Vec<u64> = read.iter().map(|document| document.as_ref().unwrap().line).collect();
    assert_eq!(lines, [3, 11, 17]);
    assert!(parse("").is_empty() && parse("---\n---\n# x\n").is_empty());
}

#[test]
fn reads_json() {
    let issuer = issuer(
        "{\n\t\"apiVersion\": \"certmount.dev/v1alpha1\",\n\t\"kind\": \"Issuer\",\n\t\
          \"metadata\": {\"name\": \"own\", \"namespace\": \"web\"},\n\t\
          \"spec\": {\"selfSigned\": {}}\n}\n",
    );
    assert_eq!(issuer.to_string(), "Issuer web/own");
}

#[test]
fn reads_secrets_as_kubernetes_does() {
    let secret = secret(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nimmutable: true\n\
         metadata: {name: root, namespace: certmount}\n\
         data:\n  \
           tls.crt: Y2VydA==\n  \
           folded: |\n    Y2\n    VydA==\n  \
           both: b2xk\n\
         stringData:\n  \
           both: new\n",
    );
    assert_eq!(secret.to_string(), "Secret certmount/root");
    assert_eq!(secret.get("tls.crt"), Some(&b"cert"[..]));
    assert_eq!(secret.get("folded"), Some(&b"cert"[..]));
    assert_eq!(secret.get("both"), Some(&b"new"[..]));
    assert_eq!(secret.get("none"), None);
}

#[test]
fn reads_config_maps() {
    let text = "apiVersion: v1\nkind: ConfigMap\nimmutable: true\n\
                metadata: {name: roots, namespace: shop}\n\
                data: {ca.crt: some PEM}\nbinaryData: {ca.jks: AA==}\n";
    let read = parse(text).remove(0).unwrap().object;
    assert_eq!(read.to_string(), "ConfigMap shop/roots");
    let Object::ConfigMap(config_map) = read else { panic!("{read:?}") };
    assert_eq!(config_map.data, [("ca.crt".to_owned(), "some PEM".to_owned())].into());
}

#[test]
fn errors_say_where_and_what_to_do() {
    for (text, place, said) in [
        (
            cluster_issuer("{ca: {secretNmae: x}}"),
            (4, 13),
            "spec.ca.secretNmae: unknown field \"secretNmae\", did you mean secretName?",
        ),
        (cluster_issuer("{selfsigned: {}}"), (4, 8), "did you mean selfSigned?"),
        (cluster_issuer("{frobnicate: {}}"), (4, 8), "known are acme, ca,"),
        (cluster_issuer("{ca: {}}"), (4, 12), "write secretName, or files"),
        (
            cluster_issuer("{ca: {secretName: x, files: {certFile: a, keyFile: b}}}"),
            (4, 12),
            "take one out",
        ),
        (cluster_issuer("{ca: {secretName: ../x}}"), (4, 12), "not the name of a Secret"),
        (cluster_issuer("{}"), (4, 7), "does not say how to sign"),
        (cluster_issuer("{selfSigned: {}, ca: {secretName: x}}"), (4, 7), "both ca and selfSigned"),
        (
            cluster_issuer("{ca: {secretName: x, maxDuration: 90d}}"),
            (4, 41),
            "spec.ca.maxDuration: \"90d\" is not a duration",
        ),
        (cluster_issuer("{ca: {secretName: x, backdate: -1m}}"), (4, 38), "more than zero"),
        (
            cluster_issuer("{selfSigned: {}, policy: [{dnsNames: [a, 'b..c']}]}"),
            (4, 48),
            "spec.policy[0].dnsNames[1]: DNS pattern",
        ),
        (
            cluster_issuer("{selfSigned: {}, policy: [{isCA: yes}]}"),
            (4, 40),
            "spec.policy[0].isCA: this must be a boolean",
        ),
        (cluster_issuer("{ca: {secretName: x, ocspServers: [ocsp]}}"), (4, 41), "not absolute"),
        (cluster_issuer("{ca: {secretName: 12}}"), (4, 25), "put it in quotes"),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {pin: 0123}\n"
                .to_owned(),
            (4, 19),
            "stringData.pin: this must be text: put it in quotes",
        ),
        (cluster_issuer("[]"), (4, 7), "spec: this must be a mapping"),
        (
            "apiVersion: cert-manager.io/v1\nkind: ClusterIssuer\n".to_owned(),
            (1, 1),
            "write certmount.dev/v1alpha1",
        ),
        (
            "apiVersion: certmount.dev/v1\nkind: Issuer\n".to_owned(),
            (1, 1),
            "write certmount.dev/v1alpha1",
        ),
        (
            "\n# x\n---\napiVersion: v1\nkind: Service\n".to_owned(),
            (4, 1),
            "no object that is read here",
        ),
        ("just text\n".to_owned(), (1, 1), "this must be a mapping"),
        ("apiVersion: v1\nkind: Secret\n".to_owned(), (1, 1), "write metadata.name"),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: A_b}\n".to_owned(),
            (1, 1),
            "lower-case letters",
        ),
        ("a: b\n---\n\napiVersion: v1\nkind: [\n".to_owned(), (5, 7), ""),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringdata: {}\n".to_owned(),
            (4, 1),
            "did you mean stringData?",
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nkind: Secret\n".to_owned(),
            (4, 1),
            "duplicate",
        ),
        ("x".repeat(LARGEST_TEXT + 1), (1, 1), "split it"),
    ] {
        let errors: Vec<DocumentError> = parse(&text).into_iter().filter_map(Result::err).collect();
        let found = errors.iter().any(|e| (e.line, e.column) == place && e.message.contains(said));
        assert!(found, "{:.200}\nwanted {place:?} {said}\ngot {errors:?}", text);
    }
}

#[test]
fn errors_name_the_object() {
    let text = "apiVersion: certmount.dev/v1alpha1\nkind: Issuer\nmetadata: {name: own, namespace: web}\nspec: {x: 1}\n";
    assert_eq!(error(text).object.as_deref(), Some("Issuer web/own"));
}

#[test]
fn kind_and_namespace_must_fit() {
    let with = |kind: &str, metadata: &str, spec: &str| {
        error(&format!(
            "apiVersion: certmount.dev/v1alpha1\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n"
        ))
        .message
    };
    let own = "{selfSigned: {}}";
    assert!(with("ClusterIssuer", "{name: a, namespace: b}", own).contains("kind: Issuer"));
    assert!(with("Issuer", "{name: a}", own).contains("metadata.namespace"));
    assert!(with("Issuer", "{name: a, namespace: b.c}", own).contains("not the name"));
    let files = "{ca: {files: {certFile: /etc/shadow, keyFile: /etc/shadow}}}";
    assert!(with("Issuer", "{name: a, namespace: b}", files).contains("ClusterIssuer only"));
}

#[test]
fn methods_of_other_builds_are_known() {
    for (method, body) in
        [("certManager", "{issuerRef: {name: a}}"), ("kubernetesCSR", "{signerName: a}")]
    {
        let issuer = issuer(&cluster_issuer(&format!("{{{method}: {body}}}")));
        assert_eq!(issuer.spec.method, IssuerMethod::Unsupported(method));
    }
}

#[test]
fn values_of_secrets_are_never_shown() {
    const VALUE: &str = "hunter2hunter2";
    let head = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
    for rest in [
        format!("data: {{a: '{VALUE}!'}}"),
        format!("data: {VALUE}"),
        format!("data: [{VALUE}]"),
        format!("data: {{a: [{VALUE}]}}"),
        format!("data: {{a: {{{VALUE}: x}}}}"),
        format!("stringData: {VALUE}"),
        format!("stringData: {{a: '{VALUE}"),
        format!("stringData: {{a: \"{VALUE}\\x\"}}"),
        format!("stringData:\n  a: |\n    {VALUE}\n   {VALUE}"),
        format!("stringData: {{a: *{VALUE}}}"),
        format!("stringData: {{a: !!int {VALUE}}}"),
        format!("stringData: {{a: !!binary {VALUE}_}}"),
        format!("stringData: {{a: &x {VALUE}, b: {{<<: *x}}}}"),
        format!("stringData: {{a: {VALUE}, a: {VALUE}}}"),
        format!("type: {VALUE}\nstringData: {{a: {VALUE}"),
        format!("immutable: {VALUE}\ndata: 1"),
    ] {
        for error in parse(&format!("{head}{rest}\n")).into_iter().filter_map(Result::err) {
            assert!(!format!("{error:?}{error}").contains("hunter"), "{rest}: {error:?}");
        }
    }
    let read = secret(&format!("{head}stringData: {{password: {VALUE}}}\n"));
    let shown = format!("{read:?} {:?}", Object::Secret(read.clone()));
    assert!(shown.contains("password") && !shown.contains("hunter"), "{shown}");
}

#[test]
fn bombs_are_refused_in_no_time() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..30 {
        let one = format!("*a{}", n - 1);
        laughs += &format!("a{n}: &a{n} [{}]\n", [one.as_str(); 9].join(", "));
    }
    let deep = format!("spec: {}1{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let blocks: String = (0..1_000).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    let documents = "---\n".repeat(200_000);
    let keys = "? ".repeat(400_000);
    let head = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
    let began = std::time::Instant::now();
    for bomb in [laughs, deep, blocks, keys] {
        assert!(parse(&bomb).iter().any(Result::is_err));
        assert!(parse(&format!("{head}{bomb}")).iter().any(Result::is_err));
    }
    assert!(parse(&documents).is_empty());
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

#[test]
fn hostile_names_are_shown_without_their_power() {
    for text in [
        "\"\\u001b[2J\\u202e\\n\": 1\n".to_owned(),
        "apiVersion: v1\nkind: \"\\u001b\\u202e\\n\"\n".to_owned(),
        "apiVersion: v1\nkind: Secret\nmetadata: {name: \"\\u001b\\u202e\\n\"}\n".to_owned(),
        cluster_issuer("{\"\\u001b\\u202e\\n\": 1}"),
        cluster_issuer("{selfSigned: {}, policy: [{subject: {\"\\u001b\\u202e\\n\": [a]}}]}"),
        "\u{1b}\u{202e}".to_owned(),
    ] {
        let error = error(&text);
        let shown = format!("{error} {:?}", error.object);
        assert!(!shown.contains(['\u{1b}', '\u{202e}', '\n']), "{error:?}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>(), odd in "[-:{}\\[\\]&*!|>'\"%@`#?, \n\ta-z0-9~<=.]{0,64}") {
        let head = "apiVersion: certmount.dev/v1alpha1\nkind: ClusterIssuer\nmetadata: {name: a}\nspec:\n  ";
        for text in [&text, &odd] {
            let _ = parse(text);
            let _ = parse(&format!("{head}{text}"));
            let _ = parse(&cluster_issuer(&format!("{{ca: {{secretName: a}}, policy: [{text}]}}")));
        }
    }
}
