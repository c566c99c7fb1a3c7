//! Where requests may not go, whoever points there.

use wiremock::matchers::{path, path_regex};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::support::*;
use crate::egress::Egress;
use crate::error::{Classify, Fault};
use crate::oci::{Credentials, OciError, OciSettings, Source};

const METADATA: &str = "http://169.254.169.254/latest/meta-data";

async fn open_with(address: &str, settings: &OciSettings) -> Source {
    let image = format!("{address}/r:t").parse().unwrap();
    Source::open(&image, settings, Some(Credentials::Anonymous)).await.unwrap()
}

fn public() -> OciSettings {
    OciSettings { egress: Egress::Public, ..settings() }
}

fn is_refused(error: &OciError) {
    assert!(matches!(error, OciError::OutOfReach { .. }), "{error}");
    assert_eq!((error.is_transient(), error.fault()), (false, Fault::User));
    assert!(error.to_string().ends_with("is at an address that this service does not reach"));
}

#[tokio::test]
async fn registries_at_addresses_that_are_never_reached() {
    for address in ["169.254.169.254", "169.254.1.1:5000", "[fe80::1]:5000", "100.100.100.200"] {
        let source = open_with(address, &settings()).await;
        is_refused(&resolve(&source).await.unwrap_err());
    }
}

#[tokio::test]
async fn private_addresses_by_setting() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    image.serve(&server).await;
    let address = server.address().to_string();
    let named = format!("localhost:{}", server.address().port());
    for host in [&address, &named] {
        resolve(&open_with(host, &settings()).await).await.unwrap();
        is_refused(&resolve(&open_with(host, &public()).await).await.unwrap_err());
        // What the operator has named may be anywhere.
        let own = OciSettings { own_hosts: vec![host.clone()], ..public() };
        resolve(&open_with(host, &own).await).await.unwrap();
    }
    // Whether somebody is there doesn't show.
    let error = resolve(&open_with("127.0.0.1:1", &public()).await).await.unwrap_err();
    is_refused(&error);
}

#[tokio::test]
async fn redirects_to_where_nobody_may_go() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    let what = format!("blobs/{}", image.layer_digest());
    let hop = ResponseTemplate::new(307).insert_header("Location", "/hop");
    get(&what).respond_with(hop).mount(&server).await;
    let away = ResponseTemplate::new(307).insert_header("Location", METADATA);
    Mock::given(path("/hop")).respond_with(away).expect(1).mount(&server).await;
    let error = layer(&open(server.address()).await, &image).await.unwrap_err();
    is_refused(&error);
}

#[tokio::test]
async fn token_services_where_nobody_may_go() {
    let server = MockServer::start().await;
    let challenge = format!("Bearer realm=\"{METADATA}\"");
    let refusal = ResponseTemplate::new(401).insert_header("WWW-Authenticate", challenge.as_str());
    Mock::given(path_regex("^/v2/")).respond_with(refusal).mount(&server).await;
    is_refused(&resolve(&open(server.address()).await).await.unwrap_err());
}
