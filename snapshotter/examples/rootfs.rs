//! Makes EROFS blobs of a directory or OCI archive: `cargo run -p seuss-snapshotter --example rootfs -- SOURCE [OUTDIR]`.
//!
//! Without OUTDIR the blobs are made in memory and only described.

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use seuss_snapshotter::erofs;
use seuss_snapshotter::rootfs::{self, RootfsOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let source = args.next().ok_or("usage: rootfs SOURCE [OUTDIR]")?;
    let started = Instant::now();
    let image = rootfs::open(Path::new(&source))?.build(&RootfsOptions::default())?;
    println!("built in {} ms", started.elapsed().as_millis());
    let out = args.next();
    for (i, blob) in image.layers.iter().enumerate() {
        let file = File::from(blob.file.try_clone()?);
        let started = Instant::now();
        let summary = erofs::check(&file, blob.len_bytes)?;
        println!(
            "layer {i}: {} bytes, {} inodes, {} bytes of files, {}, checked in {} us",
            blob.len_bytes,
            summary.inodes,
            summary.data_bytes,
            blob.digest,
            started.elapsed().as_micros()
        );
        if let Some(dir) = &out {
            std::io::copy(&mut &file, &mut File::create(Path::new(dir).join(format!("{i}.erofs")))?)?;
        }
    }
    if let Some(config) = image.config {
        println!("{}", config.to_string_pretty()?);
    }
    Ok(())
}
