//! One client's conversation with the console, in both of PostgreSQL's protocols for queries. PgBouncer has only the
//! simple one, so that many drivers can't talk to its console.
//!
//! A statement is a command that was read, a portal one that will run once. The console has no transactions, but who has
//! begun one keeps its portals until it ends it, as drivers expect that take rows in portions; else they end with `Sync`.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;

use pgbouncer_compat::command::{self, Command};
use pooler::console::{Conversing, Rights};
use pooler::control::Control;
use protocol::error_fields::ErrorMessage;
use protocol::frame::put;
use protocol::message::{self, TxStatus};
use protocol::sqlstate::SqlState;

use crate::console::{AdminConsole, Answer, refused};
use crate::portal::{self, Portal};
use crate::rows::put_description;

pub(crate) struct Conversation<'a> {
    console: &'a AdminConsole,
    control: &'a Control,
    rights: Rights,
    /// `None` is an empty text.
    statements: HashMap<String, Option<Command>>,
    portals: HashMap<String, Portal>,
    /// Between `BEGIN` and `COMMIT` or `ROLLBACK`.
    in_transaction: bool,
    /// After an error everything up to `Sync` is dropped.
    skipping: bool,
    /// What is being carried out, and whether `ReadyForQuery` follows it at once.
    running: Option<(Command, bool)>,
}

/// Statements that a client may have.
const MOST_STATEMENTS: usize = 1000;

/// Portals that it may have. Each may hold a whole table.
const MOST_PORTALS: usize = 32;

impl<'a> Conversation<'a> {
    pub(crate) fn new(console: &'a AdminConsole, control: &'a Control, rights: Rights) -> Conversation<'a> {
        Conversation {
            console,
            control,
            rights,
            statements: HashMap::new(),
            portals: HashMap::new(),
            in_transaction: false,
            skipping: false,
            running: None,
        }
    }

    async fn message(&mut self, tag: u8, body: &[u8]) -> Vec<u8> {
        if self.skipping && tag != b'S' {
            return Vec::new();
        }
        let mut fields = Fields(body);
        let answer = match tag {
            b'Q' => return self.query(fields).await,
            b'S' => {
                self.skipping = false;
                self.end_portals();
                return ready(Vec::new());
            }
            b'P' => self.parse(&mut fields),
            b'B' => self.bind(&mut fields),
            b'D' => self.describe(&mut fields),
            b'E' => self.execute(&mut fields).await,
            b'C' => self.close(&mut fields),
            b'F' => {
                let text = "unsupported packet type for admin console: 70";
                return ready(self.console.encode(self.control, &refused(text)));
            }
            _ => return Vec::new(), // Flush, which asks for what is sent anyway, and what of COPY comes late
        };
        answer.unwrap_or_else(|error| {
            self.skipping = true;
            self.console.encode(self.control, &error)
        })
    }

    async fn query(&mut self, mut fields: Fields<'_>) -> Vec<u8> {
        self.statements.remove("");
        let text = fields.rest_of_text();
        let answer = match self.console.permitted(&text, self.rights) {
            Ok(command) => self.run(command, true).await,
            Err(error) => Err(error),
        };
        self.end_portals();
        ready(answer.unwrap_or_else(|error| self.console.encode(self.control, &error)))
    }

    async fn run(&mut self, command: Command, simple: bool) -> Answer {
        if let Command::Transaction(tag) = command {
            self.in_transaction = !matches!(tag, "COMMIT" | "ROLLBACK");
        }
        self.running = Some((command.clone(), simple));
        let answer = self.console.run(self.control, command).await;
        self.running = None;
        answer
    }

    fn parse(&mut self, fields: &mut Fields<'_>) -> Answer {
        let (name, text) = (fields.text()?, fields.text()?);
        if !name.is_empty() && self.statements.contains_key(&name) {
            let text = format!("prepared statement \"{name}\" already exists");
            return Err(ErrorMessage::error(SqlState::DUPLICATE_PREPARED_STATEMENT, text));
        }
        let command = match text.trim().is_empty() {
            true => None,
            false => Some(command::parse(&text).map_err(|error| refused(error.to_string()))?),
        };
        within_bounds(self.statements.len(), MOST_STATEMENTS)?;
        self.statements.insert(name, command);
        Ok(message(b'1'))
    }

    fn bind(&mut self, fields: &mut Fields<'_>) -> Answer {
        let (name, statement) = (fields.text()?, fields.text()?);
        for _ in 0..fields.int16()? {
            fields.int16()?;
        }
        let parameters = fields.int16()?;
        let command = self.statement(&statement)?.clone();
        if parameters != 0 {
            let text = format!(
                "bind message supplies {parameters} parameters, but prepared statement \"{statement}\" requires 0"
            );
            return Err(refused(text));
        }
        let formats = (0..fields.int16()?).map(|_| fields.int16()).collect::<Result<Vec<_>, _>>()?;
        let portal = Portal::new(command, &formats)?;
        if !name.is_empty() && self.portals.contains_key(&name) {
            let text = format!("cursor \"{name}\" already exists");
            return Err(ErrorMessage::error(SqlState::DUPLICATE_CURSOR, text));
        }
        within_bounds(self.portals.len(), MOST_PORTALS)?;
        self.portals.insert(name, portal);
        Ok(message(b'2'))
    }

    fn describe(&mut self, fields: &mut Fields<'_>) -> Answer {
        let mut out = Vec::new();
        let (command, formats) = match fields.byte()? {
            b'S' => {
                let command = self.statement(&fields.text()?)?;
                put(&mut out, b't', |body| body.extend(0u16.to_be_bytes())); // no parameters
                (command, &[][..])
            }
            b'P' => {
                let portal = self.portal(&fields.text()?)?;
                (&portal.command, portal.formats())
            }
            _ => return Err(broken()),
        };
        match command.as_ref().and_then(Command::columns) {
            Some(columns) => put_description(&mut out, columns, formats),
            None => out.extend(message(b'n')),
        }
        Ok(out)
    }

    async fn execute(&mut self, fields: &mut Fields<'_>) -> Answer {
        let name = fields.text()?;
        let most = usize::try_from(fields.int32()?).ok().filter(|most| *most > 0);
        let begun = match self.portal(&name)?.begin() {
            portal::Begun::Empty => return Ok(message(b'I')),
            portal::Begun::Over => {
                let text = format!("portal \"{name}\" cannot be run");
                return Err(ErrorMessage::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text));
            }
            portal::Begun::First(command) => Some(command),
            portal::Begun::Again => None,
        };
        if let Some(command) = begun {
            self.console.check_rights(&command, self.rights)?;
            let reply = self.run(command, false).await?;
            self.portal(&name)?.fill(reply)?;
        }
        Ok(self.portal(&name)?.take(most))
    }

    fn close(&mut self, fields: &mut Fields<'_>) -> Answer {
        match fields.byte()? {
            b'S' => drop(self.statements.remove(&fields.text()?)),
            b'P' => drop(self.portals.remove(&fields.text()?)),
            _ => return Err(broken()),
        }
        Ok(message(b'3'))
    }

    fn end_portals(&mut self) {
        match self.in_transaction {
            true => drop(self.portals.remove("")),
            false => self.portals.clear(),
        }
    }

    fn statement(&self, name: &str) -> Result<&Option<Command>, ErrorMessage> {
        self.statements.get(name).ok_or_else(|| {
            let text = match name {
                "" => "unnamed prepared statement does not exist".to_owned(),
                _ => format!("prepared statement \"{name}\" does not exist"),
            };
            ErrorMessage::error(SqlState::INVALID_SQL_STATEMENT_NAME, text)
        })
    }

    fn portal(&mut self, name: &str) -> Result<&mut Portal, ErrorMessage> {
        let missing = || {
            ErrorMessage::error(SqlState::INVALID_CURSOR_NAME, format!("portal \"{name}\" does not exist"))
        };
        self.portals.get_mut(name).ok_or_else(missing)
    }
}

