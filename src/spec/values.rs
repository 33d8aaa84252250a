//! The syntaxes of attribute values: durations, lists, numbers.
//!
//! They are read as cert-manager's csi-driver reads them, which takes its syntaxes from Go.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Why a value is refused; says what is expected, and leaves the value to the caller to show.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub Cow<'static, str>);

impl From<&'static str> for ValueError {
    fn from(expected: &'static str) -> Self {
        Self(expected.into())
    }
}

/// A span of time in Go's syntax, such as `2160h0m0s`, `1.5h` or `300ms`; more than zero.
///
/// # Errors
///
/// When it is not such a span, is zero or negative, or is longer than 292 years.
pub fn duration(text: &str) -> Result<Duration, ValueError> {
    const EXPECTED: &str =
        "is not a duration: write numbers with units h, m, s or ms, such as \"720h\" or \"1h30m\"";
    const TOO_LONG: &str = "is too long: at most 292 years, which is 2562047h";
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    if digits == "0" {
        return Err("must be more than zero".into());
    }
    if digits.is_empty() {
        return Err(EXPECTED.into());
    }
    let mut nanoseconds = 0_i64;
    let mut rest = digits;
    while !rest.is_empty() {
        let (span, after) = number_with_unit(rest).ok_or(EXPECTED)?;
        nanoseconds = span
            .and_then(|span| i64::try_from(span).ok())
            .and_then(|span| nanoseconds.checked_add(span))
            .ok_or(TOO_LONG)?;
        rest = after;
    }
    match u64::try_from(nanoseconds) {
        Ok(nanoseconds) if nanoseconds > 0 && !negative => Ok(Duration::from_nanos(nanoseconds)),
        _ => Err("must be more than zero".into()),
    }
}

/// Takes one `1.5h` off the front: its nanoseconds, `None` where they overflow, and the rest.
fn number_with_unit(text: &str) -> Option<(Option<u128>, &str)> {
    // `m` comes after `ms`, which it is the start of. Both signs for micro are in use.
    const UNITS: [(&str, u128); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("μs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), split_digits);
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let (unit, rest) =
        UNITS.iter().find_map(|(name, unit)| Some((*unit, rest.strip_prefix(name)?)))?;
    let whole = if whole.is_empty() { Some(0) } else { whole.parse::<u64>().ok() };
    // What is behind the 15th digit is below a nanosecond even for hours.
    let fraction = &fraction[..fraction.len().min(15)];
    let numerator = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()? };
    let part = u128::from(numerator) * unit / 10_u128.pow(fraction.len() as u32);
    Some((whole.and_then(|whole| u128::from(whole).checked_mul(unit)?.checked_add(part)), rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// A list separated by commas. Blanks and line breaks around items are left out, and so are empty
/// items.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// One record of comma-separated values (RFC 4180): an item in double quotes may hold commas, and
/// `""` is a double quote in it. Blanks belong to the items; empty items are left out.
///
/// # Errors
///
/// When quotes are not closed or in the middle of an item, or when there are several lines.
pub fn csv(text: &str) -> Result<Vec<String>, ValueError> {
    let mut items = Vec::new();
    let mut rest =
        text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    loop {
        let (item, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_item(quoted)?,
            None => {
                let (item, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                if item.contains('"') {
                    return Err("has a double quote inside an item: quote the whole item, and \
                                write \"\" for a quote in it"
                        .into());
                }
                if item.contains(['\n', '\r']) {
                    return Err("has several lines: write all items in one line".into());
                }
                (item.to_owned(), after)
            }
        };
        if !item.is_empty() {
            items.push(item);
        }
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(items),
        }
    }
}

/// Reads up to the closing quote, which must be followed by a comma or the end.
fn quoted_item(text: &str) -> Result<(String, &str), ValueError> {
    let mut item = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"').ok_or("has a double quote that is not closed")?;
        item.push_str(part);
        match after.strip_prefix('"') {
            Some(next) => {
                item.push('"');
                rest = next;
            }
            None if after.is_empty() || after.starts_with(',') => return Ok((item, after)),
            None => return Err("has text after a closing double quote".into()),
        }
    }
}

/// Exactly `true` or `false`.
///
/// # Errors
///
/// Anything else, such as `True`.
pub fn boolean(text: &str) -> Result<bool, ValueError> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("must be \"true\" or \"false\"".into()),
    }
}

/// A user or group id that files can be given to.
///
/// # Errors
///
/// Anything but 1 to 4294967294. Zero would be root, and 4294967295 means "nobody in particular"
/// to chown(2).
pub fn owner_id(text: &str) -> Result<u32, ValueError> {
    match text.parse() {
        Ok(id) if id != 0 && id != u32::MAX => Ok(id),
        _ => Err("must be a number from 1 to 4294967294".into()),
    }
}

/// Permission bits in octal: readable by the owner, writable by the owner at most, never
/// executable.
///
/// # Errors
///
/// Anything else.
pub fn file_mode(text: &str) -> Result<u32, ValueError> {
    const OWNER_READ: u32 = 0o400;
    const ALLOWED: u32 = 0o644;
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal =
        !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit());
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if octal && mode & OWNER_READ != 0 && mode & !ALLOWED == 0 => Ok(mode),
        _ => Err("must be an octal mode such as \"0440\" or \"0400\": readable by the owner, and \
                  never writable by others nor executable"
            .into()),
    }
}

