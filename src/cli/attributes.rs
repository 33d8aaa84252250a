//! `certmount attributes`: the table of volume attributes, as the parser has it.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;

use crate::spec::attributes::{self, Attribute, Origin, Prefix};

/// Print every volume attribute: its name, how it is written, its default, what it does
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Print the documentation page instead, in Markdown
    #[arg(long)]
    markdown: bool,

    /// Only attributes whose name holds this text
    #[arg(value_name = "TEXT", conflicts_with = "markdown")]
    filter: Option<String>,
}

const AFTER_HELP: &str = "\
Examples:
  certmount attributes                   all of them
  certmount attributes pkcs12            those about PKCS#12
  certmount attributes --markdown        the page in the documentation

Exit codes: 0 printed; 1 no attribute has such a name.";

impl Args {
    pub(super) fn run(self) -> Result<ExitCode> {
        let (text, code) = if self.markdown {
            (attributes::markdown(), ExitCode::SUCCESS)
        } else {
            let filter = self.filter.unwrap_or_default().to_lowercase();
            let shown: Vec<_> = attributes::table()
                .iter()
                .filter(|attribute| attribute.name.contains(&filter))
                .collect();
            let code = if shown.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            (listing(&shown), code)
        };
        io::stdout().write_all(text.as_bytes())?;
        Ok(code)
    }
}

fn listing(attributes: &[&Attribute]) -> String {
    if attributes.is_empty() {
        return "no attribute has such a name; `certmount attributes` lists all\n".to_owned();
    }
    let mut text = format!(
        "Write each as {}NAME, or as {}NAME as for cert-manager's csi-driver, which \
         does not have those marked *.\n",
        Prefix::Certmount.as_str(),
        Prefix::CertManager.as_str(),
    );
    let mut section = None;
    for attribute in attributes {
        if section.replace(attribute.section) != Some(attribute.section) {
            let _ = writeln!(text, "\n{}", attribute.section.to_string().to_uppercase());
        }
        let mark = if attribute.origin == Origin::Certmount { "*" } else { "" };
        let _ =
            write!(text, "  {}{mark}  {}", attribute.name, plain(&attribute.syntax.to_string()));
        match attribute.default {
            "" => text.push('\n'),
            default => {
                let _ = writeln!(text, "  [default: {}]", plain(default));
            }
        }
        let _ = writeln!(text, "      {}", plain(attribute.meaning));
    }
    text
}

/// Markdown for a terminal.
fn plain(markdown: &str) -> String {
    markdown.replace("**", "").replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_is_listed_with_its_meaning() {
        let all: Vec<_> = attributes::table().iter().collect();
        let text = listing(&all);
        for attribute in all {
            assert!(text.contains(&format!("\n  {}", attribute.name)), "{}", attribute.name);
            assert!(text.contains(&plain(attribute.meaning)), "{}", attribute.name);
        }
        assert!(text.contains("issuer-name  text  [default: required]\n"), "{text}");
    }
}