impl Conversing for Conversation<'_> {
    fn answer<'a>(&'a mut self, tag: u8, body: &'a [u8]) -> Pin<Box<dyn Future<Output = Vec<u8>> + 'a>> {
        Box::pin(self.message(tag, body))
    }

    fn cancelled(&mut self) -> Vec<u8> {
        let text = "canceling statement due to user request";
        let out = self.console.encode(self.control, &ErrorMessage::error(SqlState::QUERY_CANCELED, text));
        match self.running.take() {
            Some((command, simple)) => {
                // PgBouncer resumes on a cancel request as well, but leaves the client without an answer.
                let _ = match command {
                    Command::Pause(database) => self.control.resume(database.as_deref()),
                    Command::Suspend => self.control.resume(None),
                    _ => Ok(()),
                };
                self.skipping = !simple;
                if simple { ready(out) } else { out }
            }
            None => ready(out), // not reached: whatever takes time is noted
        }
    }
}

fn within_bounds(count: usize, most: usize) -> Result<(), ErrorMessage> {
    let text = "too many prepared statements or portals";
    let full = || ErrorMessage::error(SqlState::PROGRAM_LIMIT_EXCEEDED, text);
    (count < most).then_some(()).ok_or_else(full)
}

/// A message without a body.
fn message(tag: u8) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, tag, |_| {});
    out
}

fn ready(mut out: Vec<u8>) -> Vec<u8> {
    message::ready_for_query(&mut out, TxStatus::Idle);
    out
}

fn broken() -> ErrorMessage {
    refused("invalid message format")
}

/// The body of a message, read from its front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn text(&mut self) -> Result<String, ErrorMessage> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or_else(broken)?;
        let text = String::from_utf8_lossy(&self.0[..end]).into_owned();
        self.0 = &self.0[end + 1..];
        Ok(text)
    }

    /// Without the terminator, if there is one.
    fn rest_of_text(&mut self) -> String {
        String::from_utf8_lossy(self.0.strip_suffix(&[0]).unwrap_or(self.0)).into_owned()
    }

    fn byte(&mut self) -> Result<u8, ErrorMessage> {
        let (first, rest) = self.0.split_first().ok_or_else(broken)?;
        self.0 = rest;
        Ok(*first)
    }

    fn int16(&mut self) -> Result<i16, ErrorMessage> {
        let (first, rest) = self.0.split_first_chunk().ok_or_else(broken)?;
        self.0 = rest;
        Ok(i16::from_be_bytes(*first))
    }

    fn int32(&mut self) -> Result<i32, ErrorMessage> {
        let (first, rest) = self.0.split_first_chunk().ok_or_else(broken)?;
        self.0 = rest;
        Ok(i32::from_be_bytes(*first))
    }
}
