//! `certmount completions` and `certmount man`: written by clap from the command line itself.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap_complete::Shell;
use clap_mangen::Man;

/// Print shell completions
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Install them:
  bash   certmount completions bash > /etc/bash_completion.d/certmount
  zsh    certmount completions zsh > \"${fpath[1]}/_certmount\"
  fish   certmount completions fish > ~/.config/fish/completions/certmount.fish")]
pub(super) struct Args {
    /// The shell to print them for
    shell: Shell,
}

impl Args {
    pub(super) fn run(self) -> Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "certmount", &mut script);
        io::stdout().write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints one page that documents every command.
pub(super) fn man() -> Result<ExitCode> {
    let mut command = super::command();
    command.build();
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_extra_section(&mut page)?;
    for subcommand in leaves(&command) {
        let man = Man::new(subcommand.clone());
        let name = subcommand.get_display_name().unwrap_or_default().replace('-', " ");
        writeln!(page, ".SH \"{}\"", name.to_uppercase())?;
        for part in [
            Man::render_synopsis_section,
            Man::render_description_section,
            Man::render_options_section,
            Man::render_extra_section,
        ] {
            let mut section = Vec::new();
            part(&man, &mut section)?;
            for line in String::from_utf8(section)?.lines().filter(|line| !is_preamble(line)) {
                // One level down: it is a part of the command's own section.
                writeln!(page, "{}", line.replace(".SH ", ".SS "))?;
            }
        }
    }
    man.render_version_section(&mut page)?;
    io::stdout().write_all(&page)?;
    Ok(ExitCode::SUCCESS)
}

/// How a page quotes apostrophes; once for each page is enough.
fn is_preamble(line: &str) -> bool {
    line.starts_with(".ie ") || line.starts_with(".el ")
}

/// The commands that do something, those of `ca` too.
fn leaves(command: &clap::Command) -> Vec<&clap::Command> {
    let visible = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help");
    visible
        .flat_map(|command| match leaves(command) {
            none if none.is_empty() => vec![command],
            leaves => leaves,
        })
        .collect()
}
