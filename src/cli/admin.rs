//! `clipwright workspace`, `token` and `rollout`: what the service's API does, for people. Each prints
//! what the service answered, as JSON or as a table.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Call, Client};
use super::rollout_report::ReportArgs;
use super::run_async;
use super::say;
use super::service::ServiceArgs;
use super::storage::StorageAction;
use crate::archive::Fallback;
use crate::rollouts::{KindName, RolloutState, SourcePattern, Sticky};
use crate::workspace::WorkspaceId;
use crate::workspaces::{Role, Scope};

/// Show and change workspaces.
#[derive(Debug, Args)]
pub(super) struct WorkspaceCommand {
    #[command(subcommand)]
    action: WorkspaceAction,
    #[command(flatten)]
    output: Output,
}

/// Show and change tokens.
#[derive(Debug, Args)]
pub(super) struct TokenCommand {
    #[command(subcommand)]
    action: TokenAction,
    #[command(flatten)]
    output: Output,
}

/// Show and change rollouts.
#[derive(Debug, Args)]
pub(super) struct RolloutCommand {
    #[command(subcommand)]
    action: RolloutAction,
    #[command(flatten)]
    output: Output,
}

/// Where to ask, and how to print.
#[derive(Debug, Args)]
pub(super) struct Output {
    #[command(flatten)]
    service: ServiceArgs,
    /// Print JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
enum WorkspaceAction {
    /// Make a workspace
    Create {
        /// Its name
        id: WorkspaceId,
        #[command(flatten)]
        settings: SettingArgs,
    },
    /// List workspaces
    List,
    /// Show a workspace
    Show {
        /// Its name
        id: WorkspaceId,
    },
    /// Change what a workspace sets
    Set {
        /// Its name
        id: WorkspaceId,
        #[command(flatten)]
        settings: SettingArgs,
        /// Settings to take back, such as clip-version
        #[arg(long, value_name = "SETTING", value_parser = setting)]
        unset: Vec<String>,
    },
    /// The bucket that builds of a workspace may take contexts from
    Storage {
        #[command(subcommand)]
        action: StorageAction,
    },
}

/// What a workspace sets.
#[derive(Debug, Args)]
struct SettingArgs {
    /// Archive version of pulls that ask for none
    #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u8).range(1..=2))]
    clip_version: Option<u8>,
    /// What becomes of images that can't be served as v2: v1 or none
    #[arg(long, value_name = "v1|none")]
    fallback: Option<Fallback>,
    /// A registry that jobs may pull from; may be repeated
    #[arg(long = "allow-registry", value_name = "HOST")]
    allowed_registries: Vec<String>,
    /// How many jobs may wait
    #[arg(long, value_name = "N")]
    max_queued: Option<u32>,
    /// How many jobs may run at a time
    #[arg(long, value_name = "N")]
    max_running: Option<u32>,
}

const SETTINGS: [&str; 5] =
    ["clip_version", "fallback", "allowed_registries", "max_queued", "max_running"];

fn setting(text: &str) -> Result<String, String> {
    let name = text.replace('-', "_");
    if SETTINGS.contains(&name.as_str()) {
        Ok(name)
    } else {
        Err(format!("expected one of {}", SETTINGS.join(", ").replace('_', "-")))
    }
}

impl SettingArgs {
    fn body(&self) -> Map<String, Value> {
        let registries = Some(&self.allowed_registries).filter(|hosts| !hosts.is_empty());
        let values = [
            self.clip_version.map(Value::from),
            self.fallback.map(|fallback| json!(fallback)),
            registries.map(|hosts| json!(hosts)),
            self.max_queued.map(Value::from),
            self.max_running.map(Value::from),
        ];
        let given = SETTINGS.into_iter().zip(values);
        given.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

#[derive(Debug, Subcommand)]
enum TokenAction {
    /// Make a token: its text is printed once, and kept nowhere
    Create {
        /// What it is for, in words
        #[arg(long)]
        name: String,
        /// Whose things it may touch: admin, gateway or workspace
        #[arg(long, value_parser = role)]
        role: Role,
        /// Of role workspace: which
        #[arg(long, value_name = "ID")]
        workspace: Option<WorkspaceId>,
        /// What it may do, such as jobs:read; may be repeated; all that its role may when absent
        #[arg(long = "scope", value_name = "SCOPE", value_parser = scope)]
        scopes: Vec<Scope>,
        /// Days that it lasts; for ever when absent
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=3660))]
        expires_in_days: Option<u64>,
        /// How often it may ask; as the service's settings say when absent
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        requests_per_minute: Option<u32>,
    },
    /// List tokens
    List,
    /// Give a token another text; the old one is worth nothing from now on
    Rotate {
        /// The token's id
        #[arg(value_parser = token_id)]
        id: uuid::Uuid,
    },
    /// End a token
    Revoke {
        /// The token's id
        #[arg(value_parser = token_id)]
        id: uuid::Uuid,
    },
}

