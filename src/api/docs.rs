//! The API document's frame, and the page that shows it. The page's files are part of the
//! binary: nothing is fetched from elsewhere.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi as Document, RefOr, Required};
use utoipa::{Modify, OpenApi};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::AppState;
use super::problem::{Problem, problem_response};

/// Everything in the document but the paths, which come from the router.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Clipwright",
        description = r#"Turns container images into CLIP archives that beta9 mounts lazily.

Work is done by *jobs*. Submit one, follow its events, and find the archive under its image id:

```sh
curl -s localhost:8080/v1/jobs -H 'content-type: application/json' \
  -d '{"kind":"pull","image_id":"961eaef6668e480f","source":"docker.io/library/alpine:3.20"}'
curl -N localhost:8080/v1/jobs/JOB_ID/events
curl -s localhost:8080/v1/images/961eaef6668e480f
```

Every error is an `application/problem+json` object (RFC 9457): `code` is for programs, `detail`
for people, `request_id` for whoever runs the service."#,
    ),
    components(schemas(Problem)),
    modifiers(&TokenScheme),
    tags(
        (name = "jobs", description = "Requests on their way through the queue"),
        (name = "images", description = "Images whose archives are in the store"),
        (name = "workspaces", description = "Tenants and what they set"),
        (name = "rollouts", description = "Rules that send a share of pulls to v2"),
        (name = "tokens", description = "Who may act, and who did"),
        (name = "beta9", description = "Builds as beta9's gateway asks for them"),
        (name = "health", description = "Probes; never need a token"),
    )
)]
pub(super) struct Frame;

struct TokenScheme;

impl Modify for TokenScheme {
    fn modify(&self, document: &mut Document) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("Needed when the service was given a token"))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// Says of every `/v1` operation that a header names the workspace which it is about, and what the
/// answer is if there is none.
pub(super) fn name_the_workspace(document: &mut Document) {
    let name =
        ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[a-z0-9][a-z0-9_-]{0,63}$"));
    let header = ParameterBuilder::new()
        .name("Clipwright-Workspace")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "The workspace that the request is about: for tokens of admins and gateways. A token of a \
             workspace is about its own; whoever names none is about `default`",
        ))
        .schema(Some(name))
        .build();
    for (path, item) in &mut document.paths.paths {
        if !path.starts_with("/v1/") {
            continue;
        }
        let operations =
            [&mut item.get, &mut item.post, &mut item.patch, &mut item.put, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            // A header that is not sent is no null.
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter
                    && parameter.parameter_in == ParameterIn::Header
                    && let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema
                {
                    object.schema_type = SchemaType::Type(Type::String);
                }
            }
            operation.parameters.get_or_insert_default().push(header.clone().into());
            operation
                .responses
                .responses
                .entry("404".to_owned())
                .or_insert_with(|| problem_response("There is no such workspace").into());
        }
    }
}

/// `/docs/api` and `/openapi.json`.
/// `document` gives the latter.
pub(super) fn routes(document: fn() -> &'static str) -> Router<AppState> {
    // The validator badge would send the document's address to a public service.
    let config = Config::from("/openapi.json").validator_url("none").try_it_out_enabled(true);
    Router::new()
        .route("/openapi.json", get(async move || json(document())))
        .merge(SwaggerUi::new("/docs/api").config(config))
}

fn json(document: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], document)
}
