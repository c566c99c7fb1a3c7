//! `clipwright images`: archives, and the files in them, by the service's API.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::admin::{Output, shown};
use super::{run_async, say};
use crate::image_id::ImageId;

/// Show images, and fetch their archives.
#[derive(Debug, Args)]
pub(super) struct ImagesCommand {
    #[command(subcommand)]
    action: ImagesAction,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum ImagesAction {
    /// List images
    List,
    /// Show an image
    Show {
        /// Its id
        id: ImageId,
    },
    /// List the files in an image
    Ls {
        /// Its id
        id: ImageId,
        /// Directory or file in the image
        #[arg(default_value = "/")]
        path: String,
    },
    /// Write a file's content to standard output
    Cat {
        /// The image's id
        id: ImageId,
        /// Path in the image; symbolic links are followed
        path: String,
    },
    /// Delete an image and its archive
    Rm {
        /// Its id
        id: ImageId,
    },
}

impl ImagesCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match &self.action {
            ImagesAction::List => self.output.list("/v1/images", "images", "after"),
            ImagesAction::Show { id } => {
                self.output.call((Method::GET, format!("/v1/images/{id}"), None))
            }
            ImagesAction::Ls { id, path } => self.files(id, path),
            ImagesAction::Cat { id, path } => {
                let client = self.output.client()?;
                let path = format!("/v1/images/{id}/files/content?path_hex={}", hex::encode(path));
                run_async(async |cancel| {
                    client.download(&path, &mut std::io::stdout(), &cancel).await
                })
            }
            ImagesAction::Rm { id } => {
                self.output.call((Method::DELETE, format!("/v1/images/{id}"), None))
            }
        }
    }

    /// Prints what is in a directory, or a file alone, page by page.
    fn files(&self, id: &ImageId, path: &str) -> anyhow::Result<()> {
        let client = self.output.client()?;
        let first = format!("/v1/images/{id}/files?limit=200&path_hex={}", hex::encode(path));
        run_async(async |cancel| {
            let mut page_path = first.clone();
            loop {
                let page: Value = client.get(&page_path, &cancel).await?;
                let alone = std::slice::from_ref(&page["entry"]);
                for entry in page["entries"].as_array().map_or(alone, Vec::as_slice) {
                    if self.output.json {
                        say!("{entry}");
                        continue;
                    }
                    let [kind, mode, size, path] =
                        [&entry["type"], &entry["mode"], &entry["size"], &entry["path"]].map(shown);
                    let target = entry["target"].as_str().map(|to| format!(" -> {to}"));
                    let name = format!("{path}{}", target.unwrap_or_default());
                    let name = super::printable(name.as_bytes());
                    say!("{kind:7} {mode} {size:>11} {name}");
                }
                let Some(next) = page["next"].as_str() else { return Ok(()) };
                page_path = format!("{first}&after={next}");
            }
        })
    }
}
