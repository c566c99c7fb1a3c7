//! Inflate speed on real layers: `cargo bench --bench inflate -- LAYER.gz ...`
//!
//! For each file, alternating: zlib-rs, our loop, our loop with spans, and `igzip` if it is there.
//! Prints the best of a few rounds as MB of plain bytes per second of user time, which other
//! processes on the machine disturb less than wall time, and what the spans cost.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::process::{Command, Stdio};

use anyhow::Context as _;
use clipwright::gzip::{DEFAULT_SPAN, Engine, GzipOptions, GzipReader, Summary};
use nix::sys::resource::{UsageWho, getrusage};

const ROUNDS: usize = 5;
const CHUNK: usize = 64 * 1024;

fn main() -> anyhow::Result<()> {
    for file in std::env::args().skip(1).filter(|argument| !argument.starts_with('-')) {
        let compressed = std::fs::read(&file).with_context(|| file.clone())?;
        measure(&file, &compressed)?;
    }
    Ok(())
}

fn measure(file: &str, compressed: &[u8]) -> anyhow::Result<()> {
    let own = GzipOptions { skip_crc: true, ..GzipOptions::default() };
    let ways = [
        GzipOptions { engine: Engine::Zlib, ..own },
        own,
        GzipOptions { span: Some(DEFAULT_SPAN), ..own },
    ];
    let mut best = [f64::MAX; 4];
    let mut last = None;
    for _ in 0..ROUNDS {
        for (way, best) in ways.iter().zip(&mut best) {
            let before = user_seconds(UsageWho::RUSAGE_SELF)?;
            last = Some(read(compressed, *way)?);
            *best = best.min(user_seconds(UsageWho::RUSAGE_SELF)? - before);
        }
        let before = user_seconds(UsageWho::RUSAGE_CHILDREN)?;
        let igzip = Command::new("igzip").args(["-dc", file]).stdout(Stdio::null()).status();
        if igzip.is_ok_and(|status| status.success()) {
            best[3] = best[3].min(user_seconds(UsageWho::RUSAGE_CHILDREN)? - before);
        }
    }
    let summary = last.context("no rounds")?;
    let [zlib, own, spans, igzip] = best.map(|seconds| summary.plain as f64 / seconds / 1e6);
    let windows: usize = summary.spans.iter().map(|span| span.start.window.encoded().len()).sum();
    // Besides its window, a span has a digest and a few numbers.
    let table = windows + summary.spans.len() * 64;
    println!(
        "{file}: {} MB plain: zlib-rs {zlib:.0}, own {own:.0} ({:.2} x), with spans {spans:.0}, \
         igzip (checks the CRC) {igzip:.0} MB/s; {} spans, {table} bytes, {:.3} % of compressed",
        summary.plain / 1_000_000,
        own / zlib,
        summary.spans.len(),
        table as f64 * 100.0 / compressed.len() as f64,
    );
    Ok(())
}

fn read(compressed: &[u8], options: GzipOptions) -> anyhow::Result<Summary> {
    let mut reader = GzipReader::new(options);
    for mut chunk in compressed.chunks(CHUNK) {
        while let Some(plain) = reader.next(&mut chunk)? {
            std::hint::black_box(plain);
        }
    }
    Ok(reader.finish()?)
}

fn user_seconds(who: UsageWho) -> anyhow::Result<f64> {
    let time = getrusage(who)?.user_time();
    Ok(time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
}
