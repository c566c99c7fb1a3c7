//! What is told of an image that was built: how it came to be, and what is installed in it.

use clipwright::digest::Digest;
use serde_json::{Value, json};

use super::harness::{Yard, build, context};

const IMAGE: &str = "961eaef6668e4830";

/// What refers to a manifest, as clients keep it where the registry doesn't.
fn referrers(yard: &Yard, manifest: &str) -> Vec<Value> {
    let tag = manifest.replace(':', "-");
    let link = yard.images().join(format!("_manifests/tags/{tag}/current/link"));
    let index = yard.json(&std::fs::read_to_string(link).unwrap());
    index["manifests"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_build_says_how_its_image_came_to_be() {
    let yard = Yard::start().await;
    let (_, kept) = yard.service.send_bytes("/v1/contexts", context(&[("a", "a")])).await;
    let text = yard.on_base(
        "ARG WORD\nCOPY a /a\nRUN --mount=type=secret,id=token cat /run/secrets/token | sha256sum > /sum\n",
    );
    let mut body = build(IMAGE, &text);
    body["context"] = kept["digest"].clone();
    body["build_args"] = json!({"WORD": "given"});
    body["secrets"] = json!({"token": "hunter2-hunter2"});
    let job = yard.service.run(body.clone()).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let path = format!("/v1/jobs/{}/provenance", job["id"].as_str().unwrap());
    let (status, said) = yard.service.get(&path).await;
    assert_eq!(status, 200, "{said}");
    assert!(!said.to_string().contains("hunter2"));
    let hex = |digest: &str| json!({"sha256": digest.strip_prefix("sha256:").unwrap()});
    let manifest = job["result"]["manifest_digest"].as_str().unwrap();
    let name = format!("{}/beta9-users:{IMAGE}", yard.registry.address);
    assert_eq!(said["subject"], json!([{"name": name, "digest": hex(manifest)}]));
    let definition = &said["predicate"]["buildDefinition"];
    let parameters = &definition["externalParameters"];
    assert_eq!(parameters["buildArgs"], json!({"WORD": "given"}));
    assert_eq!(parameters["secretIds"], json!(["token"]));
    let base = &job["result"]["build"]["bases"][0];
    let of: Vec<_> = definition["resolvedDependencies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["digest"].clone()))
        .collect();
    let expected = [
        ("dockerfile", hex(&Digest::of(text.as_bytes()).to_string())),
        ("context", hex(kept["digest"].as_str().unwrap())),
        (yard.base.as_str(), hex(base["manifest_digest"].as_str().unwrap())),
    ];
    assert_eq!(of, expected);
    let run = &said["predicate"]["runDetails"];
    assert_eq!(run["metadata"]["invocationId"], job["id"]);
    assert!(run["builder"]["version"]["buildah"].is_string(), "{run}");

    // The same is beside the image, but for values that are for the workspace alone.
    let mut public = said.clone();
    public["predicate"]["buildDefinition"]["externalParameters"]["buildArgs"]["WORD"] = json!("");
    let found = referrers(&yard, manifest);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0]["artifactType"], "application/vnd.in-toto+json");
    let artifact = yard.json(found[0]["digest"].as_str().unwrap());
    assert_eq!(artifact["subject"]["digest"], manifest);
    let beside = yard.json(artifact["layers"][0]["digest"].as_str().unwrap());
    assert_eq!(beside, public);

    // Who builds it again finds it made.
    body["image_id"] = json!("961eaef6668e4831");
    let again = yard.service.run(body.clone()).await;
    assert_eq!(again["result"]["manifest_digest"], manifest, "{again:#}");
    assert_eq!(referrers(&yard, manifest), found);

    // One that isn't pushed has its archive for a subject; what was built elsewhere has nothing to say.
    body["image_id"] = json!("961eaef6668e4832");
    body["clip_version"] = json!(1);
    let packed = yard.service.run(body).await;
    let path = format!("/v1/jobs/{}/provenance", packed["id"].as_str().unwrap());
    let (_, said) = yard.service.get(&path).await;
    let archive = &packed["result"]["archive"];
    assert_eq!(said["subject"][0]["name"], archive["key"]);
    assert_eq!(said["subject"][0]["digest"], hex(archive["digest"].as_str().unwrap()));
    let pulled = yard.service.run(json!({
        "kind": "pull", "image_id": "961eaef6668e4833", "source": yard.base,
    }));
    let path = format!("/v1/jobs/{}/provenance", pulled.await["id"].as_str().unwrap());
    let (status, problem) = yard.service.get(&path).await;
    assert_eq!((status, &problem["code"]), (404, &json!("no_provenance")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("is no build"), "{problem}");
}

#[tokio::test]
async fn what_package_managers_have_written_down_is_listed() {
    let yard = Yard::start().await;
    let dpkg = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n\n\
                Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n";
    let files = [
        ("etc/os-release", "NAME=Test\nID=devuan\n"),
        ("var/lib/dpkg/status", dpkg),
        ("lib/apk/db/installed", "P:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\n\n"),
        (
            "srv/lib/python3/site-packages/PyYAML-6.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: PyYAML\nVersion: 6.0\nLicense: MIT\n\ntext\n",
        ),
        ("srv/node_modules/@s/a/package.json", "{\"name\": \"@s/a\", \"version\": \"1.0.0\"}"),
        ("srv/node_modules/broken/package.json", "{"),
        ("srv/node_modules/a/lib/package.json", "{\"name\": \"not-this\", \"version\": \"1.0.0\"}"),
    ];
    let (_, kept) = yard.service.send_bytes("/v1/contexts", context(&files)).await;
    for (image, version) in [("961eaef6668e4834", 2), ("961eaef6668e4835", 1)] {
        let mut body = build(image, &yard.on_base("COPY . /\n"));
        body["context"] = kept["digest"].clone();
        body["clip_version"] = json!(version);
        let job = yard.service.run(body).await;
        assert_eq!(job["state"], "succeeded", "{job:#}");
        let path = format!("/v1/jobs/{}/packages", job["id"].as_str().unwrap());
        let (status, said) = yard.service.get(&path).await;
        assert_eq!((status, &said["spdxVersion"]), (200, &json!("SPDX-2.3")), "{said}");
        assert_eq!(said["name"], job["result"]["reference"]);
        let listed = said["packages"].as_array().unwrap()[1..].iter();
        let urls: Vec<_> = listed
            .map(|package| package["externalRefs"][0]["referenceLocator"].as_str().unwrap())
            .collect();
        let expected = [
            "pkg:apk/devuan/musl@1.2.5-r0?arch=x86_64",
            "pkg:deb/devuan/libc6@2.36-9?arch=amd64",
            "pkg:npm/%40s/a@1.0.0",
            "pkg:pypi/pyyaml@6.0",
        ];
        assert_eq!(urls, expected, "v{version}");
        assert!(said["creationInfo"].get("comment").is_none(), "{said:#}");
    }
    let failed = yard.service.run(build("961eaef6668e4836", &yard.on_base("RUN exit 1\n"))).await;
    let path = format!("/v1/jobs/{}/packages", failed["id"].as_str().unwrap());
    let (status, problem) = yard.service.get(&path).await;
    assert_eq!((status, &problem["code"]), (404, &json!("no_packages")), "{problem}");
}
