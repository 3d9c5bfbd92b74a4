//! The `termgate` binary: `main` maps failures to exit statuses, `run` reads like an index.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use termgate::app::{join, node, progress, sidecar};
use termgate::cli::node::{Joining, Start};
use termgate::cli::{Cli, Command, Failure};
use termgate::config::issue::{Checked, Invalid};
use termgate::{config, dev};

fn main() -> ExitCode {
    // Wrong usage ends here, with clap's own status 2.
    match run(Cli::parse()) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("termgate: {failure}");
            ExitCode::from(failure.exit_status())
        }
    }
}

/// Answers the text for standard output.
fn run(cli: Cli) -> Result<String, Failure> {
    let log = cli.log_format;
    match cli.command {
        Command::Tool(tool) => tool.run(),
        Command::Dev(args) => serve(async {
            dev::run(&args.data_dir, args.nodes, args.base_port).await.map_err(Failure::Failed)
        }),
        Command::Node(args) => {
            log.start();
            match args.start() {
                Start::Configured(file) => {
                    let config = accepted(config::load_node(&file))?;
                    serve(async { node::run(config).await.map_err(failed) })
                }
                Start::Joining(joining) => serve(join_and_run(&joining)),
            }
        }
        Command::Guard(args) => {
            log.start();
            let config = accepted(config::load_guard(&args.config))?;
            serve(async { sidecar::guard(config).await.map_err(failed) })
        }
        Command::DemoBackend(args) => {
            log.start();
            serve(async { sidecar::demo_backend(args.listen, &args.dir).await.map_err(failed) })
        }
    }
}

/// A node that joins its cluster first.
async fn join_and_run(joining: &Joining) -> Result<(), Failure> {
    join::join(joining).await?;
    let config = accepted(config::load_node(&joining.config))?;
    tokio::spawn(progress::tell(config.clone(), joining.voter));
    node::run(config).await.map_err(failed)
}

/// Runs a server until it ends; it prints for itself.
fn serve(work: impl Future<Output = Result<(), Failure>>) -> Result<String, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("no runtime could be made: {error}")))?;
    let ended = runtime.block_on(work).map(|()| String::new());
    // A thread that reads the terminal can't be asked to end.
    runtime.shutdown_background();
    ended
}

/// The settings, when nothing is wrong with them; warnings are logged.
fn accepted<T>(loaded: Result<Checked<T>, Invalid>) -> Result<T, Failure> {
    let checked = loaded.map_err(|invalid| Failure::Usage(invalid.to_string()))?;
    for warning in &checked.warnings {
        tracing::warn!("{warning}");
    }
    Ok(checked.config)
}

fn failed(error: Box<dyn Error>) -> Failure {
    Failure::Failed(error.to_string())
}