fn token_id(text: &str) -> Result<uuid::Uuid, String> {
    text.parse()
        .map_err(|_| "expected a token's id, as `clipwright token list` shows them".to_owned())
}

fn percent(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    let known = number.filter(|number| (0.0..=100.0).contains(number));
    known.ok_or_else(|| "expected a number from 0 to 100, without a %".to_owned())
}

fn role(text: &str) -> Result<Role, String> {
    Role::of(text).ok_or_else(|| "expected admin, gateway or workspace".to_owned())
}

fn scope(text: &str) -> Result<Scope, String> {
    let all = || Scope::ALL.map(Scope::as_str).join(", ");
    Scope::of(text).ok_or_else(|| format!("expected one of {}", all()))
}

#[derive(Debug, Subcommand)]
enum RolloutAction {
    /// Make a rollout
    Create {
        /// Names it
        name: String,
        /// The share that gets v2, 0 to 100
        #[arg(long, value_parser = percent)]
        percent: f64,
        /// Another salt chooses others; the name when absent
        #[arg(long)]
        salt: Option<String>,
        /// What always gets the same version: image or workspace
        #[arg(long, value_parser = sticky, default_value = "image")]
        sticky: Sticky,
        /// Only this workspace; may be repeated
        #[arg(long = "workspace", value_name = "ID")]
        workspaces: Vec<WorkspaceId>,
        /// Only pulls from here, such as registry.example/team/*; may be repeated
        #[arg(long = "source", value_name = "PATTERN")]
        sources: Vec<SourcePattern>,
        /// Only jobs of this kind, such as pull; may be repeated
        #[arg(long = "kind", value_name = "KIND")]
        kinds: Vec<KindName>,
        /// Chance of a false alarm that its guard may take; 0: nobody guards it; 0.01 when absent
        #[arg(long, value_name = "CHANCE")]
        guard: Option<f64>,
    },
    /// List rollouts
    List,
    /// Show a rollout
    Show {
        /// Its name
        name: String,
    },
    /// Change the share that gets v2
    Ramp {
        /// Its name
        name: String,
        /// 0 to 100
        #[arg(value_parser = percent)]
        percent: f64,
    },
    /// Have a rollout decide nothing, as if it were not there
    Pause {
        /// Its name
        name: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Have a rollout decide again
    Resume {
        /// Its name
        name: String,
    },
    /// Send everything that a rollout matches to v1, from the next claim on
    Rollback {
        /// Its name
        name: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Compare v1 and v2: what came of the jobs that it decided, and how their images started
    Report(ReportArgs),
    /// Remove a rollout
    Delete {
        /// Its name
        name: String,
    },
}

fn sticky(text: &str) -> Result<Sticky, String> {
    Sticky::of(text).ok_or_else(|| "expected image or workspace".to_owned())
}

impl WorkspaceCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let of = |id: &WorkspaceId| format!("/v1/workspaces/{id}");
        let call: Call = match &self.action {
            WorkspaceAction::Create { id, settings } => {
                let mut body = settings.body();
                body.insert("id".to_owned(), json!(id));
                (Method::POST, "/v1/workspaces".to_owned(), Some(Value::Object(body)))
            }
            WorkspaceAction::List => {
                return self.output.list("/v1/workspaces", "workspaces", "after");
            }
            WorkspaceAction::Storage { action } => action.call()?,
            WorkspaceAction::Show { id } => (Method::GET, of(id), None),
            WorkspaceAction::Set { id, settings, unset } => {
                let mut body = settings.body();
                body.extend(unset.iter().map(|name| (name.clone(), Value::Null)));
                anyhow::ensure!(!body.is_empty(), "nothing is to be changed: name a setting");
                (Method::PATCH, of(id), Some(Value::Object(body)))
            }
        };
        self.output.call(call)
    }
}

impl TokenCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let call: Call = match &self.action {
            TokenAction::Create {
                name,
                role,
                workspace,
                scopes,
                expires_in_days,
                requests_per_minute,
            } => {
                let mut body = json!({ "name": name, "role": role });
                if let Some(workspace) = workspace {
                    body["workspace"] = json!(workspace);
                }
                if !scopes.is_empty() {
                    body["scopes"] = json!(scopes);
                }
                if let Some(days) = expires_in_days {
                    body["expires_in"] = json!(days * 24 * 60 * 60);
                }
                if let Some(most) = requests_per_minute {
                    body["requests_per_minute"] = json!(most);
                }
                (Method::POST, "/v1/tokens".to_owned(), Some(body))
            }
            TokenAction::List => return self.output.list("/v1/tokens", "tokens", "before"),
            TokenAction::Rotate { id } => {
                (Method::POST, format!("/v1/tokens/{id}/rotate"), Some(json!({})))
            }
            TokenAction::Revoke { id } => (Method::DELETE, format!("/v1/tokens/{id}"), None),
        };
        self.output.call(call)
    }
}

