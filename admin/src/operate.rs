//! Commands that change something. Each is logged before it is carried out.

use std::future::pending;
use std::path::Path;

use pgbouncer_compat::columns::RELOAD_PLAN;
use pgbouncer_compat::command::Shutdown;
use pgbouncer_compat::settings::{HIDDEN, Kind, Setting};
use pooler::Phase;
use pooler::console::is_console;
use pooler::control::{Control, ControlError};
use protocol::error_fields::ErrorMessage;
use protocol::message;
use protocol::sqlstate::SqlState;
use tracing::{info, warn};

use crate::console::{Answer, Configuration, refused};
use crate::rows::{Table, cells};

pub(crate) async fn pause(control: &Control, database: Option<String>) -> Answer {
    log_issued("PAUSE", database.as_deref());
    spare_console("pause", database.as_deref())?;
    control.pause(database.as_deref()).await.map_err(refusal)?;
    Ok(done("PAUSE"))
}

pub(crate) fn resume(control: &Control, database: Option<String>) -> Answer {
    log_issued("RESUME", database.as_deref());
    if let Some(name) = database.as_deref().filter(|name| is_console(name)) {
        return Err(refusal(ControlError::DatabaseNotPaused(name.to_owned())));
    }
    control.resume(database.as_deref()).map_err(refusal)?;
    Ok(done("RESUME"))
}

pub(crate) fn kill(control: &Control, database: Option<String>) -> Answer {
    log_issued("KILL", database.as_deref());
    spare_console("kill", database.as_deref())?;
    control.kill(database.as_deref()).map_err(refusal)?;
    Ok(done("KILL"))
}

pub(crate) fn reload(control: &Control, configuration: &dyn Configuration) -> Answer {
    log_issued("RELOAD", None);
    configuration.reload(control).map_err(|faults| {
        warn!("RELOAD Failed, see logs for more details");
        unusable("RELOAD failed, see logs for additional details", faults)
    })?;
    Ok(done("RELOAD"))
}

/// What a reload would change.
pub(crate) fn reload_plan(
    control: &Control,
    configuration: &dyn Configuration,
    file: Option<String>,
) -> Answer {
    let plan = configuration.plan(control, file.as_deref().map(Path::new));
    let plan = plan.map_err(|faults| unusable("RELOAD would fail", faults))?;
    let mut table = Table::new(RELOAD_PLAN);
    for change in plan.0 {
        let effect = change.effect.as_str();
        table.row(cells![change.kind, change.name, change.key, change.old, change.new, effect]);
    }
    Ok(table.finish())
}

/// The files have faults.
fn unusable(text: &'static str, faults: String) -> ErrorMessage {
    ErrorMessage::error(SqlState::CONFIG_FILE_ERROR, text).with_detail(faults)
}

/// Answered when the request was dealt with, as a client's own request to cancel is.
pub(crate) async fn cancel(control: &Control, client: Option<u64>) -> Answer {
    let client = client.ok_or_else(|| refused("invalid client pointer supplied"))?;
    info!("CANCEL {client} command issued");
    match control.cancel(client).await {
        true => Ok(done("CANCEL")),
        false => Err(refused("client not found")),
    }
}

/// With a fault nothing changes. Settings of TLS may be wrong until others have followed, a key behind its certificate; what
/// was in effect of TLS stays meanwhile.
pub(crate) fn set(control: &Control, configuration: &dyn Configuration, key: &str, value: &str) -> Answer {
    info!("SET {key} command issued"); // the value may be a secret
    let unusable = configuration.set(control, key, value).map_err(|not_set| {
        let error = refused("SET failed").with_detail(not_set.what);
        if not_set.advice.is_empty() { error } else { error.with_hint(not_set.advice) }
    })?;
    let is_secret = Setting::find(key).is_some_and(|setting| setting.kind == Kind::Secret);
    let shown = if is_secret { HIDDEN } else { value };
    let mut out = Vec::new();
    if !unusable.is_empty() {
        let why: Vec<String> = unusable.iter().map(ToString::to_string).collect();
        let text = "TLS settings could not be applied, still using old configuration";
        ErrorMessage::notice(text).with_detail(why.join("\n")).encode_notice(&mut out);
    }
    out.extend(done(&format!("SET {key}={shown}")));
    Ok(out)
}

