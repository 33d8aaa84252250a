//! Everything that is wrong with one request, said at once.

use std::fmt::Display;

use super::{RequestError, RequestErrorKind};

/// Collects what is wrong, so that whoever mends a manifest sees all of it. Bounded, whatever a
/// hostile request holds.
#[derive(Debug, Default)]
pub(super) struct Problems {
    messages: Vec<String>,
    unsaid: usize,
}

impl Problems {
    /// How many messages are kept; the rest is counted only.
    const MOST: usize = 32;
    /// Kubelet puts the message into an Event, which has room for 1024 bytes with kubelet's own.
    const ROOM: usize = 800;

    /// Notes a problem, once. Control characters are escaped, and a long message is cut.
    pub(super) fn add(&mut self, message: impl Display) {
        if self.is_full() {
            self.unsaid += 1;
            return;
        }
        let message = tame(&message.to_string());
        if !self.messages.contains(&message) {
            self.messages.push(message);
        }
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether further problems are only counted.
    pub(super) fn is_full(&self) -> bool {
        self.messages.len() >= Self::MOST
    }

    /// What to answer, if there is any problem.
    pub(super) fn into_result(self) -> Result<(), RequestError> {
        if self.messages.is_empty() {
            return Ok(());
        }
        let mut unsaid = self.unsaid;
        let mut message = String::new();
        for problem in &self.messages {
            if message.is_empty() {
                message.push_str(problem);
            } else if message.len() + problem.len() <= Self::ROOM {
                message.push_str("; ");
                message.push_str(problem);
            } else {
                unsaid += 1;
            }
        }
        if unsaid > 0 {
            message.push_str(&format!("; and {unsaid} more"));
        }
        Err(RequestError { kind: RequestErrorKind::Invalid, message, problems: self.messages })
    }
}

/// `text` without control and invisible characters, and cut to a length that people read.
pub(super) fn tame(text: &str) -> String {
    const LONGEST: usize = 400;
    let mut tamed = String::with_capacity(text.len().min(LONGEST));
    for c in text.chars() {
        if tamed.len() >= LONGEST {
            tamed.push('…');
            break;
        }
        match c {
            ' '..='~' => tamed.push(c),
            _ => tamed.extend(c.escape_debug()),
        }
    }
    tamed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(problems: impl IntoIterator<Item = String>) -> String {
        let mut collected = Problems::default();
        problems.into_iter().for_each(|problem| collected.add(problem));
        collected.into_result().unwrap_err().message
    }

    #[test]
    fn no_problem_is_no_error() {
        Problems::default().into_result().unwrap();
    }

    #[test]
    fn all_problems_are_said() {
        assert_eq!(message(["a".to_owned(), "b".to_owned()]), "a; b");
        assert_eq!(message(["a".to_owned(), "a".to_owned()]), "a");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let said = message((0..1000).map(|n| format!("{n} {}", "x".repeat(10_000))));
        assert!(said.len() < 1000, "{}", said.len());
        assert!(said.starts_with("0 x") && said.ends_with("; and 999 more"), "{said}");
    }

    #[test]
    fn hostile_text_is_escaped() {
        assert_eq!(message(["a\nb\u{202e}é".to_owned()]), "a\\nb\\u{202e}é");
    }
}
