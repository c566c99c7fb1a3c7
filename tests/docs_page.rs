//! The pages of the documentation and of the API, in a real browser that reaches this machine and nothing
//! else.

use crate::support::browser::Browser;
use crate::support::service::{Service, Settings};

/// Runs the example of an operation of the page; the status that it shows.
async fn run_example(browser: &Browser, tag: &str, operation: &str) -> String {
    let block = format!("#operations-{tag}-{operation}");
    browser.click(&format!("{block} .opblock-summary-control")).await;
    browser.click(&format!("{block} button.execute")).await;
    let status = format!("{block} .live-responses-table .response .response-col_status");
    let shown = browser.text(&status, |text| !text.trim().is_empty()).await;
    shown.lines().next().unwrap_or_default().trim().to_owned()
}

/// All that was asked for came from the service, and the browser found nothing wrong.
pub(crate) async fn all_is_well(browser: &Browser, service: &Service) {
    let is_ours = |url: &&String| {
        ["data:", "about:", "blob:", &service.url].iter().any(|o| url.starts_with(o))
    };
    let asked = browser.requests().await;
    let foreign: Vec<_> = asked.iter().filter(|url| !is_ours(url)).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[tokio::test]
async fn the_api_page_comes_up_without_a_network_and_its_examples_run() {
    // Nobody works here: the example's image is in a registry that can't be reached.
    let service = Service::start(Settings::default().argument("role", "api")).await;
    let browser = Browser::start().await;
    browser.open(&format!("{}/docs/api/", service.url)).await;
    browser.text("h2.title, h1.title", |text| text.contains("Clipwright")).await;

    assert_eq!(run_example(&browser, "jobs", "submit_job").await, "202");
    assert_eq!(run_example(&browser, "images", "list_images").await, "200");
    let (_, jobs) = service.get("/v1/jobs").await;
    assert_eq!(jobs["jobs"][0]["spec"]["image_id"], "961eaef6668e480f", "{jobs}");
    all_is_well(&browser, &service).await;
}

#[tokio::test]
async fn the_documentation_comes_up_without_a_network_and_is_found_by_words() {
    let service = Service::start(Settings::default().argument("role", "api")).await;
    let browser = Browser::start().await;
    for (width, colours) in [(1280, "light"), (768, "dark"), (390, "light")] {
        browser.look(width, 900, colours).await;
        browser.open(&format!("{}/docs/troubleshooting.html#image_not_found", service.url)).await;
        browser.text("main h1", |text| text == "Troubleshooting").await;
        let there = "return document.getElementById('image_not_found') !== null";
        assert_eq!(browser.run(there).await, true);
        browser.picture(&format!("docs-{width}")).await;
    }
    browser.look(1280, 900, "light").await;
    browser.open(&format!("{}/docs/?search=fallback", service.url)).await;
    browser.text("#mdbook-searchresults a, #searchresults a", |text| !text.is_empty()).await;
    browser.picture("docs-search").await;
    all_is_well(&browser, &service).await;
}
