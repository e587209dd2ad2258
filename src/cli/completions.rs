//! `ropewalk completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::exit::Code;
use super::screen::Screen;

const EXAMPLES: &str = "\
Examples:
  ropewalk completions bash > ~/.local/share/bash-completion/completions/ropewalk
  ropewalk completions zsh  > ~/.zfunc/_ropewalk
  ropewalk completions fish > ~/.config/fish/completions/ropewalk.fish";

/// Print what a shell needs to complete ropewalk's commands and options
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: &Args, screen: &Screen) -> anyhow::Result<Code> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "ropewalk", &mut script);
    screen.bytes(&script)?;
    Ok(Code::Done)
}
