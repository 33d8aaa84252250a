//! The CustomResourceDefinitions of our objects, made from the types that read them.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::spec::object::{API_VERSION, GROUP, IssuerKind, IssuerSpec};

/// The definitions, one for each kind, as `kubectl apply` takes them.
///
/// What they refuse: fields that there are not, where the client asks for it as kubectl does;
/// values that are no durations, names or addresses at all; a spec that does not say how to sign,
/// or in two ways. Whether a CA's parts fit together is not theirs to see.
pub fn crds() -> [Value; 2] {
    [crd(IssuerKind::ClusterIssuer), crd(IssuerKind::Issuer)]
}

/// [`crds`] as one YAML text.
pub fn crds_yaml() -> String {
    crds().iter().map(yaml).collect::<Vec<_>>().join("---\n")
}

/// One definition as YAML.
fn yaml(definition: &Value) -> String {
    serde_saphyr::to_string(definition).expect("JSON values are YAML values")
}

fn crd(kind: IssuerKind) -> Value {
    let (scope, whom) = match kind {
        IssuerKind::ClusterIssuer => ("Cluster", "in every namespace"),
        IssuerKind::Issuer => ("Namespaced", "in its own namespace"),
    };
    let version = API_VERSION.split_once('/').map_or("", |(_, version)| version);
    let singular = kind.to_string().to_lowercase();
    let plural = format!("{singular}s");
    let column = |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}")},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.to_string(),
                "listKind": format!("{kind}List"),
                "plural": plural,
                "singular": singular,
                "categories": ["certmount"],
            },
            "scope": scope,
            "versions": [{
                "name": version,
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": format!("Signs certificates for the pods of certmount {whom}."),
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": spec(kind),
                    },
                }},
                "additionalPrinterColumns": [
                    column("CA Secret", ".spec.ca.secretName"),
                    column("CA File", ".spec.ca.files.certFile"),
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
            }],
        },
    })
}

/// The schema of `spec`: that of the type, in the form that Kubernetes calls structural, with what
/// only a look at several fields can tell.
fn spec(kind: IssuerKind) -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let schema = settings.into_generator().into_root_schema_for::<IssuerSpec>();
    let mut schema = schema.to_value();
    make_structural(&mut schema);

    let properties = schema["properties"].as_object().expect("a spec has fields");
    let methods: Vec<&str> =
        properties.keys().map(String::as_str).filter(|field| *field != "policy").collect();
    let given: Vec<String> = methods.iter().map(|method| format!("has(self.{method})")).collect();
    let mut rules = vec![json!({
        "rule": format!("[{}].filter(given, given).size() == 1", given.join(", ")),
        "message": format!("say how to sign, in one way: {}", methods.join(" or ")),
    })];
    if kind == IssuerKind::Issuer {
        rules.push(json!({
            "rule": "!has(self.ca) || !has(self.ca.files)",
            "message": "ca.files is for a ClusterIssuer only: use ca.secretName",
        }));
    }
    schema["x-kubernetes-validations"] = rules.into();
    schema
}

/// Takes out what JSON Schema has and Kubernetes does not take, which prunes unknown fields by
/// itself, and defaults: an object shall say what its author wrote.
fn make_structural(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if !is_properties(object) {
                for keyword in ["$schema", "default", "nullable", "title"] {
                    object.remove(keyword);
                }
                if object.get("additionalProperties") == Some(&Value::Bool(false)) {
                    object.remove("additionalProperties");
                }
                if let Some(Value::String(description)) = object.get_mut("description") {
                    // Wrapped as the source is.
                    *description = description.replace('\n', " ");
                }
            }
            object.values_mut().for_each(make_structural);
        }
        Value::Array(items) => items.iter_mut().for_each(make_structural),
        _ => {}
    }
}

/// Whether these are the names of fields and not keywords.
fn is_properties(object: &Map<String, Value>) -> bool {
    object.values().all(|value| value.get("type").is_some())
}
