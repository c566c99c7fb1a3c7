//! The commands that work through a service, against a real one.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::bench::Bench;
use crate::support::layout::{Blob, tar};
use crate::support::service::Settings;

impl Bench {
    fn command(&self, arguments: &[&str], token: Option<&str>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clipwright"));
        command.args(arguments).args(["--server", &self.service.url]);
        command.env_remove("CLIPWRIGHT_TOKEN");
        if let Some(token) = token {
            command.env("CLIPWRIGHT_TOKEN", token);
        }
        command.output().unwrap()
    }

    /// What a command that succeeds prints.
    #[track_caller]
    fn prints(&self, arguments: &[&str], token: Option<&str>) -> String {
        let output = self.command(arguments, token);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &[&str], token: Option<&str>) -> Value {
        let text = self.prints(&[arguments, &["--json"]].concat(), token);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// What a command that fails says.
    #[track_caller]
    fn fails(&self, arguments: &[&str], token: Option<&str>) -> String {
        let output = self.command(arguments, token);
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }
}

const ADMIN: Option<&str> = Some("correct-horse-battery-staple");

/// What a newcomer would do: a workspace, a token for it, a job, a rollout and its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_set_up_and_works() {
    let settings =
        Settings::default().env("CLIPWRIGHT_TOKEN", ADMIN.unwrap()).argument("clip-version", "0");
    let bench = Bench::new(settings).await;
    let source = bench.push(&[Blob::gzip(&tar(&[("etc/hello", b"hello\n")]))]);

    let made = bench.json(&["workspace", "create", "team-a", "--max-queued", "10"], ADMIN);
    assert_eq!((&made["id"], &made["max_queued"]), (&"team-a".into(), &10.into()));
    assert!(bench.fails(&["workspace", "create", "team-a"], ADMIN).contains("already"));
    let set = ["workspace", "set", "team-a", "--fallback", "none", "--unset", "max-queued"];
    let set = bench.json(&set, ADMIN);
    assert_eq!((&set["fallback"], &set["max_queued"]), (&"none".into(), &Value::Null));
    let listed = bench.json(&["workspace", "list"], ADMIN);
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");

    let token = ["token", "create", "--name", "ci", "--role", "workspace", "--workspace", "team-a"];
    let token = bench.json(&token, ADMIN);
    let (id, text) = (token["id"].as_str().unwrap(), token["secret"].as_str().unwrap());
    let own = Some(text);
    assert!(bench.fails(&["token", "list"], own).contains("scope"));
    assert!(bench.fails(&["jobs", "list"], None).contains("401"));

    // A job is followed to its end, and its exit code says how that was.
    let submit = |id: &'static str| ["submit", "pull", source.as_str(), "--image-id", id];
    let job = bench.json(&submit("961eaef6668e480f"), own);
    assert_eq!(
        (&job["state"], &job["workspace"]),
        (&"succeeded".into(), &"team-a".into()),
        "{job:#}"
    );
    assert_eq!(job["result"]["version"]["decided_by"], "default");
    let missing = format!("{source}-not-there");
    let said = bench.fails(&["submit", "pull", &missing], own);
    assert!(said.contains("the job failed"), "{said}");
    let jobs = bench.json(&["jobs", "list"], own);
    assert_eq!(jobs.as_array().unwrap().len(), 2);
    assert_eq!(
        bench.json(&["jobs", "list"], ADMIN),
        Value::Array(Vec::new()),
        "not those of `default`"
    );
    let theirs = bench.json(&["jobs", "list", "--as-workspace", "team-a"], ADMIN);
    assert_eq!(theirs, jobs);
    let id_of = |job: &Value| job["id"].as_str().unwrap().to_owned();
    let first = id_of(&job);
    assert_eq!(bench.json(&["jobs", "show", &first], own)["id"], first.as_str());
    let told = bench.command(&["jobs", "logs", &first, "--follow"], own);
    assert!(told.status.success());
    let told = String::from_utf8(told.stdout).unwrap();
    for name in ["queued", "started", "resolved", "succeeded"] {
        assert!(told.contains(name), "{told}");
    }
    let again = bench.json(&["jobs", "retry", &id_of(&jobs[0])], own);
    assert_eq!((&again["state"], &again["spec"]), (&"queued".into(), &jobs[0]["spec"]));
    let images = bench.json(&["images", "list"], own);
    assert_eq!(images[0]["image_id"], "961eaef6668e480f");

    // Half of them to v2; then none.
    let rollout = ["rollout", "create", "pilot", "--percent", "100", "--workspace", "team-a"];
    assert_eq!(bench.json(&rollout, ADMIN)["state"], "active");
    let job = bench.json(&submit("00000000000000a1"), own);
    let version = &job["result"]["version"];
    assert_eq!(
        (&version["produced"], &version["rollout"]),
        (&2.into(), &"pilot".into()),
        "{job:#}"
    );
    assert_eq!(bench.json(&["rollout", "ramp", "pilot", "50"], ADMIN)["percent"], 50.0);
    let back = bench.json(&["rollout", "rollback", "pilot", "--reason", "slow"], ADMIN);
    assert_eq!((&back["state"], &back["reason"]), (&"rolled_back".into(), &"slow".into()));
    let job = bench.json(&submit("00000000000000a2"), own);
    assert_eq!(job["result"]["version"]["produced"], 1, "{job:#}");
    bench.prints(&["rollout", "delete", "pilot"], ADMIN);
    assert_eq!(bench.json(&["rollout", "list"], ADMIN), Value::Array(Vec::new()));

    bench.prints(&["token", "revoke", id], ADMIN);
    assert!(bench.fails(&["jobs", "list"], own).contains("401"));
}

#[test]
fn shells_complete_the_commands() {
    let scripts = ["bash", "zsh", "fish"].map(|shell| {
        let mut script = Command::new(env!("CARGO_BIN_EXE_clipwright"));
        let output = script.args(["completion", shell]).output().unwrap();
        assert!(output.status.success(), "{shell}");
        String::from_utf8(output.stdout).unwrap()
    });
    for script in &scripts {
        for word in ["rollout", "completion", "credentials-file"] {
            assert!(script.contains(word), "{word}");
        }
    }
    let completed = "COMP_WORDS=(clipwright ro) COMP_CWORD=1; _clipwright clipwright ro clipwright; \
                     echo ${COMPREPLY[@]}";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{}\n{completed}\n", scripts[0])).unwrap();
    let output = Command::new("bash").arg(file.path()).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "rollout");
}
