//! `ebb kernel`: fetches the distribution's Linux for later, or for other uses.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::library;
use crate::linux::{image, package};

/// The options of `ebb kernel`.
#[derive(Args, Debug)]
pub struct KernelArgs {
    /// The package [default: the distribution's current kernel for virtual machines]
    package: Option<String>,

    /// Ask apt even if there is a kernel in the cache
    #[arg(long)]
    update: bool,

    /// Unpack this bzImage instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["package", "update"], requires = "output")]
    unpack: Option<PathBuf>,

    /// Where to put the unpacked kernel [default: it stays in the cache]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl KernelArgs {
    /// Fetches the kernel and prints where it is.
    ///
    /// # Errors
    /// It cannot be had, or the file not be written.
    pub fn run(&self) -> Result<ExitCode> {
        let elf = match &self.unpack {
            Some(path) => {
                let file = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                image::elf(file).map_err(|problem| anyhow::anyhow!("{} {problem}", path.display()))?
            }
            None => {
                let packages: Vec<&str> =
                    self.package.as_deref().map_or_else(|| package::CANDIDATES.to_vec(), |package| vec![package]);
                let get = if self.update { package::update } else { package::kernel };
                let kernel = get(&packages, &mut library::say)?;
                if self.output.is_none() {
                    println!("{}", kernel.path.display());
                    return Ok(ExitCode::SUCCESS);
                }
                std::fs::read(&kernel.path)?
            }
        };
        if let Some(path) = &self.output {
            std::fs::write(path, elf).with_context(|| format!("cannot write {}", path.display()))?;
            println!("{}", path.display());
        }
        Ok(ExitCode::SUCCESS)
    }
}
