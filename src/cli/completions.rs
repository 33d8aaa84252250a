//! `certmount completions` and `certmount man`: written by clap from the command line itself.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap_complete::Shell;

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
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        let man = clap_mangen::Man::new(subcommand.clone());
        writeln!(page, ".SH \"CERTMOUNT {}\"", subcommand.get_name().to_uppercase())?;
        man.render_description_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_options_section(&mut page)?;
        man.render_extra_section(&mut page)?;
    }
    io::stdout().write_all(&page)?;
    Ok(ExitCode::SUCCESS)
}
