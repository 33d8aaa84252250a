//! What the demo prints: colours and a status line on a terminal, plain lines elsewhere.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use tokio::time::Instant;

/// How often the status becomes a line where it cannot be redrawn in place.
const BETWEEN_STATUS_LINES: Duration = Duration::from_secs(3);

/// Where the demo prints.
pub(super) struct Screen {
    out: Box<dyn Write + Send>,
    colours: bool,
    status: Status,
}

/// How the status is shown.
enum Status {
    /// Redrawn in place; whether it is on the screen now.
    InPlace(bool),
    /// As lines of its own, now and then.
    Lines { last: Instant },
}

/// How text stands out.
#[derive(Clone, Copy)]
pub(super) enum Look {
    Bold,
    Dim,
    Good,
    Bad,
    Fresh,
}

impl Screen {
    /// The standard output. `colours` are used on a terminal only.
    pub(super) fn stdout(colours: bool, can_redraw: bool) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Self::new(Box::new(stdout), terminal && colours, terminal && can_redraw)
    }

    fn new(out: Box<dyn Write + Send>, colours: bool, redraw: bool) -> Self {
        let status =
            if redraw { Status::InPlace(false) } else { Status::Lines { last: Instant::now() } };
        Self { out, colours, status }
    }

    /// Prints a line.
    pub(super) fn line(&mut self, text: impl Display) -> io::Result<()> {
        self.erase_status()?;
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Prints a line that begins a part of the show.
    pub(super) fn heading(&mut self, title: &str, text: impl Display) -> io::Result<()> {
        let title = self.paint(Look::Bold, title);
        self.line("")?;
        self.line(format_args!("{title}  {text}"))
    }

    /// Prints a line with a name on its left.
    pub(super) fn field(&mut self, name: &str, value: impl Display) -> io::Result<()> {
        let name = self.paint(Look::Dim, &format!("{name:<13}"));
        self.line(format_args!("  {name} {value}"))
    }

    /// Shows how things stand, until the next line.
    pub(super) fn status(&mut self, text: impl Display) -> io::Result<()> {
        match &mut self.status {
            Status::InPlace(shown) => {
                *shown = true;
                write!(self.out, "\r\x1b[2K  {text}")?;
                self.out.flush()
            }
            Status::Lines { last } if last.elapsed() < BETWEEN_STATUS_LINES => Ok(()),
            Status::Lines { last } => {
                *last = Instant::now();
                self.line(format_args!("  {text}"))
            }
        }
    }

    /// Takes the status off the screen.
    pub(super) fn erase_status(&mut self) -> io::Result<()> {
        if let Status::InPlace(shown @ true) = &mut self.status {
            *shown = false;
            write!(self.out, "\r\x1b[2K")?;
            self.out.flush()?;
        }
        Ok(())
    }

    /// `text` in colour where there are colours.
    pub(super) fn paint(&self, look: Look, text: &str) -> String {
        if !self.colours {
            return text.to_owned();
        }
        let code = match look {
            Look::Bold => "1",
            Look::Dim => "2",
            Look::Good => "32",
            Look::Bad => "1;31",
            Look::Fresh => "36",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A bar of `width` columns, filled to `share` (0 to 1).
pub(super) fn bar(share: f64, width: usize) -> String {
    let filled = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    "#".repeat(filled) + &"-".repeat(width - filled)
}

/// A duration as people say it: `0.42 ms`, `38 ms`, `6.7 s`.
pub(super) fn span(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1e3;
    match milliseconds {
        ..10.0 => format!("{milliseconds:.2} ms"),
        10.0..1000.0 => format!("{milliseconds:.0} ms"),
        _ => format!("{:.1} s", milliseconds / 1e3),
    }
}

/// A number with its thousands set apart: `12 345`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn without_a_terminal_there_are_plain_lines_only() {
        let paper = Paper::default();
        let mut screen = Screen::new(Box::new(paper.clone()), false, false);
        screen.heading("Server", "listening").unwrap();
        screen.status("at once, so not shown").unwrap();
        screen.field("serial", screen.paint(Look::Fresh, "1f")).unwrap();
        screen.erase_status().unwrap();
        assert_eq!(paper.text(), "\nServer  listening\n  serial        1f\n");
    }

    #[test]
    fn the_status_is_erased_before_the_next_line() {
        let paper = Paper::default();
        let mut screen = Screen::new(Box::new(paper.clone()), true, true);
        screen.status("working").unwrap();
        screen.line(screen.paint(Look::Good, "done")).unwrap();
        assert_eq!(paper.text(), "\r\x1b[2K  working\r\x1b[2K\x1b[32mdone\x1b[0m\n");
    }

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!(span(Duration::from_micros(420)), "0.42 ms");
        assert_eq!(span(Duration::from_millis(38)), "38 ms");
        assert_eq!(span(Duration::from_millis(6700)), "6.7 s");
        assert_eq!(number(0), "0");
        assert_eq!(number(999), "999");
        assert_eq!(number(1_234_567), "1 234 567");
        assert_eq!(bar(0.5, 4), "##--");
        assert_eq!(bar(7.0, 2), "##");
    }
}