/// Shows text that somebody else wrote: in double quotes, escaped, and cut to 64 characters.
pub fn quoted(text: &str) -> impl fmt::Display + '_ {
    Quoted(text)
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 64;
        match self.0.char_indices().nth(LONGEST) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in [
            ("2160h0m0s", 7_776_000_000),
            ("2160h", 7_776_000_000),
            ("1.5h", 5_400_000),
            ("1h30m", 5_400_000),
            ("300ms", 300),
            (".5s", 500),
            ("1.s", 1_000),
            ("+10s", 10_000),
            ("1000000us", 1_000),
            ("1000000µs", 1_000),
            ("1000000μs", 1_000),
            ("1000000ns", 1),
            ("0.000000000000000001h1s", 1_000),
        ] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(milliseconds), "{text}");
        }
        assert_eq!(duration("0.333333333s").unwrap(), Duration::from_nanos(333_333_333));
    }

    #[test]
    fn durations_of_nothing_and_nonsense_are_refused() {
        for text in ["0", "0s", "-0", "-1h", "-2160h", "0.0000000001ns", "+0"] {
            let refused = duration(text).unwrap_err().to_string();
            assert!(refused.contains("more than zero"), "{text}: {refused}");
        }
        for text in ["", "+", "-", "1", "h", ".h", "1d", "1 h", " 1h", "1h ", "1h1", "1e3s", "½h"]
        {
            let refused = duration(text).unwrap_err().to_string();
            assert!(refused.contains("not a duration"), "{text}: {refused}");
        }
        for text in ["2562048h", "9999999999999999999999h", "2562047h60m"] {
            let refused = duration(text).unwrap_err().to_string();
            assert!(refused.contains("too long"), "{text}: {refused}");
        }
    }

    #[test]
    fn lists_are_trimmed_and_empty_items_left_out() {
        let items: Vec<_> = list("a, b\n  ,c\n,,\t d ,").collect();
        assert_eq!(items, ["a", "b", "c", "d"]);
        assert_eq!(list(" \n").count(), 0);
    }

    #[test]
    fn csv_quotes_hold_commas() {
        let items = |text| csv(text).unwrap();
        assert_eq!(items(r#""Acme, Inc.",Other"#), ["Acme, Inc.", "Other"]);
        assert_eq!(items(r#""say ""hi""",b"#), [r#"say "hi""#, "b"]);
        assert_eq!(items("a, b"), ["a", " b"]);
        assert_eq!(items("a,,b,\n"), ["a", "b"]);
        assert_eq!(items("\"two\nlines\""), ["two\nlines"]);
        assert_eq!(items(""), [""; 0]);
        for bad in ["a\"b", "\"a", "\"a\"b", "a\nb", "a,\nb", "\"a\"\nb"] {
            assert!(csv(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn booleans_are_lower_case() {
        assert!(boolean("true").unwrap());
        assert!(!boolean("false").unwrap());
        for bad in ["True", "TRUE", "False", "yes", "1", "", " true"] {
            assert!(boolean(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn owner_ids_are_never_root_nor_nobody_in_particular() {
        assert_eq!(owner_id("1").unwrap(), 1);
        assert_eq!(owner_id("4294967294").unwrap(), u32::MAX - 1);
        for bad in ["0", "-1", "4294967295", "4294967296", "", "a", "1.0", " 1"] {
            assert!(owner_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn file_modes_are_readable_by_the_owner_and_writable_by_nobody_else() {
        for (text, mode) in [("0440", 0o440), ("400", 0o400), ("0o444", 0o444), ("0644", 0o644)] {
            assert_eq!(file_mode(text).unwrap(), mode, "{text}");
        }
        for bad in
            ["", "0", "040", "0460", "0442", "0500", "0777", "4440", "288", "+440", "0x120", "-440"]
        {
            assert!(file_mode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn shown_text_is_escaped_and_cut() {
        assert_eq!(quoted("a\n\u{202e}\"").to_string(), r#""a\n\u{202e}\"""#);
        assert_eq!(quoted(&"é".repeat(65)).to_string(), format!("\"{}\"…", "é".repeat(64)));
    }

    proptest! {
        #[test]
        fn every_syntax_is_total(text in any::<String>(), odd in "[0-9.,\"hmsunµ+\\n-]{0,24}") {
            for text in [&text, &odd] {
                let _ = duration(text);
                let _ = csv(text);
                let _ = boolean(text);
                let _ = owner_id(text);
                let _ = file_mode(text);
                let _ = (list(text).count(), quoted(text).to_string());
            }
        }

        #[test]
        fn csv_reads_back_what_was_quoted(items in prop::collection::vec("[^\r]{1,8}", 1..4)) {
            let record: Vec<_> =
                items.iter().map(|item| format!("\"{}\"", item.replace('"', "\"\""))).collect();
            prop_assert_eq!(csv(&record.join(",")).unwrap(), items);
        }

        #[test]
        fn seconds_read_back(seconds in 1_u64..9_000_000_000) {
            prop_assert_eq!(duration(&format!("{seconds}s")).unwrap().as_secs(), seconds);
        }
    }
}
