//! The shape of the code, held against the source: imports go down, what only one part may touch
//! is named by that part only, and every file belongs to the crate.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The parts, lowest first. One part may import those on lines above its own, and no others.
const LAYERS: [&[&str]; 8] = [
    &["clock", "error", "sync", "trace"],
    &["kubernetes"],
    &["x509"],
    &["spec"],
    &["anchors", "issuer", "volume"],
    &["renew"],
    &["config", "csi", "observe"],
    &["cli"],
];

/// Names that only these files and folders below `src/` may say.
const TOUCHED_BY: [(&str, &[&str]); 12] = [
    ("clap", &["cli/"]),
    ("hickory_proto", &["issuer/dns/"]),
    ("k8s_openapi", KUBERNETES),
    ("kube", KUBERNETES),
    ("nix::mount", &["volume/", "cli/namespace.rs"]),
    ("prometheus_client", &["observe/"]),
    ("prost", &["csi/"]),
    ("reqwest", &["issuer/web"]),
    ("schemars", &["config/kubernetes/", "spec/"]),
    ("tonic", &["csi/"]),
    ("x509_cert", &["x509/"]),
    ("x509_parser", &["x509/"]),
];

const KUBERNETES: &[&str] = &[
    "anchors/kubernetes",
    "config/kubernetes/",
    "issuer/dns/webhook",
    "issuer/kubernetes/",
    "kubernetes/",
    "observe/events",
];

#[test]
fn imports_go_down() {
    let problems: Vec<_> = sources().iter().flat_map(|(file, code)| upward(file, code)).collect();
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn one_part_touches_each_library() {
    let problems: Vec<_> = sources().iter().flat_map(|(file, code)| foreign(file, code)).collect();
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn every_file_belongs_to_the_crate() {
    let sources = sources();
    let orphans: Vec<_> = sources.keys().filter(|file| !has_parent(file, &sources)).collect();
    assert!(orphans.is_empty(), "no `mod` names {orphans:?}");
}

#[test]
fn every_part_has_a_layer() {
    for file in sources().keys() {
        let part = part(file);
        let known = ["lib", "main"].contains(&part) || layer(part).is_some();
        assert!(known, "{file}: give `{part}` a line in LAYERS");
    }
}

/// The checks above pass on good code; these pass on bad code only if the checks see it.
#[test]
fn what_is_forbidden_is_seen() {
    let up = |file: &str, code: &str| !upward(file, &without_comments(code)).is_empty();
    assert!(up("spec/mod.rs", "use crate::renew::Renewer;"));
    assert!(up("issuer/ca.rs", "let volume = crate::volume::Volumes;"), "siblings");
    assert!(up("volume/mod.rs", "use crate::{\n    spec::{layout, request},\n    csi,\n};"));
    assert!(up("volume/mod.rs", "use super::renew::Renewer;"));
    assert!(up("volume/a/b.rs", "use super::super::super::renew::Renewer;"));
    assert!(!up("renew/mod.rs", "use crate::{clock, spec::{a, csi}};"));
    assert!(!up("renew/mod.rs", "// crate::cli\n/// [`crate::cli`]\n use crate::renew::Other;"));

    assert!(!foreign("issuer/ca.rs", "use x509_cert::Certificate;").is_empty());
    assert!(!foreign("cli/node.rs", "nix::mount::mount()").is_empty());
    assert!(foreign("x509/sign.rs", "use x509_cert::Certificate;").is_empty());
    assert!(foreign("csi/mod.rs", "let not_x509_cert_but_mine::a = 1;").is_empty());

    let sources: BTreeMap<String, String> =
        [("lib.rs", "pub mod a;"), ("a/mod.rs", "mod b;"), ("a/b.rs", ""), ("a/c.rs", "")]
            .map(|(file, code)| (file.to_owned(), code.to_owned()))
            .into();
    assert!(has_parent("a/b.rs", &sources));
    assert!(!has_parent("a/c.rs", &sources));
}

/// Every file below `src/` by its path there, without comments.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src/ is readable") {
            let path = entry.expect("src/ is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let code = fs::read_to_string(&path).expect("source is text");
                let file = path.strip_prefix(&root).expect("it was found below src/");
                sources.insert(file.display().to_string(), without_comments(&code));
            }
        }
    }
    assert!(sources.len() > 20, "src/ was not found");
    sources
}

fn without_comments(code: &str) -> String {
    let lines = code.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    lines.collect::<Vec<_>>().join("\n")
}

/// The top-level module that `file` is in.
fn part(file: &str) -> &str {
    file.split('/').next().expect("split gives one part at least").trim_end_matches(".rs")
}

fn layer(part: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&part))
}

/// Imports of `file` from its own layer or a higher one.
fn upward(file: &str, code: &str) -> Vec<String> {
    let own = part(file);
    let Some(own_layer) = layer(own) else { return Vec::new() };
    let imported = crate_paths(code).into_iter().chain(super_paths(file, code));
    imported
        .filter(|name| name != own && layer(name).is_some_and(|other| other >= own_layer))
        .map(|name| format!("{file} must not import crate::{name}"))
        .collect()
}

/// What follows each `crate::`, also in a group.
fn crate_paths(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (_, rest) in after(code, "crate::") {
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_names(group)),
            None => names.push(identifier(rest)),
        }
    }
    names
}

/// The first names of the paths in a `{…}` group whose opening brace is left out.
fn group_names(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(identifier(group[start..at].trim_start()));
                start = at + 1;
                if char == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

/// What follows as many `super::` as lead to the root of the crate.
fn super_paths(file: &str, code: &str) -> Vec<String> {
    let module = file.trim_end_matches(".rs").trim_end_matches("/mod");
    let to_root = "super::".repeat(module.split('/').count());
    after(code, &to_root).map(|(_, rest)| identifier(rest)).collect()
}

/// Libraries that `file` names and may not.
fn foreign(file: &str, code: &str) -> Vec<String> {
    let not_here = TOUCHED_BY
        .iter()
        .filter(|(_, allowed)| !allowed.iter().any(|allowed| file.starts_with(allowed)));
    let named = not_here.filter(|(name, _)| {
        after(code, name).any(|(before, rest)| {
            let starts = !before.ends_with(|char: char| char.is_alphanumeric() || char == '_');
            starts && (rest.starts_with("::") || rest.starts_with(';'))
        })
    });
    named.map(|(name, _)| format!("{file} must not name {name}")).collect()
}

/// What stands before and after each `needle`.
fn after<'a>(code: &'a str, needle: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    code.match_indices(needle).map(|(at, _)| (&code[..at], &code[at + needle.len()..]))
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect()
}

/// Whether a `mod` in the file that should says that `file` is there.
fn has_parent(file: &str, sources: &BTreeMap<String, String>) -> bool {
    let path = Path::new(file);
    if ["lib.rs", "main.rs"].contains(&file) {
        return true;
    }
    let is_mod = path.file_name().is_some_and(|name| name == "mod.rs");
    let module = if is_mod { path.parent().expect("mod.rs is in a folder") } else { path };
    let name = module.file_stem().expect("a module has a name").to_string_lossy();
    let folder = module.parent().expect("it is below src/");
    let parents: [PathBuf; 2] = if folder == Path::new("") {
        ["lib.rs".into(), "main.rs".into()]
    } else {
        [folder.join("mod.rs"), folder.with_extension("rs")]
    };
    let declaration = format!("mod {name};");
    parents.iter().filter_map(|parent| sources.get(&parent.display().to_string())).any(|code| {
        after(code, &declaration).any(|(before, _)| !before.ends_with(char::is_alphanumeric))
    })
}
