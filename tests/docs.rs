//! README.md, `docs/` and the manifests in `examples/` say what is true: their YAML is right, their
//! commands are accepted, and their links lead somewhere.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests write files before anyone reads them, and fail by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use certmount::cli;
use clap::error::ErrorKind;

#[test]
fn yaml_passes_the_check() {
    let mut checked = 0;
    for page in pages() {
        for block in page.blocks("yaml") {
            let outcome = check(&block.text);
            assert!(outcome.is_ok(), "{}: {}", block.place, outcome.unwrap_err());
            checked += 1;
        }
    }
    assert!(checked > 3, "found {checked} blocks only");
}

/// What a pod mounts and runs is what `tests/examples.rs` tests, and no two Services want the same
/// port.
#[test]
fn manifests_of_examples_run_what_is_there() {
    let mut ports = Vec::new();
    for folder in examples() {
        let manifest = fs::read_to_string(folder.join("pod.yaml")).unwrap();
        let port = manifest.lines().find_map(|line| line.trim().strip_prefix("nodePort: "));
        ports.push(port.unwrap().to_owned());
        for entry in fs::read_dir(&folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let source = !name.ends_with(".yaml") && !name.ends_with(".rs");
            if source {
                let kustomization = fs::read_to_string(folder.join("kustomization.yaml")).unwrap();
                assert!(manifest.contains(&format!("/app/{name}")), "{}", folder.display());
                assert!(kustomization.contains(&format!("files: [{name}]")), "{name}");
            }
        }
    }
    let all = ports.len();
    ports.sort();
    ports.dedup();
    assert_eq!(ports.len(), all, "{ports:?}");
}

/// The folders of the apps.
fn examples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    assert_eq!(folders.len(), 7, "{folders:?}");
    folders
}

#[test]
fn commands_are_accepted() {
    let mut accepted = 0;
    for page in pages() {
        for block in page.blocks("sh").chain(page.blocks("console")) {
            for words in commands(&block.text) {
                accept(&words).unwrap_or_else(|error| panic!("{}: {error}", block.place));
                accepted += 1;
            }
        }
    }
    assert!(accepted > 5, "found {accepted} commands only");
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    for page in &pages {
        for link in page.links() {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.path.clone(),
                file => page.path.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link} is not there", page.path.display());
            if !anchor.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let found = Page { path: target, text }.anchors().any(|known| known == anchor);
                assert!(found, "{}: {link} has no such heading", page.path.display());
            }
        }
    }
}

/// The checks above pass on good pages; these show that they see a bad one.
#[test]
fn wrong_pages_are_noticed() {
    let misspelt = "\
        volumes:\n- name: tls\n  csi:\n    driver: csi.certmount.dev\n    readOnly: true\n\
        \x20   volumeAttributes:\n      certmount.dev/issuer-nam: internal\n";
    assert!(check(misspelt).unwrap_err().contains("issuer-name"), "{:?}", check(misspelt));
    let commands: Vec<_> = commands("$ certmount demo --twice | cat\n$ ls\n").collect();
    assert_eq!(commands, [["certmount", "demo", "--twice"]]);
    assert!(accept(&commands[0]).is_err());
}

struct Page {
    path: PathBuf,
    text: String,
}

struct Block {
    text: String,
    /// File and line.
    place: String,
}

fn pages() -> Vec<Page> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).into_iter().flatten().flatten();
    let mut paths: Vec<_> = docs.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    let others = ["CONTRIBUTING.md", "README.md", "SECURITY.md", "examples/README.md"];
    paths.extend(others.map(|name| root.join(name)));
    let read = |path: PathBuf| Page { text: fs::read_to_string(&path).unwrap(), path };
    paths.into_iter().map(read).collect()
}

impl Page {
    /// The fenced blocks of a language.
    fn blocks(&self, language: &str) -> impl Iterator<Item = Block> {
        let mut blocks = Vec::new();
        let mut lines = (1..).zip(self.text.lines());
        while let Some((number, line)) = lines.next() {
            let Some(of) = line.strip_prefix("```") else { continue };
            let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
            let text: String = inside.flat_map(|line| [line, "\n"]).collect();
            if of.trim() == language {
                blocks.push(Block { text, place: format!("{}:{number}", self.path.display()) });
            }
        }
        blocks.into_iter()
    }

