//! The console in a real browser: what people do in it, at the widths and in the colours that they have.
//! `CLIPWRIGHT_SCREENSHOTS=DIR` keeps pictures of its pages.

use serde_json::{Value, json};
use tar::EntryType::{Directory, Regular};

use crate::docs_page::all_is_well;
use crate::support::browser::Browser;
use crate::support::layout::{Blob, Layout, noise};
use crate::support::registry::Registry;
use crate::support::service::{Service, Settings};

const IMAGE: &str = "961eaef6668e480f";
const LOOKS: [(u32, &str); 3] = [(1280, "light"), (768, "dark"), (390, "light")];
/// Keys (`WebDriver`, section 17.4.2).
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
/// A name that would be a script if it were taken for markup.
const HOSTILE: &str = "<img src=x onerror='window.hostile=1'>";

fn layers() -> [Blob; 2] {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, name, content).unwrap();
    };
    add(Directory, "opt", b"");
    add(Regular, "opt/large", &noise(1, 300_000));
    add(Regular, "opt/small", &noise(2, 40_000));
    add(Regular, HOSTILE, &noise(3, 90_000));
    [Blob::gzip(&tar.into_inner().unwrap()), Blob::file("etc/hello", &noise(4, 60_000))]
}

/// Every page at every width: nothing wider than the window, nothing wrong in the browser's log.
async fn look_at_all(browser: &Browser, service: &Service, pages: &[(&str, String)]) {
    for (width, colours) in LOOKS {
        browser.look(width, 900, colours).await;
        for (name, path) in pages {
            browser.open(&format!("{}/{path}", service.url)).await;
            browser.text("main h1", |text| !text.is_empty()).await;
            settled(browser).await;
            let wide = "return document.documentElement.scrollWidth - window.innerWidth";
            let wider = browser.run(wide).await.as_f64().unwrap();
            assert!(wider <= 0.0, "{name} is wider than {width} by {wider}");
            browser.picture(&format!("{name}-{width}")).await;
        }
    }
    all_is_well(browser, service).await;
}

/// Until nothing says that it is being loaded.
async fn settled(browser: &Browser) {
    let main = "return document.querySelector('main').innerText.includes('Loading …')";
    while browser.run(main).await == true {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_image_goes_from_its_pull_to_its_files() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(directory.path());
    let source = registry.push(Layout::of(&layers()).path(), "app");
    let service = Service::start(Settings::default()).await;
    let browser = Browser::start().await;
    browser.look(1280, 900, "light").await;
    browser.open(&format!("{}/", service.url)).await;
    browser.text("main", |text| text.contains("There are no such jobs")).await;

    // Submitted in a form, followed to its end.
    browser.click(".head button.primary").await;
    browser.write("dialog [name=source]", &source).await;
    browser.write("dialog [name=image_id]", IMAGE).await;
    browser.click("dialog button.primary").await;
    browser.text(".facts .state", |text| text == "succeeded").await;
    browser.text(".log li.succeeded", |text| text.contains(&format!("{IMAGE}.clip"))).await;
    browser.text(".timeline .name", |text| text == "Reading layers").await;
    let job = browser.run("return location.hash").await;
    let job = job.as_str().unwrap().trim_start_matches('/').to_owned();

    // What makes it big, and which layer that is in.
    browser.click(&format!("a[href='#/images/{IMAGE}']")).await;
    browser.text(".treemap .cell", |text| text.starts_with("large")).await;
    browser.text("table td", |text| text == HOSTILE).await;
    browser.text(".treemap .cell", |text| text.starts_with(HOSTILE)).await;
    let sum = "return document.querySelectorAll('.treemap button.dir').length";
    assert_eq!(browser.run(sum).await, 2, "/opt and /etc");
    // By keys: what is in a directory covers the middle of its area.
    browser.run("document.querySelector(\".treemap button[aria-label^='opt:']\").focus()").await;
    browser.press(ENTER).await;
    browser.text(".crumbs", |text| text.contains("opt")).await;
    browser.click(".treemap button[aria-label^='large:']").await;
    browser.text(".chosen", |text| text.contains("/opt/large")).await;
    assert_eq!(browser.run("return window.hostile === undefined").await, true);

    // Once more as v1, beside it; one that fails says why, and where that is explained.
    let twin = json!({"kind": "pull", "image_id": "00000000000000f1", "source": source, "clip_version": 1});
    assert_eq!(service.run(twin).await["state"], "succeeded");
    let missing =
        json!({"kind": "pull", "image_id": "00000000000000f2", "source": format!("{source}-not")});
    let failed = service.run(missing).await["id"].as_str().unwrap().to_owned();
    browser.open(&format!("{}/#/compare", service.url)).await;
    browser.text(".side .version", |text| text == "v1").await;
    browser.text(".side .version", |text| text == "v2").await;
    browser.open(&format!("{}/#/jobs/{failed}", service.url)).await;
    browser.text(".failure a", |text| text == "image_not_found").await;
    let link = browser.run("return document.querySelector('.failure a').href").await;
    assert_eq!(link, format!("{}/docs/troubleshooting.html#image_not_found", service.url));

    // A job that waits is cancelled; done once more it is another.
    let (_, workspace) = service.patch("/v1/workspaces/default", &json!({"max_running": 0})).await;
    assert_eq!(workspace["max_running"], 0, "{workspace}");
    browser.click(".head .actions button").await;
    browser.text(".facts .state", |text| text == "queued").await;
    browser.click(".head .actions button.danger").await;
    browser.text(".facts .state", |text| text == "cancelled").await;

    let pages = [
        ("jobs", "#/jobs".to_owned()),
        ("job", job),
        ("failed", format!("#/jobs/{failed}")),
        ("images", "#/images".to_owned()),
        ("image", format!("#/images/{IMAGE}")),
        ("compare", "#/compare".to_owned()),
        ("workspaces", "#/workspaces".to_owned()),
        ("tokens", "#/tokens".to_owned()),
        ("audit", "#/audit".to_owned()),
        ("health", "#/health".to_owned()),
    ];
    look_at_all(&browser, &service, &pages).await;
}

#[tokio::test]
async fn a_rollout_is_made_ramped_paused_and_rolled_back() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(directory.path());
    let source = registry.push(Layout::of(&layers()).path(), "app");
    let service = Service::start(Settings::default()).await;
    let browser = Browser::start().await;
    browser.look(1280, 900, "dark").await;
    browser.open(&format!("{}/#/rollouts", service.url)).await;
    browser.click(".head button.primary").await;
    browser.write("dialog [name=name]", "pilot").await;
    browser.write("dialog [name=percent]", "50").await;
    browser.click("dialog button.primary").await;
    browser.text(".facts .state", |text| text == "active").await;

    for number in 0..6 {
        let image = format!("{number:016x}");
        let pull = json!({"kind": "pull", "image_id": image, "source": source});
        let made = &service.run(pull).await["result"]["clip_version"];
        let start = json!({
            "id": uuid::Uuid::new_v4(), "clip_version": made, "temperature": "cold",
            "outcome": "succeeded", "start_seconds": 1.5, "first_exec_ms": 300, "wire_bytes": 1_000_000,
        });
        let (status, _) =
            service.post(&format!("/v1/images/{image}/starts"), &json!({"starts": [start]})).await;
        assert_eq!(status, 200);
    }
    browser.open(&format!("{}/#/rollouts/pilot", service.url)).await;
    browser.text("figcaption", |text| text.starts_with("Time of a pull")).await;
    let drawn = "return [...document.querySelectorAll('.plot canvas')].filter(c => \
        c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(x => x)).length";
    while browser.run(drawn).await.as_u64().unwrap() < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    let rollout = async || service.get("/v1/rollouts/pilot").await.1;
    let slide = "const slider = document.querySelector('.ramp input'); slider.value = 75; \
        slider.dispatchEvent(new Event('input', {bubbles: true}))";
    browser.run(slide).await;
    browser.click(".ramp button").await;
    browser.text(".ramp b", |text| text == "75 %").await;
    browser.click(".head .actions button").await;
    browser.text(".facts .state", |text| text == "paused").await;
    assert_eq!(rollout().await["percent"], 75.0);
    browser.click(".head .actions button.danger").await;
    browser.write("dialog [name=reason]", "slow starts").await;
    browser.click("dialog footer button.danger").await;
    browser.text(".facts dd", |text| text.contains("slow starts")).await;
    assert_eq!(rollout().await["state"], "rolled_back");
    let pages = [("rollouts", "#/rollouts".to_owned()), ("rollout", "#/rollouts/pilot".to_owned())];
    look_at_all(&browser, &service, &pages).await;
}

