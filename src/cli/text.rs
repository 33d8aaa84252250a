//! Text for people: failures, spans of time, tables. Nothing that came from outside reaches the
//! terminal with its control characters.

use std::fmt::Write as _;

use crate::clock::Timestamp;

/// A failure with its causes, one line each, without a cause that only repeats what is above it.
pub(super) fn failure(error: &anyhow::Error) -> String {
    let mut text = format!("error: {}", printable(&error.to_string()));
    let mut above = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !above.contains(&cause) {
            let _ = write!(text, "\n  because: {}", printable(&cause));
            above = cause;
        }
    }
    text
}

/// `text` with control characters escaped, line breaks excepted.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|char| {
            let escape = char.is_control() && char != '\n';
            let plain = (!escape).then_some(char);
            let escaped = escape.then(|| char.escape_default());
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

/// How far `at` is from `now`, in its two greatest units: `in 59d 3h`, `2m 5s ago`.
pub(super) fn relative(now: Timestamp, at: Timestamp) -> String {
    let seconds = at.as_second() - now.as_second();
    let span = span(seconds.unsigned_abs());
    if seconds < 0 { format!("{span} ago") } else { format!("in {span}") }
}

fn span(seconds: u64) -> String {
    const UNITS: [(u64, char); 4] = [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];
    let greatest = UNITS.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(3);
    let mut left = seconds;
    let mut parts = Vec::new();
    for (unit, name) in UNITS.iter().skip(greatest).take(2) {
        if left >= *unit || parts.is_empty() {
            parts.push(format!("{}{name}", left / unit));
            left %= unit;
        }
    }
    parts.join(" ")
}

/// Columns as wide as their widest cell, the first row being the heading.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| row.each_ref().map(|cell| one_line(cell))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn one_line(cell: &str) -> String {
    printable(cell).replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn failures_name_each_cause_once() {
        let error = anyhow!("no such file").context("cannot read a: no such file").context("stop");
        assert_eq!(failure(&error), "error: stop\n  because: cannot read a: no such file");
    }

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(printable("a\u{1b}[2J\tb\nc"), "a\\u{1b}[2J\\tb\nc");
    }

    #[test]
    fn spans_have_two_units_at_most() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let cases = [
            (0, "in 0s"),
            (59, "in 59s"),
            (61, "in 1m 1s"),
            (3_600, "in 1h"),
            (90_061, "in 1d 1h"),
            (86_400 + 60, "in 1d"),
            (-125, "2m 5s ago"),
        ];
        for (seconds, text) in cases {
            let at = Timestamp::from_second(1_700_000_000 + seconds).unwrap();
            assert_eq!(relative(now, at), text);
        }
    }

    #[test]
    fn tables_line_up() {
        let rows = [["POD", "NAME"], ["a", "ünï"], ["long\nname", "b"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "POD        NAME\na          ünï\nlong name  b\n");
    }
}
