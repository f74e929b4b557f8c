use std::borrow::Cow;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use pgbouncer_compat::columns::Show;
use pgbouncer_compat::command::{self, Command};
use pgbouncer_compat::settings::Values;
use pgbouncer_compat::{Finding, NotSet};
use pooler::console::{Console, Conversing, Rights};
use pooler::control::Control;
use pooler::reload::Plan;
use protocol::error_fields::ErrorMessage;
use protocol::message;
use protocol::sqlstate::SqlState;
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::conversation::Conversation;
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

    /// Changes a setting until the next reload. It takes effect at once, or keeps its value. Returns why TLS goes on as it
    /// was, if the settings of TLS can't be used together.
    ///
    /// # Errors
    /// There is no such setting, this is none of its values, or it takes a restart.
    fn set(&self, control: &Control, key: &str, value: &str) -> Result<Vec<Finding>, NotSet>;

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
        self.run(control, self.permitted(text, rights)?).await
    }

    /// Reads a command that whoever has these rights may give.
    pub(crate) fn permitted(&self, text: &str, rights: Rights) -> Result<Command, ErrorMessage> {
        let command = command::parse(text).map_err(|error| refused(error.to_string()))?;
        self.check_rights(&command, rights).map(|()| command)
    }

    pub(crate) fn check_rights(&self, command: &Command, rights: Rights) -> Result<(), ErrorMessage> {
        match rights == Rights::Stats && changes_something(command) {
            true => Err(refused("admin access needed")),
            false => Ok(()),
        }
    }

    /// Carries out a command.
    pub(crate) async fn run(&self, control: &Control, command: Command) -> Answer {
        match command {
            Command::Show(Show::Advice) => show::advice(control).await,
            Command::Show(Show::Blockers) => show::blockers(control).await,
            Command::Show(item) => {
                // A table of thousands of clients takes milliseconds, in which this thread's clients would wait.
                let (control, configuration) = (control.clone(), self.configuration.clone());
                let answer = spawn_blocking(move || show::answer(item, &control, &*configuration)).await;
                answer.unwrap_or_else(|error| Err(refused(error.to_string())))
            }
            Command::ShowRoute { database, statement } => {
                show::route(control, database.as_deref(), &statement).map_err(operate::refusal)
            }
            Command::SetIgnored => Ok(set_ignored()),
            Command::Transaction(tag) => Ok(operate::done(tag)),
            Command::Pause(database) => operate::pause(control, database).await,
            Command::Resume(database) => operate::resume(control, database),
            Command::Kill(database) => operate::kill(control, database),
            Command::Reload => operate::reload(control, &*self.configuration),
            Command::ReloadPlan(file) => operate::reload_plan(control, &*self.configuration, file),
            Command::Shutdown(mode) => operate::shutdown(control, mode).await,
            Command::Set { key, value } => operate::set(control, &*self.configuration, &key, &value),
            Command::Disable(database) => operate::disable(control, database),
            Command::Enable(database) => operate::enable(control, database),
            Command::Reconnect(database) => operate::reconnect(control, database),
            Command::KillClient(id) => operate::kill_client(control, id),
            Command::Suspend => operate::suspend(control).await,
            Command::WaitClose(database) => operate::wait_close(control, database).await,
            Command::Cancel(client) => operate::cancel(control, client).await,
        }
    }

    /// An error for the client, which the log is told as well.
    pub(crate) fn encode(&self, control: &Control, error: &ErrorMessage) -> Vec<u8> {
        if control.config().log.pooler_errors {
            warn!("pooler error: {}", error.message);
        }
        let mut out = Vec::new();
        error.encode_error(&mut out);
        out
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
            let answer = self.answer(control, command, rights).await;
            answer.unwrap_or_else(|error| self.encode(control, &error))
        })
    }

    fn converse<'a>(&'a self, control: &'a Control, rights: Rights) -> Box<dyn Conversing + 'a> {
        Box::new(Conversation::new(self, control, rights))
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
        Command::ShowRoute { .. } | Command::SetIgnored | Command::Transaction(_) => false,
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

#[cfg(test)]
pub(crate) mod tests;
