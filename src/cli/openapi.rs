//! `clipwright openapi`: the API's description, as `openapi/openapi.json` holds it.

use std::io::Write as _;

pub(super) fn run() -> anyhow::Result<()> {
    std::io::stdout().write_all(crate::api::openapi_json().as_bytes())?;
    Ok(())
}
