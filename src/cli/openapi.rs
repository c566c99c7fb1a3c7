//! `clipwright openapi`: the API's description, as `openapi/openapi.json` holds it.

use clap::Args;

/// Print the OpenAPI document.
#[derive(Debug, Args)]
pub(super) struct Openapi {}

impl Openapi {
    #[expect(clippy::unused_self, reason = "every command runs the same way")]
    pub(super) fn run(self) -> anyhow::Result<()> {
        print!("{}", crate::api::openapi_json());
        Ok(())
    }
}
