//! `ebb pack`: a scenario or a domain list, and the images it names, into a boot archive.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::archive::Check;
use crate::cmd::{self, Programs, read_domains};

/// The options of `ebb pack`.
#[derive(Args, Debug)]
pub struct Pack {
    /// A scenario (.toml), or a list of domains as in a boot archive's ebb.cfg
    input: PathBuf,

    /// The archive to write
    #[arg(short, long, value_name = "FILE", default_value = "ebb.tar")]
    output: PathBuf,

    /// Pack images as they are, without checking that they can start
    #[arg(long)]
    no_check: bool,

    #[command(flatten)]
    programs: Programs,
}

impl Pack {
    /// Writes the archive.
    ///
    /// # Errors
    /// The first domain and field that are wrong, or the archive cannot be written.
    pub fn run(&self) -> Result<ExitCode> {
        let mut library = self.programs.library();
        let domains = read_domains(&self.input, &mut library)?;
        let check = if self.no_check { Check::Nothing } else { Check::Images };
        let archive = cmd::pack(&domains, &library, check)?;
        let bytes = archive.to_bytes()?;
        std::fs::write(&self.output, &bytes).with_context(|| format!("cannot write {}", self.output.display()))?;
        println!(
            "{}: {} domains, {} images, {} bytes",
            self.output.display(),
            archive.domains.len(),
            archive.images.len(),
            bytes.len()
        );
        Ok(ExitCode::SUCCESS)
    }
}
