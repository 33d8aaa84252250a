//! The files of the folder: which are there, and what each holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use zeroize::Zeroizing;

use super::{Place, Problem, Severity};
use crate::spec::object::{Document, DocumentError, LARGEST_TEXT, parse};

/// A folder and the objects in force.
pub(super) struct Folder {
    pub(super) dir: PathBuf,
    files: BTreeMap<PathBuf, Contents>,
    unreadable: Option<io::Error>,
}

/// What a file holds.
#[derive(Default)]
struct Contents {
    /// SHA-256 of the text that this was read from, to see whether it changed.
    fingerprint: Option<Vec<u8>>,
    /// What is in force.
    documents: Vec<Document>,
    /// What is wrong with the text as it is.
    errors: Vec<DocumentError>,
    /// Whether `documents` are all of a text without errors.
    whole: bool,
}

/// What file names end with.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

impl Folder {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, files: BTreeMap::new(), unreadable: None }
    }

    /// The objects in force, in order of file and line.
    pub(super) fn documents(&self) -> impl Iterator<Item = (&Path, &Document)> {
        self.files.iter().flat_map(|(path, contents)| {
            contents.documents.iter().map(|document| (path.as_path(), document))
        })
    }

    /// What is wrong with the folder and its files.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        let folder = self.unreadable.as_ref().map(|error| {
            let message = format!("this folder cannot be read, so nothing in it changes: {error}");
            Problem::in_file(&self.dir, Severity::Error, message)
        });
        let files = self.files.iter().flat_map(|(path, contents)| contents.problems(path));
        folder.into_iter().chain(files)
    }

    /// Reads the files that have changed.
    pub(super) fn refresh(&mut self) {
        let names = match self.list() {
            Ok(names) => names,
            Err(error) => {
                self.unreadable = Some(error);
                return;
            }
        };
        self.unreadable = None;
        self.files.retain(|path, _| names.contains(path));
        for path in names {
            match read(&path) {
                // Gone since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.files.remove(&path);
                }
                read => self.files.entry(path).or_default().update(read),
            }
        }
    }

    fn list(&self) -> io::Result<BTreeSet<PathBuf>> {
        let mut paths = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            // Kubelet and editors keep their own state in dot files.
            let hidden =
                path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            let known = path.extension().is_some_and(|end| EXTENSIONS.iter().any(|e| end == *e));
            if known && !hidden {
                paths.insert(path);
            }
        }
        Ok(paths)
    }
}

impl Contents {
    fn update(&mut self, read: io::Result<Zeroizing<Vec<u8>>>) {
        let error = |message| DocumentError { line: 1, column: 1, object: None, message };
        let text = match read {
            Ok(text) => text,
            Err(cause) => {
                // Whatever comes next is news.
                self.fingerprint = None;
                self.errors = vec![error(format!("this file cannot be read: {cause}"))];
                return;
            }
        };
        let fingerprint = digest::digest(&digest::SHA256, &text).as_ref().to_vec();
        if self.fingerprint.as_ref() == Some(&fingerprint) {
            return;
        }
        self.fingerprint = Some(fingerprint);
        let (mut documents, mut errors) = (Vec::new(), Vec::new());
        match std::str::from_utf8(&text) {
            Ok(text) => {
                for read in parse(text) {
                    match read {
                        Ok(document) => documents.push(document),
                        Err(error) => errors.push(error),
                    }
                }
            }
            Err(_) => errors.push(error("this file is not UTF-8 text: save it as such".to_owned())),
        }
        if errors.is_empty() || !self.whole {
            self.documents = documents;
            self.whole = errors.is_empty();
        }
        self.errors = errors;
    }

    fn problems<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = Problem> + 'a {
        self.errors.iter().cloned().enumerate().map(move |(index, error)| {
            let DocumentError { line, column, object, mut message } = error;
            if index == 0 && self.whole {
                message.push_str("; what this file held before stays in force");
            }
            let place = Place { file: path.to_owned(), line, column };
            Problem { place: Some(place), object, severity: Severity::Error, message }
        })
    }
}

/// Reads a file that somebody else may be writing or may have put there to do harm.
///
/// # Errors
///
/// When it is missing, no regular file, or longer than [`LARGEST_TEXT`].
pub(super) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // Opening a pipe would wait for somebody to write to it.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // Growing would leave copies behind that nobody wipes.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST_TEXT + 1));
    File::open(path)?.take(LARGEST_TEXT as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > LARGEST_TEXT {
        return Err(io::Error::other(format!("it is longer than {LARGEST_TEXT} bytes")));
    }
    Ok(bytes)
}
