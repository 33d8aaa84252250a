//! Errors as text for people.
//!
//! The `Display` of certmount's errors says its own part only; whoever hands an error to a person
//! puts the causes behind it, here and once.

use std::error::Error;

/// An error and its causes on one line. A cause that the text before it ends with, as libraries
/// like to write it, is not said twice.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let says = error.to_string();
        if !text.ends_with(&says) {
            text.push_str(": ");
            text.push_str(&says);
        }
        cause = error.source();
    }
    text
}

/// What others wrote, on one line and about `longest` bytes long at most.
pub fn excerpt(text: &str, longest: usize) -> String {
    let mut excerpt = String::with_capacity(text.len().min(longest));
    for c in text.trim().chars() {
        if excerpt.len() >= longest {
            excerpt.push('…');
            break;
        }
        match c {
            ' '..='~' => excerpt.push(c),
            c if c.is_whitespace() => excerpt.push(' '),
            c => excerpt.extend(c.escape_debug()),
        }
    }
    excerpt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{says}")]
    struct Link {
        says: &'static str,
        source: Option<Box<Self>>,
    }

    fn link(says: &'static str, source: Option<Link>) -> Link {
        Link { says, source: source.map(Box::new) }
    }

    #[test]
    fn each_cause_is_said_once() {
        let chain =
            link("cannot mount: no memory", Some(link("no memory", Some(link("twelve", None)))));
        assert_eq!(with_causes(&chain), "cannot mount: no memory: twelve");
    }
    #[test]
    fn what_others_wrote_stays_on_one_line_and_short() {
        assert_eq!(excerpt(" a\nb\u{1b}[31m ", 100), "a b\\u{1b}[31m");
        assert!(excerpt(&"é".repeat(10_000), 256).len() < 270);
    }
}