#[tokio::test]
async fn a_token_is_asked_for_and_stays_in_the_tab() {
    let token = "a-token-of-the-settings";
    let settings = Settings::default().argument("role", "api").env("CLIPWRIGHT_TOKEN", token);
    let service = Service::start(settings).await;
    let browser = Browser::start().await;
    browser.look(390, 800, "dark").await;
    browser.open(&format!("{}/#/tokens", service.url)).await;
    browser.text(".gate h1", |text| !text.is_empty()).await;
    browser.picture("gate").await;
    browser.write(".gate input", "wrong").await;
    browser.click(".gate button").await;
    browser.text(".gate [role=alert]", |text| text.contains("token")).await;
    browser.write(".gate input", token).await;
    browser.click(".gate button").await;
    browser.text("main h1", |text| text == "Tokens").await;
    let kept =
        "return [JSON.stringify(sessionStorage), JSON.stringify(localStorage) + document.cookie]";
    let kept = browser.run(kept).await;
    assert!(kept[0].as_str().unwrap().contains(token), "{kept}");
    assert!(!kept[1].as_str().unwrap().contains(token), "{kept}");

    // One is made, and its text is shown once; it works.
    browser.click(".head button.primary").await;
    browser.write("dialog [name=name]", "ci").await;
    browser.click("dialog button.primary").await;
    let secret = browser.text(".notice code", |text| text.starts_with("cw_")).await;
    browser.picture("token").await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let asked = client.get(format!("{}/v1/jobs", service.url)).bearer_auth(secret);
    assert_eq!(asked.send().await.unwrap().status().as_u16(), 200);

    // Keys alone: past the pages to the content.
    let focus = "return document.activeElement.className";
    browser.open(&format!("{}/#/tokens", service.url)).await;
    browser.text("main h1", |text| text == "Tokens").await;
    browser.press(TAB).await;
    assert_eq!(browser.run(focus).await, "skip");
    browser.press(ENTER).await;
    assert_eq!(browser.run("return document.activeElement.id").await, "main");
    let at = browser.run("return location.hash").await;
    assert_eq!(at, Value::from("#/tokens"), "it is no other page");
}
