//! What a package installs beside the program, and what it was built from.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap::ValueEnum;
use clap_complete::aot::{Bash, Fish, Zsh};
use clap_complete::{Generator, generate};

use super::Cli;

/// The commit of the source, with `-dirty` behind it where files were changed; set by the release.
const COMMIT: Option<&str> = option_env!("ADIT_COMMIT");
/// The day of that commit, as `2026-11-24`; set by the release.
const DATE: Option<&str> = option_env!("ADIT_DATE");

/// Whether the command line is `adit --version --verbose`, in any order.
pub(super) fn asks_for_build(arguments: &[OsString]) -> bool {
    let is = |argument: &OsString, names: &[&str]| names.iter().any(|name| argument == name);
    let Some([first, second]) = arguments.get(1..) else {
        return false;
    };
    let (version, verbose) = (["--version", "-V"], ["--verbose"]);
    is(first, &version) && is(second, &verbose) || is(first, &verbose) && is(second, &version)
}

/// Version, commit, date and machine, a line each, as a bug report should quote them.
pub(crate) fn build() -> String {
    format!(
        "adit {}\ncommit: {}\ndate: {}\ntarget: {}-{}-{}\n",
        env!("CARGO_PKG_VERSION"),
        COMMIT.unwrap_or("unknown, not a build of deploy/release"),
        DATE.unwrap_or("unknown"),
        std::env::consts::ARCH,
        std::env::consts::OS,
        if cfg!(target_env = "musl") {
            "musl"
        } else {
            "gnu"
        },
    )
}

/// The shells that gateways and those who look after them have; each other one would weigh 5 KB.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Fish,
    Zsh,
}

/// The completions for a shell, as its own script.
pub(super) fn completions(shell: Shell) -> String {
    match shell {
        Shell::Bash => script(Bash),
        Shell::Fish => script(Fish),
        Shell::Zsh => script(Zsh),
    }
}

fn script(generator: impl Generator) -> String {
    let mut script = Vec::new();
    generate(generator, &mut Cli::command(), "adit", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes `adit.1` and `adit-COMMAND.1` for every command into a directory.
///
/// # Errors
/// What the system says, with the directory.
pub fn write_manual(directory: &Path) -> io::Result<()> {
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, directory)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", directory.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_build_is_told_for_version_and_verbose_together() {
        assert!(asks_for_build(&line(&["adit", "--version", "--verbose"])));
        assert!(asks_for_build(&line(&["adit", "--verbose", "-V"])));
        assert!(!asks_for_build(&line(&["adit", "--version"])));
        assert!(!asks_for_build(&line(&["adit", "--verbose", "--verbose"])));
        assert!(!asks_for_build(&line(&[
            "adit",
            "run",
            "--version",
            "--verbose"
        ])));
        assert!(build().starts_with(concat!("adit ", env!("CARGO_PKG_VERSION"), "\ncommit: ")));
    }

    #[test]
    fn each_shell_completes_every_command() {
        for shell in Shell::value_variants() {
            let script = completions(*shell);
            for command in Cli::command().get_subcommands() {
                assert!(
                    script.contains(command.get_name()),
                    "{shell:?}: {}",
                    command.get_name()
                );
            }
        }
    }

    #[test]
    fn every_command_has_a_page_with_its_flags() {
        let directory = std::env::temp_dir().join(format!("adit-man-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        write_manual(&directory).unwrap();
        let page = std::fs::read_to_string(directory.join("adit-check.1")).unwrap();
        assert!(page.contains(r"\-\-no\-login"), "{page}");
        assert!(page.contains("Exit status"), "{page}");
        for command in Cli::command().get_subcommands() {
            let name = format!("adit-{}.1", command.get_name());
            assert!(directory.join(&name).exists(), "{name}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
        let missing = write_manual(&directory).unwrap_err();
        let named = directory.display().to_string();
        assert!(missing.to_string().starts_with(&named), "{missing}");
    }
}
