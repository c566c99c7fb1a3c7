use std::collections::HashMap;
use std::fs;

use clap::{Args as _, Command, FromArgMatches as _};
use secrecy::ExposeSecret;

use super::*;
use crate::egress::Egress;
use crate::oci::{AmbientCredentials, DOCKER_HUB};

/// One run of the program: arguments, environment and settings file.
#[derive(Default)]
struct Run {
    args: Vec<String>,
    env: HashMap<String, String>,
    file: Option<tempfile::NamedTempFile>,
}

impl Run {
    fn args(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(|&arg| arg.to_owned()).collect();
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn file(self, text: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let run = self.env("CONFIG_PATH", file.path().to_str().unwrap());
        Self { file: Some(file), ..run }
    }

    fn load(&self) -> Result<Config, ConfigError> {
        let command = SettingsArgs::augment_args(Command::new("test").no_binary_name(true));
        let matches = command.try_get_matches_from(&self.args).unwrap();
        let args = SettingsArgs::from_arg_matches(&matches).unwrap();
        let home = |name: &str| (name == "HOME").then(|| "/home/u".into());
        Config::resolve(&args, &|name| self.env.get(name).map(Into::into).or_else(|| home(name)))
    }

    fn error(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

#[test]
fn the_defaults_work() {
    let config = Run::default().load().unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert!(config.token.is_none() && config.oci.default_hub_credentials.is_none());
    assert_eq!(config.data_dir, Path::new("/home/u/.local/share/clipwright"));
    let in_data_dir = |name| config.data_dir.join(name);
    assert!(matches!(&config.database,
        DatabaseSettings::Private { data_dir } if *data_dir == config.data_dir));
    assert!(matches!(&config.store,
        StoreSettings::Directory(path) if *path == in_data_dir("images")));
    assert!(matches!(&config.secret_key,
        SecretKeySource::File(path) if *path == in_data_dir("secret.key")));
    assert_eq!((config.workers, config.max_attempts, config.clip_version), (2, 3, None));
    assert_eq!((config.lease.as_secs(), config.poll_interval.as_millis()), (30, 1000));
    assert_eq!((config.layer_concurrency, config.layer_cache_bytes), (None, 1 << 30));
    assert!(config.layer_cache_in_store);
    assert_eq!(config.reference_form, ReferenceForm::Digest);
    assert!(config.oci.is_plain("registry.localhost:5000") && !config.oci.is_plain("ghcr.io"));
    assert_eq!(config.oci.egress, Egress::Private);
    assert_eq!(config.oci.ambient, AmbientCredentials::All);

    let config = Run::default().env("XDG_DATA_HOME", "/xdg").load().unwrap();
    assert_eq!(config.data_dir, Path::new("/xdg/clipwright"));
    let config = Run::default().env("XDG_DATA_HOME", "relative").load().unwrap();
    assert_eq!(config.data_dir, Path::new("/home/u/.local/share/clipwright"));
}

#[test]
fn each_layer_is_stronger_than_the_next() {
    let version = |run: &Run| run.load().unwrap().workers;
    let run = Run::default().file("clipwright: {workers: 3}");
    assert_eq!(version(&run), 3);
    let run = run.env("CONFIG_JSON", r#"{"clipwright": {"workers": 4}}"#);
    assert_eq!(version(&run), 4);
    let run = run.env("CLIPWRIGHT_WORKERS", "5");
    assert_eq!(version(&run), 5);
    let run = run.args(&["--workers", "6"]);
    assert_eq!(version(&run), 6);

    // The first name in the environment is the stronger; empty is as good as unset.
    let run = Run::default().env("B9_CLIP_VERSION", "1");
    assert_eq!(run.load().unwrap().clip_version, Some(ClipVersion::V1));
    let run = run.env("CLIPWRIGHT_CLIP_VERSION", "");
    assert_eq!(run.load().unwrap().clip_version, Some(ClipVersion::V1));
    let run = run.env("CLIPWRIGHT_CLIP_VERSION", "2");
    assert_eq!(run.load().unwrap().clip_version, Some(ClipVersion::V2));

    // The settings file is itself a setting.
    let run = Run::default().file("clipwright: {workers: 3}").env("CLIPWRIGHT_CONFIG", "/nowhere");
    assert!(run.error().starts_with("CLIPWRIGHT_CONFIG in the environment names /nowhere: "));
}

#[test]
fn a_file_in_beta9s_shape() {
    let text = "
database: {redis: {mode: single}}
imageService:
  localCacheEnabled: true
  clipVersion: 1
  registryStore: s3
  buildRegistry: Registry.example.com
  buildRegistryInsecure: false
  registries:
    docker: {username: '', password: ''}
    s3:
      bucketName: images
      region: eu-west-1
      endpoint: http://minio:9000/
      accessKey: visible-id
      secretKey: visible-secret
      forcePathStyle: true
  runner: {tags: {python3.10: py310}}
clipwright:
  insecureRegistries: [localhost:5001, 'Cache:80']
  referenceForm: tag-and-digest
  databaseUrl: postgres://u:visible@db/x
  pollSeconds: 0.25
";
    let config = Run::default().file(text).load().unwrap();
    let StoreSettings::S3(s3) = &config.store else { panic!("{config:?}") };
    assert_eq!((s3.bucket.as_str(), s3.region.as_str()), ("images", "eu-west-1"));
    assert_eq!(s3.endpoint.as_deref(), Some("http://minio:9000"));
    assert_eq!((s3.force_path_style, s3.part_size), (true, 16 << 20));
    assert_eq!(s3.keys.as_ref().unwrap().1.expose_secret(), "visible-secret");
    assert_eq!(
        (config.clip_version, config.poll_interval.as_millis()),
        (Some(ClipVersion::V1), 250)
    );
    assert_eq!(config.oci.insecure_hosts, ["cache:80", "localhost:5001"]);
    assert_eq!(config.oci.secure_hosts, ["registry.example.com"]);
    assert_eq!(config.oci.own_hosts, ["registry.example.com"]);
    assert_eq!(config.oci.egress, Egress::Public);
    assert_eq!(config.oci.ambient, AmbientCredentials::Of(vec![DOCKER_HUB.to_owned()]));
    assert_eq!(config.reference_form, ReferenceForm::TagAndDigest);
    assert!(config.oci.default_hub_credentials.is_none());
    assert!(matches!(config.secret_key, SecretKeySource::Absent));
    assert!(!format!("{config:?}").contains("visible"));

    // JSON is as good, and so are tabs in it.
    let json = "{\n\t\"imageService\": {\n\t\t\"clipVersion\": 1\n\t}\n}";
    assert_eq!(Run::default().file(json).load().unwrap().clip_version, Some(ClipVersion::V1));
    assert_eq!(Run::default().file("").load().unwrap().clip_version, None);
}

#[test]
fn a_bad_value_is_refused_by_key_and_source() {
    let run = Run::default().file("imageService: {clipVersion: 7}");
    let path = run.file.as_ref().unwrap().path().display().to_string();
    let expected =
        format!("imageService.clipVersion = 7 in settings file {path}: expected 0, 1 or 2");
    assert_eq!(run.error(), expected);
    assert_eq!(
        Run::default().env("B9_CLIP_VERSION", "two").error(),
        "B9_CLIP_VERSION = two in the environment: expected 0, 1 or 2"
    );
    assert_eq!(
        Run::default().args(&["--workers", "0"]).error(),
        "--workers = 0 on the command line: expected 1 to 256"
    );
    assert_eq!(
        Run::default().env("CONFIG_JSON", r#"{"imageService": []}"#).error(),
        "imageService in CONFIG_JSON: expected a mapping"
    );
    assert_eq!(
        Run::default().env("CONFIG_JSON", r#"{"clipwright": {"wokers": 1}}"#).error()[..44],
        *"clipwright.wokers in CONFIG_JSON is no setti"
    );
    assert!(
        Run::default().env("CONFIG_JSON", "a: b: c").error().starts_with("CONFIG_JSON is neither")
    );

    for args in [
        ["--listen", "8080"],
        ["--listen", ""],
        ["--lease-seconds", "1.5"],
        ["--max-attempts", "101"],
        ["--poll-seconds", "NaN"],
        ["--store", "gcs"],
        ["--store-dir", ""],
        ["--s3-bucket", "a/b"],
        ["--s3-endpoint", "minio:9000"],
        ["--s3-endpoint", "http://key:secret@minio"],
        ["--s3-force-path-style", "yes"],
        ["--s3-part-mib", "4"],
        ["--insecure-registry", "http://x"],
        ["--reference-form", "tag"],
        ["--log-format", "xml"],
        ["--log-level", "verbose"],
    ] {
        let error = Run::default().args(&args).error();
        assert!(error.starts_with(&format!("{} = {} on the", args[0], args[1])), "{error}");
    }
}

#[test]
fn secrets_are_not_shown_when_they_are_bad() {
    for (name, value) in [
        ("CLIPWRIGHT_TOKEN", "visible token"),
        ("DATABASE_URL", "mysql://visible"),
        ("CLIPWRIGHT_SECRET_KEY", "visible"),
    ] {
        let error = Run::default().env(name, value).error();
        assert!(error.starts_with(&format!("{name} in the environment: expected")), "{error}");
        assert!(!error.contains("visible"), "{error}");
    }
    // Read as a number it would not be what was written.
    let error = Run::default().file("clipwright: {token: 1e3}").error();
    assert!(error.contains("clipwright.token in settings file"), "{error}");
    assert!(error.ends_with("in quotes"), "{error}");
}

#[test]
fn a_registry_holds_archives_where_the_images_are_unless_said_otherwise() {
    let run = |more: &[&str]| {
        let args = ["--store", "registry", "--build-registry", "Registry.example:5000"];
        Run::default()
            .args(&[&args, more].concat())
            .env("CLIPWRIGHT_BUILD_REGISTRY_CREDENTIALS", "visible:secret")
    };
    let config = run(&["--build-repository", "team/images"]).load().unwrap();
    let StoreSettings::Registry(store) = &config.store else { panic!("{config:?}") };
    assert_eq!((&*store.host, &*store.repository), ("registry.example:5000", "team/images"));
    assert!(store.credentials.is_some() && store.scratch == config.data_dir.join("spool"));
    assert!(!format!("{config:?}").contains("visible"));
    let config = run(&["--store-repository", "team/archives"]).load().unwrap();
    let StoreSettings::Registry(store) = &config.store else { panic!("{config:?}") };
    assert_eq!(store.repository, "team/archives");
    for bad in ["", "Team", "a//b", "a:b"] {
        let error = run(&["--store-repository", bad]).error();
        assert!(error.contains("a repository name such as team/archives"), "{error}");
    }
}

#[test]
fn settings_that_need_each_other() {
    let error = Run::default().args(&["--store", "s3"]).error();
    assert!(error.starts_with("imageService.registries.s3.bucketName is not set"), "{error}");
    let error = Run::default().env("CLIPWRIGHT_S3_ACCESS_KEY", "AK").error();
    assert!(error.starts_with("imageService.registries.s3.secretKey is not set"), "{error}");
    let error = Run::default().env("CLIPWRIGHT_DOCKER_PASSWORD", "p").error();
    assert!(error.starts_with("imageService.registries.docker.username is not set"), "{error}");
    let run = Run::default()
        .env("CLIPWRIGHT_DOCKER_USERNAME", "visible")
        .env("CLIPWRIGHT_DOCKER_PASSWORD", "p");
    let config = run.load().unwrap();
    assert!(config.oci.default_hub_credentials.is_some());
    assert!(!format!("{config:?}").contains("visible"));
}

/// A secret that did not arrive must not look like none that was wanted.
#[test]
fn secrets_set_to_nothing_are_refused() {
    let secrets = setting::all().filter(|setting| setting.secret);
    for setting in secrets {
        for name in setting.env {
            let error = Run::default().env(name, "").error();
            assert!(error.starts_with(&format!("{name} in the environment is empty")), "{error}");
        }
        let Some(key) = setting.file.strip_prefix("clipwright.") else { continue };
        for nothing in ["''", "", "null", "~"] {
            let error = Run::default().file(&format!("clipwright: {{{key}: {nothing}}}")).error();
            let wanted = format!("{} in settings file", setting.file);
            assert!(error.starts_with(&wanted) && error.contains("is empty"), "{error}");
        }
    }
    let blank = Run::default().env("CLIPWRIGHT_DOCKER_PASSWORD", " ").error();
    assert!(blank.contains("CLIPWRIGHT_DOCKER_PASSWORD in the environment: expected"), "{blank}");
    // beta9's own keys stand empty in its defaults.
    let text = "imageService: {registries: {s3: {accessKey: '', secretKey: null}}}";
    assert!(Run::default().file(text).load().is_ok());
}

#[test]
fn the_build_registry_is_insecure_by_its_name_or_by_word() {
    let run = |host: &str| Run::default().env("CLIPWRIGHT_BUILD_REGISTRY", host);
    let plain = |run: &Run, host: &str| run.load().unwrap().oci.is_plain(host);
    for (host, by_name) in [("ghcr.io", false), ("h:5000", false), ("localhost:5000", true)] {
        assert_eq!(plain(&run(host), host), by_name, "{host}");
        for word in ["true", "false"] {
            let written = run(host).env("CLIPWRIGHT_BUILD_REGISTRY_INSECURE", word);
            assert_eq!(plain(&written, host), word == "true", "{host}");
            let written = run(host).args(&["--build-registry-insecure", word]);
            assert_eq!(plain(&written, host), word == "true", "{host}");
            let written =
                run(host).file(&format!("imageService: {{buildRegistryInsecure: {word}}}"));
            assert_eq!(plain(&written, host), word == "true", "{host}");
        }
    }
}

#[test]
fn credentials_go_in_the_clear_only_where_that_is_written_out() {
    let run = |host: &str| {
        Run::default()
            .env("CLIPWRIGHT_BUILD_REGISTRY", host)
            .env("CLIPWRIGHT_BUILD_REGISTRY_CREDENTIALS", "me:visible")
    };
    assert!(!run("ghcr.io").load().unwrap().oci.is_plain("ghcr.io"));
    let listed = run("ghcr.io").args(&["--insecure-registry", "ghcr.io"]);
    let error = listed.error();
    assert!(error.contains("ghcr.io would go over plain HTTP"), "{error}");
    assert!(!error.contains("visible"), "{error}");
    let written = listed.env("CLIPWRIGHT_BUILD_REGISTRY_INSECURE", "true");
    assert!(written.load().unwrap().oci.is_plain("ghcr.io"));
    for local in ["registry.localhost:5000", "127.0.0.1:5000", "10.0.0.1:5000"] {
        assert!(run(local).load().unwrap().oci.is_plain(local), "{local}");
    }
}

#[test]
fn what_jobs_may_reach_and_as_whom() {
    let database = |run: Run| run.env("DATABASE_URL", "postgres://db/x");
    for (word, egress) in [("true", Egress::Private), ("false", Egress::Public)] {
        for run in [Run::default(), database(Run::default())] {
            let run = run.env("CLIPWRIGHT_PRIVATE_ADDRESSES", word);
            assert_eq!(run.load().unwrap().oci.egress, egress);
        }
    }
    let of =
        |hosts: &[&str]| AmbientCredentials::Of(hosts.iter().map(|h| (*h).to_owned()).collect());
    for (text, ambient) in [
        ("all", AmbientCredentials::All),
        ("none", of(&[])),
        ("docker.io, GHCR.io", of(&[DOCKER_HUB, "ghcr.io"])),
    ] {
        let run = database(Run::default()).args(&["--ambient-credentials", text]);
        assert_eq!(run.load().unwrap().oci.ambient, ambient);
    }
}

#[test]
fn limits_stand_in_a_section_of_their_own() {
    let run = Run::default().file("clipwright: {spanMib: 8, limits: {pathDepth: 9, treeMib: 2}}");
    let config = run.load().unwrap();
    assert_eq!((config.span, config.limits.path_depth), (8 << 20, 9));
    assert_eq!(config.limits.tree_bytes, 2 << 20);
    assert_eq!(run.args(&["--limit-path-depth", "7"]).load().unwrap().limits.path_depth, 7);
    for (text, expected) in [
        ("clipwright: {limits: {depth: 9}}", "clipwright.limits.depth in settings file"),
        ("clipwright: {limits: {nodes: -1}}", "clipwright.limits.nodes = -1 in settings file"),
        ("clipwright: {limits: 5}", "clipwright.limits in settings file"),
        ("clipwright: {spanMib: 64}", "clipwright.spanMib = 64 in settings file"),
        ("clipwright: {limit: {}}", "clipwright.limit in settings file"),
    ] {
        let error = Run::default().file(text).error();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn others_are_let_in_with_a_token_only() {
    for listen in ["0.0.0.0:80", "[::]:80", "192.0.2.1:80", "[::ffff:192.0.2.1]:80"] {
        let run = Run::default().args(&["--listen", listen]);
        assert!(run.error().contains("needs a token"), "{listen}");
        assert!(run.env("CLIPWRIGHT_TOKEN", "t").load().is_ok(), "{listen}");
    }
    for listen in ["127.0.0.1:0", "127.9.9.9:1", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
        assert!(Run::default().args(&["--listen", listen]).load().is_ok(), "{listen}");
    }
}

#[test]
fn the_token_comes_from_the_stronger_place() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "from-file\n").unwrap();
    let path = file.path().to_str().unwrap();
    let token = |run: &Run| run.load().unwrap().token.unwrap().expose_secret().to_owned();

    let run = Run::default().args(&["--token-file", path]);
    assert_eq!(token(&run), "from-file");
    assert_eq!(token(&run.env("CLIPWRIGHT_TOKEN", "from-env")), "from-file");
    let run = Run::default()
        .file(&format!("clipwright: {{tokenFile: {path}}}"))
        .env("CLIPWRIGHT_TOKEN", "from-env");
    assert_eq!(token(&run), "from-env");
    let run = run.env("CLIPWRIGHT_TOKEN_FILE", path);
    assert_eq!(
        run.error(),
        "CLIPWRIGHT_TOKEN and CLIPWRIGHT_TOKEN_FILE are both set: expected one of them"
    );

    fs::write(file.path(), "two words\n").unwrap();
    let error = Run::default().args(&["--token-file", path]).error();
    assert!(error.starts_with("--token-file on the command line names"), "{error}");
    assert!(!error.contains("two words"));
}
