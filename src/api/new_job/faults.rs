//! What is wrong with a job's fields: collected while they are walked through, and told at once.

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::{CredentialText, MAX_CREDENTIALS, MAX_EXPIRY, NewWebhook};
use crate::api::extract::SecretText;
use crate::api::problem::FieldError;
use crate::jobs::job::ImageId;
use crate::jobs::pull::REGISTRY_SECRET;
use crate::jobs::queue::Secrets;
use crate::jobs::webhook::Webhook;
use crate::oci::{Credentials, Platform};

/// Entries of a map at most.
pub(super) const MAX_COUNT: usize = 128;
/// Bytes of a value in a map at most.
pub(super) const MAX_VALUE: usize = 32 << 10;

/// Faults of fields, in the order in which they were found.
#[derive(Debug, Default)]
pub(in crate::api) struct Faults(pub(in crate::api) Vec<FieldError>);

impl Faults {
    pub(in crate::api) fn wrong(&mut self, field: &str, detail: impl fmt::Display) {
        self.0.push(FieldError::new(field, detail));
    }

    pub(in crate::api) fn keep<T, E: fmt::Display>(
        &mut self,
        field: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        result.map_err(|error| self.wrong(field, error)).ok()
    }

    pub(super) fn required<T>(&mut self, field: &str, value: Option<T>) -> Option<T> {
        self.keep(field, value.ok_or("is missing"))
    }

    pub(super) fn image_id(&mut self, text: Option<String>) -> Option<ImageId> {
        let text = self.required("image_id", text)?;
        self.keep("image_id", text.parse())
    }

    /// The service's own platform when nobody says.
    pub(super) fn platform(&mut self, text: Option<String>) -> Option<Platform> {
        match text {
            Some(text) => self.keep("platform", text.parse::<Platform>()),
            None => Some(Platform::host()),
        }
    }

    /// Credentials are looked at as far as that can be done before the image's registry is known.
    pub(in crate::api) fn credentials(
        &mut self,
        field: &str,
        secret: SecretString,
        registry: Option<&str>,
    ) -> Option<SecretString> {
        let found = secret.expose_secret().len();
        if found > MAX_CREDENTIALS {
            self.wrong(field, format!("has {found} bytes: expected at most {MAX_CREDENTIALS}"));
            return None;
        }
        if let Some(registry) = registry {
            self.keep(field, Credentials::parse(secret.expose_secret(), registry))?;
        }
        Some(secret)
    }

    /// The secrets of a job that has credentials for one registry.
    pub(super) fn secrets(
        &mut self,
        given: Option<CredentialText>,
        registry: Option<&str>,
    ) -> Secrets {
        let kept =
            given.and_then(|CredentialText(text)| self.credentials("credentials", text, registry));
        kept.map(|secret| (REGISTRY_SECRET.to_owned(), secret)).into_iter().collect()
    }

    /// Names and values of a map; `fault` says what is wrong with a name.
    pub(in crate::api) fn map<'a>(
        &mut self,
        field: &str,
        values: impl ExactSizeIterator<Item = (&'a String, &'a str)>,
        fault: impl Fn(&str) -> Option<&'static str>,
    ) {
        if values.len() > MAX_COUNT {
            let found = values.len();
            self.wrong(field, format!("has {found} entries: expected at most {MAX_COUNT}"));
        }
        for (name, value) in values {
            let shown: String = name.chars().take(100).collect();
            if let Some(reason) = fault(name) {
                self.wrong(field, format!("{shown:?} {reason}"));
            }
            if value.len() > MAX_VALUE || value.contains('\0') {
                let reason = format!("is larger than {MAX_VALUE} bytes, or has a NUL");
                self.wrong(field, format!("the value of {shown:?} {reason}"));
            }
        }
    }

    pub(super) fn webhook(&mut self, given: Option<NewWebhook>) -> Option<Webhook> {
        let NewWebhook { url, secret } = given?;
        let webhook = Webhook::new(&url, secret.map(SecretText::into_secret));
        self.keep("webhook", webhook)
    }

    pub(super) fn expiry(&mut self, seconds: Option<u64>) -> Option<Duration> {
        let checked = match seconds? {
            0 => Err("is 0: expected 1 or more seconds".to_owned()),
            seconds if seconds > MAX_EXPIRY => {
                Err(format!("is {seconds}: expected at most {MAX_EXPIRY} seconds"))
            }
            seconds => Ok(Duration::from_secs(seconds)),
        };
        self.keep("expires_in", checked)
    }
}
