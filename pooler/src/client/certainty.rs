//! `commit_certainty`: a client whose server was lost while it committed learns what became of its transaction.
//!
//! ```text
//!   COMMIT comes ──its id is asked for in front of it──▶ sent ──answered──▶ over
//!                                                          │
//!                                                          └─ the server is lost ─▶ the next primary is asked
//!                          committed: what the server owed ◀──────────────────────────┤
//!                          rolled back: an error (40000)   ◀──────────────────────────┤
//!                          not known: the session ends (40003) ◀──────────────────────┘
//! ```
//!
//! What may be believed of the answer is said at [`Testimony::outcome`]. Only a session of which the lost server had
//! nothing but the transaction can go on; others end as without the setting.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use protocol::error_fields::ErrorMessage;
use protocol::frame::{HEADER_LEN, put};
use protocol::message::{self, TxStatus};
use protocol::session::{Invented, Origin, Owes, Route, ServerMachine};
use protocol::sqlstate::SqlState;
use sql::Effects;
use tracing::info;

use super::gather::Gather;
use super::request::Incoming;
use super::{End, Session};
use crate::answers;
use crate::clients::ClientState;
use crate::cluster::{OWN_ID, Outcome, Scene, Sought, Testimony, question};
use crate::error::Refusal;
use crate::pool::Grant;
use crate::server::{self, OwnError, Received, Server};

/// More of the answer to the pooler's question (bytes) is not kept.
const LONGEST_ANSWER: usize = 1 << 10;

/// The same of what the next primary testifies.
const LONGEST_TESTIMONY: usize = 64 << 10;

/// More (bytes) than a text that only commits has with its comments.
const LONGEST_COMMIT: usize = 1 << 10;

/// Time to the next question when there was no answer, or the transaction had not ended.
const PAUSE: Duration = Duration::from_millis(20);

/// What ends with its transaction, or is the database's: all that a server may have of a session that goes on elsewhere.
const LEFT_BEHIND: Effects =
    Effects::TRANSACTION.union(Effects::LOCAL_SETTINGS).union(Effects::SEQUENCE).union(Effects::DDL);

/// A COMMIT under way.
#[derive(Debug)]
pub(super) struct Commit {
    scene: Scene,
    /// What has come in answer to the question about its transaction's id.
    answer: Vec<u8>,
    /// Tags of what the client is owed up to the end of its request, as far as that is known of a COMMIT.
    owed: Option<Vec<u8>>,
    /// The server has said that it ends the session, which the client was not told.
    ends: bool,
}

/// A transaction that may have been committed.
struct Unsure {
    sought: Sought,
    owed: Vec<u8>,
    /// When the COMMIT was sent, in microseconds.
    begun: u64,
}

impl Commit {
    /// Something has come from the server whose machine this is.
    pub(super) fn expect(&mut self, machine: &ServerMachine) {
        if !self.ends {
            self.owed = owed(machine);
        }
    }

    /// Whether this is not for the client: the end of a session that may go on elsewhere.
    pub(super) fn holds(&mut self, piece: &Received<'_>) -> bool {
        match (piece.route, piece.tag) {
            (Route::Swallow, _) if self.answer.len() + piece.bytes.len() <= LONGEST_ANSWER => {
                self.answer.extend_from_slice(piece.bytes);
            }
            (Route::Forward, Some(b'E')) => {
                self.ends |= piece.said.fatal && self.xid().is_some() && self.owed.is_some();
                return self.ends;
            }
            // An error in a batch settles the rest of it: what was owed then is what was not seen before.
            (Route::Forward, Some(tag)) => {
                if let Some(owed) = self.owed.as_mut().filter(|owed| owed.first() == Some(&tag)) {
                    owed.remove(0);
                }
            }
            _ => {}
        }
        false
    }

    fn xid(&self) -> Option<u64> {
        answers::data_rows(&self.answer).first()?.first()?.as_deref()?.parse().ok()
    }

    fn owed(&self, machine: &ServerMachine) -> Option<Vec<u8>> {
        if self.ends { self.owed.clone() } else { owed(machine) }
    }
}

/// Tags of what a server owes its client up to the end of a request that ends with a COMMIT. `None`: it owes something else
/// besides, or of a kind that depends on more.
fn owed(machine: &ServerMachine) -> Option<Vec<u8>> {
    let mut tags = Vec::new();
    for (what, origin) in machine.owed() {
        if origin != Origin::Client {
            continue;
        }
        if tags.last() == Some(&b'Z') {
            return None;
        }
        match what {
            Owes::Parse | Owes::Invented(Invented::Parse) => tags.push(b'1'),
            Owes::Bind => tags.push(b'2'),
            Owes::Close | Owes::Invented(Invented::Close) => tags.push(b'3'),
            Owes::Execute if !tags.contains(&b'C') => tags.push(b'C'),
            Owes::Query if tags.is_empty() => tags.extend(b"CZ"),
            Owes::Sync if tags.contains(&b'C') => tags.push(b'Z'),
            _ => return None,
        }
    }
    (tags.last() == Some(&b'Z')).then_some(tags)
}