impl RolloutCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let change = |name: &str, body: Value| -> anyhow::Result<Call> {
            Ok((Method::PATCH, of_rollout(name)?, Some(body)))
        };
        let call: Call = match &self.action {
            RolloutAction::Create {
                name,
                percent,
                salt,
                sticky,
                workspaces,
                sources,
                kinds,
                guard,
            } => {
                let mut body = json!({ "name": name, "percent": percent, "sticky": sticky });
                if let Some(salt) = salt {
                    body["salt"] = json!(salt);
                }
                if !workspaces.is_empty() {
                    body["workspaces"] = json!(workspaces);
                }
                if !sources.is_empty() {
                    body["sources"] = json!(sources);
                }
                if !kinds.is_empty() {
                    body["kinds"] = json!(kinds);
                }
                if let Some(guard) = guard {
                    body["guard"] = json!(guard);
                }
                (Method::POST, "/v1/rollouts".to_owned(), Some(body))
            }
            RolloutAction::List => return self.output.list("/v1/rollouts", "rollouts", ""),
            RolloutAction::Show { name } => (Method::GET, of_rollout(name)?, None),
            RolloutAction::Ramp { name, percent } => change(name, json!({ "percent": percent }))?,
            RolloutAction::Pause { name, reason } => {
                change(name, becomes(RolloutState::Paused, reason.as_deref()))?
            }
            RolloutAction::Resume { name } => change(name, becomes(RolloutState::Active, None))?,
            RolloutAction::Rollback { name, reason } => {
                change(name, becomes(RolloutState::RolledBack, reason.as_deref()))?
            }
            RolloutAction::Report(report) => {
                let path = of_rollout(report.name())?;
                return report.run(&self.output.client()?, &path, self.output.json);
            }
            RolloutAction::Delete { name } => (Method::DELETE, of_rollout(name)?, None),
        };
        self.output.call(call)
    }
}

fn becomes(state: RolloutState, reason: Option<&str>) -> Value {
    match reason {
        Some(reason) => json!({ "state": state, "reason": reason }),
        None => json!({ "state": state }),
    }
}

/// The path of a rollout: its name has the grammar of workspaces.
fn of_rollout(name: &str) -> anyhow::Result<String> {
    anyhow::ensure!(name.parse::<WorkspaceId>().is_ok(), "{name:?} names no rollout");
    Ok(format!("/v1/rollouts/{name}"))
}

impl Output {
    /// Sends one request and prints the answer.
    pub(super) fn call(&self, (method, path, body): Call) -> anyhow::Result<()> {
        let client = self.client()?;
        let answer: Value = run_async(async |cancel| {
            Ok(client.call(method, &path, body.as_ref(), &cancel).await?)
        })?;
        self.print(&answer);
        Ok(())
    }

    pub(super) fn client(&self) -> anyhow::Result<Client> {
        self.service.client()
    }

    /// JSON, or a line for each field.
    pub(super) fn print(&self, answer: &Value) {
        if self.json {
            say!("{answer}");
        } else if let Some(fields) = answer.as_object() {
            let width = fields.keys().map(String::len).max().unwrap_or(0);
            for (name, value) in fields {
                say!("{name:width$}  {}", shown(value));
            }
        }
    }

    /// Reads all pages of a list and prints them.
    pub(super) fn list(&self, path: &str, field: &str, cursor: &str) -> anyhow::Result<()> {
        let client = self.client()?;
        let all = run_async(async |cancel| {
            let mut all = Vec::new();
            let mut page =
                if cursor.is_empty() { path.to_owned() } else { format!("{path}?limit=200") };
            loop {
                let mut answer: Value = client.get(&page, &cancel).await?;
                if let Some(Value::Array(entries)) = answer.get_mut(field).map(Value::take) {
                    all.extend(entries);
                }
                match answer["next"].as_str() {
                    Some(next) if !cursor.is_empty() => {
                        page = format!("{path}?limit=200&{cursor}={next}");
                    }
                    _ => return Ok(all),
                }
            }
        })?;
        if self.json {
            say!("{}", Value::Array(all));
            return Ok(());
        }
        for entry in all {
            let fields = entry.as_object().into_iter().flatten();
            let line: Vec<_> =
                fields.map(|(name, value)| format!("{name}={}", shown(value))).collect();
            say!("{}", line.join(" "));
        }
        Ok(())
    }
}

/// A value as people write it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => super::printable(text.as_bytes()),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
