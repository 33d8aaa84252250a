//! As much of XML as AWS' answers have: elements without attributes that count, and text.

/// The content of each element `name`, at any depth.
pub(super) fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let close = format!("</{name}>");
    let mut found = Vec::new();
    let mut rest = xml;
    while let Some((content, after)) = next_element(rest, name, &close) {
        found.push(content);
        rest = after;
    }
    found
}

/// The text of the first element `name`, at any depth.
pub(super) fn text(xml: &str, name: &str) -> Option<String> {
    let (content, _) = next_element(xml, name, &format!("</{name}>"))?;
    Some(unescaped(content.trim()))
}

/// The content of the next element, and what follows it.
fn next_element<'a>(xml: &'a str, name: &str, close: &str) -> Option<(&'a str, &'a str)> {
    let open = format!("<{name}");
    let mut rest = xml;
    loop {
        rest = &rest[rest.find(&open)? + open.len()..];
        // Not an element whose name only begins so.
        if rest.starts_with(|c: char| c == '>' || c.is_ascii_whitespace()) {
            let (_, content) = rest.split_once('>')?;
            return content.split_once(close);
        }
    }
}

/// `text` as the content of an element.
pub(super) fn escaped(text: &str) -> String {
    ENTITIES.iter().fold(text.to_owned(), |text, (entity, c)| text.replace(c, entity))
}

fn unescaped(text: &str) -> String {
    ENTITIES.iter().rev().fold(text.to_owned(), |text, (entity, c)| text.replace(entity, c))
}

/// The ampersand is the first to be escaped, and the last to be unescaped.
const ENTITIES: [(&str, &str); 6] = [
    ("&amp;", "&"),
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&quot;", "\""),
    ("&apos;", "'"),
    ("&#39;", "'"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_by_their_whole_name() {
        let xml = "<?xml version='1.0'?><A xmlns='x'><IdList><Id> 1 </Id></IdList>\
                   <Id>2&amp;lt;&quot;</Id><Id/></A>";
        assert_eq!(elements(xml, "Id"), [" 1 ", "2&amp;lt;&quot;"]);
        assert_eq!(text(xml, "Id").unwrap(), "1");
        assert_eq!(text(elements(xml, "A")[0], "IdList").unwrap(), "<Id> 1 </Id>");
        assert_eq!(text(xml, "B"), None);
        assert_eq!(unescaped("2&amp;lt;&quot;"), "2&lt;\"");
        for broken in ["<Id", "<Id>", "<Id>1", "</Id><Id>", "<Id ", ""] {
            assert_eq!(text(broken, "Id"), None, "{broken}");
        }
    }

    #[test]
    fn what_is_escaped_reads_back() {
        let odd = "a<b>&\"c'&lt;";
        assert_eq!(unescaped(&escaped(odd)), odd);
        assert!(!escaped(odd).contains('<'));
    }
}
