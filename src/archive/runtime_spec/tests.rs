use super::*;

fn spec_of(image: &ImageConfig) -> (Value, Vec<String>) {
    let passwd = b"root:x:0:0::/root:\nweb:x:33:34::/var/www:\n";
    let (bytes, warnings) = runtime_spec(image, Some(passwd), Some(b"logs:x:4:web\n"));
    (serde_json::from_slice(&bytes).unwrap(), warnings)
}

/// What `umoci unpack` makes of whole images is compared in `tests/pack.rs`.
#[test]
fn the_image_config_is_in_it() {
    let image = ImageConfig {
        env: ["PATH=/bin", "EMPTY=", "nameless", "HOME=/elsewhere"].map(str::to_owned).into(),
        entrypoint: vec!["/entry".into()],
        cmd: vec!["a".into(), "b".into()],
        user: "web".into(),
        volumes: vec!["/data".into()],
        ..ImageConfig::default()
    };
    let (spec, warnings) = spec_of(&image);
    let process = &spec["process"];
    assert_eq!(process["args"], json!(["/entry", "a", "b"]));
    // In its own place and not twice; the home is the user's.
    assert_eq!(process["env"], json!(["PATH=/bin", "TERM=xterm", "EMPTY=", "HOME=/var/www"]));
    assert_eq!(process["user"], json!({ "uid": 33, "gid": 34, "additionalGids": [4] }));
    assert_eq!(process["cwd"], "/");
    let mounts = spec["mounts"].as_array().unwrap();
    assert_eq!(mounts[mounts.len() - 1]["destination"], "/data");
    assert_eq!(mounts[mounts.len() - 1]["source"], "none");
    assert_eq!(warnings, ["\"nameless\" in the image's environment has no name"]);
}

#[test]
fn an_unknown_user_becomes_root_and_is_told_of() {
    let image = ImageConfig { user: "ghost".into(), ..ImageConfig::default() };
    let (spec, warnings) = spec_of(&image);
    assert_eq!(spec["process"]["user"], json!({ "uid": 0, "gid": 0 }));
    assert!(warnings[0].contains("\"ghost\": no such user"), "{warnings:?}");
    assert_eq!(spec["process"]["args"], json!(["sh"]));
}

#[test]
fn times_print_as_in_go() {
    for text in [
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.1Z",
        "2026-01-02T03:04:05.000000006+02:00",
        "2026-01-02T03:04:05.123456-11:30",
    ] {
        assert_eq!(created(DateTime::parse_from_rfc3339(text).ok()), text);
    }
    assert_eq!(created(None), "0001-01-01T00:00:00Z");
}
