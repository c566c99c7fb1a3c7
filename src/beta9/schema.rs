//! What a build's options may be, for documents: a source image, or a Dockerfile.

use utoipa::openapi::schema::{
    AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type,
};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::BuildOptions;
use crate::oci::{Credentials, MAX_SOURCE, reference_pattern};

/// The variant that indexes an image, and the one that builds a Dockerfile.
const VARIANTS: [&str; 2] = ["IndexOptions", "DockerfileOptions"];

impl PartialSchema for BuildOptions {
    fn schema() -> RefOr<Schema> {
        let any_of = AnyOfBuilder::new()
            .description(Some("A Dockerfile if there is one, else the source image as it is."));
        let variants = VARIANTS.into_iter().map(Ref::from_schema_name);
        variants.fold(any_of, |any_of, variant| any_of.item(RefOr::<Schema>::Ref(variant))).into()
    }
}

impl ToSchema for BuildOptions {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        let variants = [index(), dockerfile()].map(|object| RefOr::T(object.into()));
        schemas.extend(VARIANTS.map(str::to_owned).into_iter().zip(variants));
    }
}

fn index() -> ObjectBuilder {
    let source = ObjectBuilder::new()
        .schema_type(Type::String)
        .max_length(Some(MAX_SOURCE))
        .pattern(Some(reference_pattern()))
        .description(Some("Image reference, such as `docker.io/library/alpine:3.20`"));
    let credentials = optional(
        "For the source image's registry: `user:password`, or one of beta9's JSON objects as text",
    );
    let user = Credentials::PATTERN.trim_start_matches('^').trim_end_matches('$');
    let credentials = credentials.pattern(Some(format!("^(?:{user})?$"))).max_length(Some(16_384));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("An image is indexed as it is."))
        .property("source_image", source)
        .required("source_image")
        .property("source_image_creds", credentials.write_only(true))
        .property("dockerfile", optional("Empty, if it is there").max_length(Some(0)))
        .property("build_context", optional("The object that holds a context"))
}

fn dockerfile() -> ObjectBuilder {
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .description(Some("The Dockerfile's text"));
    let secrets = ArrayBuilder::new()
        .items(ObjectBuilder::new().schema_type(Type::String))
        .description(Some("`NAME=value`"));
    let context = optional(
        "Digest of a context that was sent to `/v1/contexts`, or the id of an object in the workspace's storage",
    );
    let context = context.pattern(Some("^([A-Za-z0-9_:-][A-Za-z0-9._:-]{0,127})?$"));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("A Dockerfile is built."))
        .property("dockerfile", text)
        .required("dockerfile")
        .property("source_image", optional("The image that it begins with"))
        .property("source_image_creds", optional("For its registry").write_only(true))
        .property("build_context", context)
        .property("build_secrets", secrets)
}

/// A text that may be null.
fn optional(description: &str) -> ObjectBuilder {
    let kinds = SchemaType::from_iter([Type::String, Type::Null]);
    ObjectBuilder::new().schema_type(kinds).description(Some(description))
}
