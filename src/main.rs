//! The command `trialog`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    trialog::cli::run(trialog::cli::Cli::parse())
}

/// Buffers are made by one thread and freed by another, which is where glibc's allocator waits for
/// locks. (Measured: a tenth of the processor time of a request.)
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
