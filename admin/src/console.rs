use std::borrow::Cow;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use pgbouncer_compat::columns::Show;
use pgbouncer_compat::command::{self, Command};
use pgbouncer_compat::settings::Values;
use pooler::console::{Console, Rights};
use pooler::control::Control;
use pooler::reload::Plan;
use protocol::error_fields::ErrorMessage;
use protocol::message;
use protocol::sqlstate::SqlState;
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::{operate, show};

/// Where the settings come from.
pub trait Configuration: Send + Sync {
    /// Reads the files again and puts them into effect. With a fault in them nothing changes.
    ///
    /// # Errors
    /// Every fault, for the client; the log has been told.
    fn reload(&self, control: &Control) -> Result<(), String>;

    /// What a reload of this file would change; without one, of the file that is read next.
    ///
    /// # Errors
    /// Every fault of the files.
    fn plan(&self, control: &Control, file: Option<&Path>) -> Result<Plan, String>;

    /// The settings in effect.
    fn settings(&self) -> Values;
}

/// The console of one pooler.
pub struct AdminConsole {
    configuration: Arc<dyn Configuration>,
}

/// The messages that answer a command, or the error that does.
pub(crate) type Answer = Result<Vec<u8>, ErrorMessage>;

impl AdminConsole {
    /// A console that shows and reloads this configuration.
    pub fn new(configuration: Arc<dyn Configuration>) -> AdminConsole {
        AdminConsole { configuration }
    }

    pub(crate) async fn answer(&self, control: &Control, text: &str, rights: Rights) -> Answer {
        let command = command::parse(text).map_err(|error| refused(error.to_string()))?;
        if rights == Rights::Stats && changes_something(&command) {
            return Err(refused("admin access needed"));
        }
        match command {
            Command::Show(item) => {
                // A table of thousands of clients takes milliseconds, in which this thread's clients would wait.
                let (control, configuration) = (control.clone(), self.configuration.clone());
                let answer = spawn_blocking(move || show::answer(item, &control, &*configuration)).await;
                answer.unwrap_or_else(|error| Err(refused(error.to_string())))
            }
            Command::SetIgnored => Ok(set_ignored()),
            Command::Pause(database) => operate::pause(control, database).await,
            Command::Resume(database) => operate::resume(control, database),
            Command::Kill(database) => operate::kill(control, database),
            Command::Reload => operate::reload(control, &*self.configuration),
            Command::ReloadPlan(file) => operate::reload_plan(control, &*self.configuration, file),
            Command::Shutdown(mode) => operate::shutdown(control, mode).await,
            Command::Set { .. } => Err(not_implemented("SET of a setting")),
            Command::Disable(_) => Err(not_implemented("DISABLE")),
            Command::Enable(_) => Err(not_implemented("ENABLE")),
            Command::Reconnect(_) => Err(not_implemented("RECONNECT")),
            Command::KillClient(_) => Err(not_implemented("KILL_CLIENT")),
            Command::Suspend => Err(not_implemented("SUSPEND")),
            Command::WaitClose(_) => Err(not_implemented("WAIT_CLOSE")),
        }
    }
}

impl Console for AdminConsole {
    fn execute<'a>(
        &'a self,
        control: &'a Control,
        command: &'a str,
        rights: Rights,
    ) -> Pin<Box<dyn Future<Output = Vec<u8>> + 'a>> {
        Box::pin(async move {
            self.answer(control, command, rights).await.unwrap_or_else(|error| {
                if control.config().log.pooler_errors {
                    warn!("pooler error: {}", error.message);
                }
                let mut out = Vec::new();
                error.encode_error(&mut out);
                out
            })
        })
    }

    fn version(&self) -> String {
        SERVER_VERSION.to_owned()
    }
}

/// What the console calls its `server_version`: the release whose surface it has.
const SERVER_VERSION: &str = "1.25.2/bouncer";

/// Whether a command is for administrators only. `SHOW FDS` would give away secrets.
fn changes_something(command: &Command) -> bool {
    match command {
        Command::Show(item) => *item == Show::Fds,
        Command::SetIgnored => false,
        _ => true,
    }
}

fn set_ignored() -> Vec<u8> {
    let mut out = Vec::new();
    ErrorMessage::notice("SET ignored").encode_notice(&mut out);
    message::command_complete(&mut out, "SET");
    out
}

/// With PgBouncer's code for everything, `08P01`.
pub(crate) fn refused(text: impl Into<Cow<'static, str>>) -> ErrorMessage {
    ErrorMessage::error(SqlState::PROTOCOL_VIOLATION, text)
}

/// PgBouncer has it, this version does not.
pub(crate) fn not_implemented(what: &str) -> ErrorMessage {
    let text = format!("{what} is not implemented in this version");
    ErrorMessage::error(SqlState::FEATURE_NOT_SUPPORTED, text)
}

#[cfg(test)]
mod tests;