/// What the server would have sent for a COMMIT that has succeeded.
fn write_committed(tags: &[u8], out: &mut Vec<u8>) {
    for tag in tags {
        match tag {
            b'C' => message::command_complete(out, "COMMIT"),
            b'Z' => message::ready_for_query(out, TxStatus::Idle),
            tag => put(out, *tag, |_| {}),
        }
    }
}

fn write_rolled_back(out: &mut Vec<u8>) {
    let text = "the transaction was rolled back: the server was lost before it had committed";
    ErrorMessage::error(SqlState::TRANSACTION_ROLLBACK, text).encode_error(out);
    message::ready_for_query(out, TxStatus::Idle);
}

/// Whether a text is `COMMIT` or `END`, by itself and without a transaction that begins behind it.
fn is_commit(text: &[u8]) -> bool {
    let begins = text.trim_ascii_start().first();
    if text.len() > LONGEST_COMMIT || !begins.is_some_and(|first| b"cCeE/-".contains(first)) {
        return false;
    }
    let outline = sql::outline(text, LONGEST_COMMIT).to_ascii_lowercase();
    let words: Vec<_> = outline.split([' ', ';']).filter(|word| !word.is_empty()).collect();
    let rest = match words.as_slice() {
        ["commit" | "end", "work" | "transaction", rest @ ..] | ["commit" | "end", rest @ ..] => rest,
        _ => return false,
    };
    matches!(rest, [] | ["and", "no", "chain"])
}

impl Session {
    /// Asks for the id of the transaction in front of a message that is about to commit it.
    pub(super) fn ask_before_commit(&mut self, message: &Incoming<'_>, out: &mut Gather<'_>) {
        let wants = |link: &super::Link| {
            let asked = link.commit.is_some() || link.bringing || link.audit.is_some();
            let open = link.server.machine.status() == TxStatus::Open && link.server.runs_own_in_front();
            open && link.may_have_written(self.follows.state) && !asked && !link.exclusive
        };
        let comes = matches!(message.tag, b'Q' | b'P' | b'B') && message.complete;
        if !comes || !self.link.as_ref().is_some_and(wants) {
            return;
        }
        if !is_commit(self.text_in(message.tag, &message.bytes[HEADER_LEN..])) {
            return;
        }
        let (Some(cluster), Some(link)) = (self.pool.cluster(), &mut self.link) else { return };
        let info = &link.server.info;
        let Some(member) = cluster.member_at(&info.host, info.port) else { return };
        let Some(scene) = member.health().scene else { return };
        link.commit = Some(Box::new(Commit { scene, answer: Vec::new(), owed: None, ends: false }));
        let front = link.server.own_in_front(message.tag, &[OWN_ID.to_owned()]);
        out.insert(message.read, &front);
    }

    /// The end of a session whose server is gone; or, if what was being committed there can be asked for, not yet.
    pub(super) fn lost_server(&self, why: &str) -> End {
        let refusal = self.lost(why);
        match self.unsure() {
            Some(_) => End::Unsure(refusal),
            None => End::Refused(refusal),
        }
    }

    fn unsure(&self) -> Option<Unsure> {
        let link = self.link.as_ref().filter(|_| !self.leaving)?;
        let commit = link.commit.as_ref()?;
        let server = &link.server;
        let functions = &self.pool.db.functions;
        let trusted = |trust| self.pool.db.is_settled() && functions.still_trusts(trust);
        let stays = link.exclusive || link.native.is_some() || !server.pins.lasting().is_empty();
        let stays = stays || !link.trust.as_ref().is_none_or(trusted);
        if stays || server.is_mid_reply() || !server.suspect.without(LEFT_BEHIND).is_empty() {
            return None;
        }
        let owed = commit.owed(&server.machine)?;
        let sought = Sought { xid: commit.xid()?, scene: commit.scene, opened: server.info.opened };
        Some(Unsure { sought, owed, begun: link.query_since })
    }

    /// Asks the primary of this moment, or the next one, what became of the COMMIT, and tells the client. Its session goes
    /// on.
    ///
    /// # Errors
    /// That can't be known within the time that a client waits for a server; or the client is gone.
    pub(super) async fn learn_outcome(&mut self, unknown: Refusal) -> Result<(), End> {
        let Some(unsure) = self.unsure() else { return Err(End::Refused(unknown)) };
        let since = self.worker.shared.clock.micros();
        self.requests_answered(since, true);
        self.leave_lost_server();
        self.local.info.since.store(since, Relaxed);
        self.local.info.set_state(ClientState::Waiting);
        let outcome = self.outcome_of(&unsure, since).await;
        self.local.tell.take();
        self.local.info.since.store(0, Relaxed);
        self.local.info.set_state(ClientState::Idle);
        self.worker.stamp();
        let peer = self.local.info.peer();
        info!(peer = %peer, "the server was lost during COMMIT of transaction {}: {outcome:?}", unsure.sought.xid);
        match outcome {
            Ok(Outcome::Committed) => self.unsent.add(|out| write_committed(&unsure.owed, out)),
            Ok(Outcome::RolledBack) => self.unsent.add(write_rolled_back),
            Err(End::Gone) => return Err(End::Gone),
            Ok(Outcome::Unknown | Outcome::Running) | Err(_) => return Err(End::Refused(unknown)),
        }
        self.note_write();
        Ok(())
    }

