//! From a mount's beginning to its end: who unmounts it, or says that it shall end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::record::RecordArgs;
use crate::mount::Mount;
use crate::telemetry::LogSettings;

/// What is logged: of the FUSE crate only errors, for it warns of whatever the kernel asks in vain.
pub(in crate::cli) fn log_settings() -> anyhow::Result<LogSettings> {
    let filter = "warn,fuser=error".parse()?;
    Ok(LogSettings { filter, ..LogSettings::warnings() })
}

/// Runs what a command does; what it leaves behind is not waited for.
pub(in crate::cli) fn block_on<T>(
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

/// Serves a mount until it is unmounted, by whomever.
pub(super) async fn serve(
    mounted: Mount,
    end: &mut Signals,
    record: &RecordArgs,
) -> anyhow::Result<()> {
    let (handle, ending) = (mounted.handle(), mounted.ending());
    let mut ends = 0;
    let mut joined = tokio::task::spawn_blocking(move || mounted.join());
    loop {
        tokio::select! {
            ended = &mut joined => {
                ended??;
                handle.settled().await;
                return record.write(&handle);
            }
            _ = end.report.recv() => {
                if let Err(error) = record.write(&handle) {
                    tracing::error!("{error:#}");
                }
            }
            () = asked_to_end(&mut end.terminate, &mut end.interrupt) => {
                ends += 1;
                // Whoever asks twice does not want to wait for those who use it.
                if ends > 1 {
                    std::process::exit(130);
                }
                if let Err(error) = ending.unmount() {
                    tracing::error!("can't unmount: {error}");
                }
            }
        }
    }
}

/// What a mount is told by signals. To be made before anybody is told that there is one.
pub(in crate::cli) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    report: Signal,
}

impl Signals {
    pub(in crate::cli) fn new() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt, report: signal(SignalKind::user_defined1())? })
    }

    /// Waits until it is to end.
    pub(in crate::cli) async fn received(&mut self) {
        asked_to_end(&mut self.terminate, &mut self.interrupt).await;
    }
}

async fn asked_to_end(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