    /// The targets of links to files and headings of this repository.
    fn links(&self) -> impl Iterator<Item = &str> {
        let after = self.text.split("](").skip(1);
        after.filter_map(|rest| rest.split(')').next()).filter(|link| !link.contains("://"))
    }

    /// What links to headings of this page are made of.
    fn anchors(&self) -> impl Iterator<Item = String> {
        let headings = self.text.lines().filter_map(|line| line.strip_prefix('#'));
        headings.map(|heading| {
            let words = heading.trim_start_matches('#').trim().to_lowercase();
            let kept =
                words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
    }
}

/// An issuer that pods on the pages name, and that signs what they ask for.
const ISSUER: &str = "\
apiVersion: certmount.dev/v1alpha1
kind: Issuer
metadata: {name: internal, namespace: demo}
spec:
  selfSigned: {}
  policy:
    - commonNames: [shop]
      dnsNames: ['{*}.shop.demo.svc.cluster.local']
      ipRanges: [127.0.0.0/8, '::1/128']
      subject: {O: [Acme], OU: [demo]}
";

/// Runs `certmount check` on a folder with `yaml` and with the issuers and Secrets that it refers
/// to. A part of a pod's manifest is made a whole one.
fn check(yaml: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let page = if yaml.starts_with("volumes:") {
        let spec: String = yaml.lines().flat_map(|line| ["  ", line, "\n"]).collect();
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: pod, namespace: demo}}\nspec:\n{spec}"
        )
    } else {
        yaml.to_owned()
    };
    let about_a_pod = page.contains("kind: Pod");
    fs::write(folder.path().join("page.yaml"), page).unwrap();
    if about_a_pod {
        fs::write(folder.path().join("issuer.yaml"), ISSUER).unwrap();
    }
    let ca = if about_a_pod { "internal" } else { "internal-ca" };
    certmount(&["ca", "init", "--name", ca], folder.path())?;
    certmount(&["check"], folder.path())
}

fn certmount(arguments: &[&str], folder: &Path) -> Result<(), String> {
    let program = env!("CARGO_BIN_EXE_certmount");
    let Output { status, stdout, stderr } =
        Command::new(program).args(arguments).arg(folder).output().unwrap();
    let said = [stdout, stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    if status.success() { Ok(()) } else { Err(said) }
}

/// The command lines of certmount in a shell script, each from its name on.
fn commands(script: &str) -> impl Iterator<Item = Vec<String>> {
    let script = script.replace("\\\n", " ");
    let mut found = Vec::new();
    for line in script.lines() {
        for words in simple_commands(line.trim_start().trim_start_matches("$ ")) {
            let by_cargo = words.starts_with(&["cargo".to_owned(), "run".to_owned()])
                && !words.iter().any(|word| word == "--example");
            for (index, word) in words.iter().enumerate() {
                let begins = index == 0 || words[index - 1] == "--";
                let named = word == "certmount" || word.ends_with("/certmount");
                if begins && named || by_cargo && word == "--" {
                    let arguments = words[index + 1..].iter().cloned();
                    found.push(std::iter::once("certmount".to_owned()).chain(arguments).collect());
                }
            }
        }
    }
    found.into_iter()
}

/// The words of each simple command of a line of shell (POSIX 2.9.1), quotes removed and nothing
/// expanded.
fn simple_commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() || "|&;<>()".contains(c) => {
                commands.last_mut().unwrap().extend(word.take());
                if !c.is_whitespace() {
                    commands.push(Vec::new());
                }
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    commands.last_mut().unwrap().extend(word);
    commands
}

fn accept(words: &[String]) -> Result<(), String> {
    match cli::command().try_get_matches_from(words) {
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(()),
            _ => Err(error.to_string()),
        },
    }
}