/// New clients of the database are refused; those that are there stay.
pub(crate) fn disable(control: &Control, database: Option<String>) -> Answer {
    let name = named("DISABLE", "disable", database)?;
    control.set_disabled(&name, true).map_err(refusal)?;
    Ok(done("DISABLE"))
}

pub(crate) fn enable(control: &Control, database: Option<String>) -> Answer {
    let name = named("ENABLE", "enable", database)?;
    control.set_disabled(&name, false).map_err(refusal)?;
    Ok(done("ENABLE"))
}

pub(crate) fn reconnect(control: &Control, database: Option<String>) -> Answer {
    log_issued("RECONNECT", database.as_deref());
    spare_console("reconnect", database.as_deref())?;
    control.reconnect(database.as_deref()).map_err(refusal)?;
    Ok(done("RECONNECT"))
}

pub(crate) async fn wait_close(control: &Control, database: Option<String>) -> Answer {
    log_issued("WAIT_CLOSE", database.as_deref());
    if let Some(name) = database.as_deref().filter(|name| is_console(name)) {
        return Err(refused(format!("cannot wait in admin db: {name}")));
    }
    control.wait_close(database.as_deref()).await.map_err(refusal)?;
    Ok(done("WAIT_CLOSE"))
}

pub(crate) fn kill_client(control: &Control, id: Option<u64>) -> Answer {
    let id = id.ok_or_else(|| refused("invalid client pointer supplied"))?;
    log_issued("KILL_CLIENT", Some(&id.to_string()));
    control.kill_client(id).map_err(refusal)?;
    Ok(done("KILL_CLIENT"))
}

pub(crate) async fn suspend(control: &Control) -> Answer {
    log_issued("SUSPEND", None);
    control.suspend().await.map_err(refusal)?;
    Ok(done("SUSPEND"))
}

/// A shutdown that waits for nobody is answered by the end of the connection alone.
pub(crate) async fn shutdown(control: &Control, mode: Shutdown) -> Answer {
    let (command, phase) = match mode {
        Shutdown::Immediate => ("SHUTDOWN", Phase::Stopped),
        Shutdown::WaitForServers => ("SHUTDOWN WAIT_FOR_SERVERS", Phase::WaitForServers),
        Shutdown::WaitForClients => ("SHUTDOWN WAIT_FOR_CLIENTS", Phase::WaitForClients),
    };
    log_issued(command, None);
    control.shutdown(phase);
    if phase == Phase::Stopped {
        pending::<()>().await;
    }
    Ok(done("SHUTDOWN"))
}

fn log_issued(command: &str, database: Option<&str>) {
    match database {
        Some(name) => info!("{command} '{name}' command issued"),
        None => info!("{command} command issued"),
    }
}

/// The database that a command can't do without.
fn named(command: &str, verb: &str, database: Option<String>) -> Result<String, ErrorMessage> {
    let name = database.ok_or_else(|| refused("a database is required"))?;
    log_issued(command, Some(&name));
    spare_console(verb, Some(&name)).map(|()| name)
}

/// The console has neither servers nor clients that could be stopped.
fn spare_console(verb: &str, database: Option<&str>) -> Result<(), ErrorMessage> {
    match database.filter(|name| is_console(name)) {
        Some(name) => Err(refused(format!("cannot {verb} admin db: {name}"))),
        None => Ok(()),
    }
}

pub(crate) fn refusal(error: ControlError) -> ErrorMessage {
    refused(error.to_string())
}

pub(crate) fn done(tag: &str) -> Vec<u8> {
    let mut out = Vec::new();
    message::command_complete(&mut out, tag);
    out
}
