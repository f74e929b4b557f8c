//! Commands that change something. Each is logged before it is carried out.

use std::future::pending;
use std::path::Path;

use pgbouncer_compat::columns::RELOAD_PLAN;
use pgbouncer_compat::command::Shutdown;
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

/// The console has neither servers nor clients that could be stopped.
fn spare_console(verb: &str, database: Option<&str>) -> Result<(), ErrorMessage> {
    match database.filter(|name| is_console(name)) {
        Some(name) => Err(refused(format!("cannot {verb} admin db: {name}"))),
        None => Ok(()),
    }
}

fn refusal(error: ControlError) -> ErrorMessage {
    refused(error.to_string())
}

fn done(tag: &str) -> Vec<u8> {
    let mut out = Vec::new();
    message::command_complete(&mut out, tag);
    out
}
