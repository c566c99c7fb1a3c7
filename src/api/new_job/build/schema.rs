//! What a build's fields may be together, for documents: a variant for each place that the Dockerfile can be
//! in, and where secrets are offered as `ARG`s one of its own, since fewer ids will do for those.

use std::borrow::Cow;

use serde_json::json;
use utoipa::openapi::schema::{
    AdditionalProperties, Object, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type,
};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::super::context::NewContext;
use super::super::faults::{MAX_COUNT, MAX_VALUE};
use super::super::source_schema;
use super::{Fields, NewBuild};
use crate::api::new_job::CredentialText;
use crate::api::workspaces::REGISTRY_HOST_PATTERN;
use crate::build::{ID_PATTERN, argument_id_pattern};

/// Where the Dockerfile is.
#[derive(Clone, Copy)]
enum Origin {
    /// In the body.
    Text,
    /// In the context.
    Path,
    /// Nowhere: an image is indexed.
    Source,
}

impl PartialSchema for NewBuild {
    fn schema() -> RefOr<Schema> {
        let variants = [
            variant(Origin::Text, Some(false)),
            variant(Origin::Text, Some(true)),
            variant(Origin::Path, Some(false)),
            variant(Origin::Path, Some(true)),
            variant(Origin::Source, None),
        ];
        let one_of = OneOfBuilder::new().description(Some(
            "A build: an image from a Dockerfile, in the build registry, and its archive. Without a \
             Dockerfile and a context, `source` is indexed where it is, as by a pull.",
        ));
        let one_of = one_of.examples([json!({
            "kind": "build",
            "image_id": "961eaef6668e480f",
            "dockerfile": "FROM docker.io/library/alpine:3.20\nRUN apk add curl\n",
            "build_args": {"VERSION": "1.2"},
            "timeout": 1800,
        })]);
        variants.into_iter().flatten().fold(one_of, OneOfBuilder::item).into()
    }
}

impl ToSchema for NewBuild {
    fn name() -> Cow<'static, str> {
        "NewBuild".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Fields::schemas(schemas);
        schemas.push((CredentialText::name().into_owned(), CredentialText::schema()));
    }
}

/// The fields of a build whose Dockerfile is there; secrets are offered as `ARG`s, or not, or there is nothing
/// that could read them.
fn variant(origin: Origin, as_arguments: Option<bool>) -> Option<Object> {
    let RefOr::T(Schema::Object(mut fields)) = Fields::schema() else { return None };
    let (title, wanted, unwanted): (_, _, &[&str]) = match origin {
        Origin::Text => {
            ("A Dockerfile's text is built", "dockerfile", &["dockerfile_path", "source"])
        }
        Origin::Path => {
            ("A Dockerfile in a context is built", "context", &["dockerfile", "source"])
        }
        Origin::Source => {
            ("An image is indexed", "source", &["dockerfile", "dockerfile_path", "context"])
        }
    };
    let null = || RefOr::from(ObjectBuilder::new().schema_type(Type::Null));
    fields.properties.extend(unwanted.iter().map(|name| ((*name).to_owned(), null())));
    if let Some(RefOr::T(Schema::Object(field))) = fields.properties.get_mut(wanted) {
        field.schema_type = SchemaType::Type(Type::String);
    }
    match origin {
        Origin::Text => {}
        Origin::Path => {
            let context = Ref::from_schema_name(NewContext::name());
            fields.properties.insert(wanted.to_owned(), RefOr::Ref(context));
        }
        Origin::Source => {
            fields.properties.insert(wanted.to_owned(), source_schema().into());
        }
    }
    fields.required.push(wanted.to_owned());
    let mut title = title.to_owned();
    if let Some(as_arguments) = as_arguments {
        let name = "secrets_as_build_args";
        if let Some(RefOr::T(Schema::Object(field))) = fields.properties.get_mut(name) {
            field.enum_values = Some(vec![json!(as_arguments)]);
        }
        if as_arguments {
            title.push_str(", and secrets are ARGs too");
            fields.required.push(name.to_owned());
            fields
                .properties
                .insert("secrets".to_owned(), of_secrets(argument_id_pattern()).into());
        }
    }
    fields.title = Some(title);
    Some(fields)
}

fn text(pattern: impl Into<String>) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern))
}

/// A map whose names are of this pattern.
fn map(names: impl Into<String>, values: impl Into<RefOr<Schema>>) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property_names(Some(text(names).build()))
        .additional_properties(Some(AdditionalProperties::RefOr(values.into())))
        .max_properties(Some(MAX_COUNT))
}

fn value() -> ObjectBuilder {
    text(r"^[^\x00]*$").max_length(Some(MAX_VALUE))
}

/// Values of `ARG`s.
pub(super) fn arguments() -> ObjectBuilder {
    map("^[A-Za-z_][A-Za-z0-9_]*$", value()).description(Some(
        "Values of `ARG`s. They are shown with the job, and are in the image's history.",
    ))
}

/// Labels of the image.
pub(super) fn labels() -> ObjectBuilder {
    map(r"^[^=\x00]+$", value()).description(Some("Labels that the image gets."))
}

/// Secrets that are files alone.
pub(super) fn secrets() -> ObjectBuilder {
    of_secrets(ID_PATTERN)
}

fn of_secrets(ids: impl Into<String>) -> ObjectBuilder {
    map(ids, value()).write_only(true).description(Some(
        "Secrets for `RUN --mount=type=secret,id=..`, by their ids. Kept encrypted until the job is final.",
    ))
}

/// Credentials by hosts.
pub(super) fn credentials() -> ObjectBuilder {
    let values = Ref::from_schema_name(CredentialText::name());
    map(REGISTRY_HOST_PATTERN, RefOr::<Schema>::Ref(values)).write_only(true).description(Some(
        "How to log in to the registries of base images, by their hosts. Kept encrypted until the job is final.",
    ))
}