    async fn outcome_of(&mut self, unsure: &Unsure, since: u64) -> Result<Outcome, End> {
        let sql = question(unsure.sought.xid);
        let mut lost = false;
        loop {
            let now = self.worker.shared.clock.micros();
            if let Some(refusal) = self.wait_limit().over(now.saturating_sub(since)) {
                return Err(End::Refused(refusal));
            }
            let pool = self.pool.clone();
            match self.queue(&pool, since, None).await? {
                Some(Grant::Server(server)) => {
                    let Some(mut server) = server.into_clean() else { continue };
                    let is_new = server.info.opened >= unsure.begun;
                    match self.ask_server(&mut server, &sql, unsure, lost).await? {
                        Ok(Outcome::Running) => {}
                        Ok(outcome) => {
                            if let Some(server) = server.into_idle() {
                                pool.give_back(self.worker.index, server);
                            }
                            return Ok(outcome);
                        }
                        Err(OwnError::Refused(why)) => info!("{}: {why}", server.info.peer(&pool)),
                        Err(OwnError::Broken(_)) => lost |= is_new,
                    }
                    if let Some(server) = server.into_idle() {
                        pool.give_back(self.worker.index, server);
                    }
                }
                Some(Grant::Refused(_)) if !pool.is_removed() => {}
                Some(Grant::Refused(refusal)) => return Err(End::Refused(refusal)),
                Some(Grant::Cancelled) | None => return Ok(Outcome::Unknown),
            }
            self.or_gone(tokio::time::sleep(PAUSE)).await?;
        }
    }

    /// Once.
    async fn ask_server(
        &mut self,
        server: &mut Server,
        sql: &str,
        unsure: &Unsure,
        lost: bool,
    ) -> Result<Result<Outcome, OwnError>, End> {
        if server.move_to(self.worker.index).is_err() {
            return Ok(Err(OwnError::Broken("could not be moved to another worker")));
        }
        let rows = match self.or_gone(server::ask(server, sql, LONGEST_TESTIMONY)).await? {
            Ok(rows) => rows,
            Err(error) => return Ok(Err(error)),
        };
        let told = rows.last().and_then(Testimony::read);
        let cluster = self.pool.cluster();
        let (Some(told), Some(cluster)) = (told, cluster) else { return Ok(Ok(Outcome::Unknown)) };
        let member = cluster.member_at(&server.info.host, server.info.port);
        let is_host = member.is_some_and(|member| member.index == unsure.sought.scene.host);
        let recovered = member.and_then(|member| member.health().recovered);
        Ok(Ok(told.outcome(&unsure.sought, is_host, recovered, lost)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_commit_and_nothing_else() {
        let commits: [&[u8]; 7] = [
            b"COMMIT",
            b" commit ;",
            b"end work",
            b"commit transaction;;",
            b"/* by hand */ Commit /* traceparent='00-ab' */",
            b"-- now\nEND",
            b"commit and no chain",
        ];
        for text in commits {
            assert!(is_commit(text), "{}", text.escape_ascii());
        }
        let others: [&[u8]; 9] = [
            b"",
            b"rollback",
            b"commit and chain",
            b"commit prepared 'x'",
            b"commit; select 1",
            b"select 1; commit",
            b"commit 'x'",
            b"endless",
            b"create table commit ()",
        ];
        for text in others {
            assert!(!is_commit(text), "{}", text.escape_ascii());
        }
    }

    fn owed_for(own: &str, sent: &str) -> Option<Vec<u8>> {
        let mut machine = ServerMachine::new();
        own.bytes().for_each(|tag| machine.on_sent(tag, Origin::Aside, true));
        sent.bytes().for_each(|tag| machine.on_sent(tag, Origin::Client, true));
        owed(&machine)
    }

    #[test]
    fn what_is_owed_for_a_commit() {
        for own in ["", "Q"] {
            let owed = |sent| owed_for(own, sent).map(|tags| String::from_utf8_lossy(&tags).into_owned());
            assert_eq!(owed("Q").as_deref(), Some("CZ"));
            assert_eq!(owed("BES").as_deref(), Some("2CZ"));
            assert_eq!(owed("PBES").as_deref(), Some("12CZ"));
            assert_eq!(owed("PBECS").as_deref(), Some("12C3Z"));
            for other in ["", "QQ", "PBE", "BEBES", "BDES", "S", "BESQ", "FS"] {
                assert_eq!(owed(other), None, "{other}");
            }
        }
    }

    #[test]
    fn a_commit_is_answered_as_postgresql_would() {
        let mut out = Vec::new();
        write_committed(b"12C3Z", &mut out);
        assert_eq!(out, b"1\0\0\0\x042\0\0\0\x04C\0\0\0\x0bCOMMIT\x003\0\0\0\x04Z\0\0\0\x05I");
    }
}
