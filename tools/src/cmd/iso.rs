//! `ebb iso`: an image for a disc or a USB stick.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::archive::Check;
use crate::cmd::{self, Programs, read_domains};
use crate::iso::{self, Modules};
use crate::paths;
use crate::scenario::Scenario;

/// The options of `ebb iso`.
#[derive(Args, Debug)]
pub struct Iso {
    /// A scenario (.toml) or a list of domains [default: three Rust guests]
    input: Option<PathBuf>,

    /// The image to write
    #[arg(short, long, value_name = "FILE", default_value = "ebb.iso")]
    output: PathBuf,

    /// How the domains travel: one archive, or a GRUB module each
    #[arg(long, value_enum, default_value_t)]
    modules: Modules,

    /// The hypervisor's command line (docs/command-line.md)
    #[arg(long, value_name = "TEXT", default_value = "")]
    options: String,

    /// Seconds that GRUB's menu waits
    #[arg(long, value_name = "N", default_value_t = 2)]
    menu_seconds: u32,

    #[command(flatten)]
    programs: Programs,
}

impl Iso {
    /// Writes the image.
    ///
    /// # Errors
    /// The first domain and field that are wrong, or the image cannot be made.
    pub fn run(&self) -> Result<ExitCode> {
        let mut library = self.programs.library();
        let domains = match &self.input {
            Some(path) => read_domains(path, &mut library)?,
            None => Scenario::built_in()?.domains(),
        };
        let archive = cmd::pack(&domains, &library, Check::Images)?;
        let hypervisor = paths::hypervisor(self.programs.hypervisor.as_deref())?;
        iso::build(&self.output, &hypervisor, &archive, self.modules, &self.options, self.menu_seconds)?;
        println!("{}: boots by BIOS and UEFI; docs/running.md says how to put it on a stick", self.output.display());
        Ok(ExitCode::SUCCESS)
    }
}
