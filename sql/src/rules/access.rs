//! What a statement asks of the host that runs it, and of the transaction that it is in.

use super::*;
use crate::access::{AccessMode, Isolation, Modes, Reason};

impl<'a> Rules<'a, '_> {
    /// A reason for the primary that one word tells.
    pub(super) fn asks(&mut self, cause: Cause, word: Token) {
        self.asks_for(cause, self.lexer.bytes(word));
    }

    /// One that the words from the first to the last tell; the last may be none.
    pub(super) fn asks_through(&mut self, cause: Cause, first: Token, last: Token) {
        let end = if last.is_name() { last.end() } else { first.end() };
        self.asks_for(cause, self.lexer.between(first.start(), end));
    }

    pub(super) fn asks_for(&mut self, cause: Cause, words: &'a [u8]) {
        if self.explained && matches!(cause, Cause::Changes | Cause::Defines | Cause::Locks) {
            return;
        }
        self.kind = self.kind.and(Reason { cause, words }.into());
    }

    /// The statement leaves it open where the next ones run.
    pub(super) fn neutral(&mut self) {
        if self.kind == AccessKind::Reads {
            self.kind = AccessKind::Neutral;
        }
    }

    pub(super) fn show(&mut self, first: Token) -> Statement<'a> {
        self.neutral();
        let token = self.lexer.next();
        if token.is_name() && is_of_host(&self.lexer.name(token)) {
            self.asks_through(Cause::Host, first, token);
        }
        self.rest_from(token, Statement::Other)
    }

    /// `BEGIN`, `START TRANSACTION` with their modes.
    pub(super) fn begins(&mut self) -> Statement<'a> {
        self.neutral();
        self.effects |= Effects::TRANSACTION;
        let mut modes = self.open_modes();
        self.modes(&mut modes);
        self.transaction = Transaction::Begins(modes);
        Statement::Begin
    }

    /// `COMMIT`, `ROLLBACK`: with their words that end no transaction, or begin the next.
    pub(super) fn transaction(&mut self, statement: Statement<'a>, first: Token) -> Statement<'a> {
        self.neutral();
        self.effects |= Effects::TRANSACTION;
        let mut token = self.lexer.next();
        if matches!(self.word(token), WORK | TRANSACTION) {
            token = self.lexer.next();
        }
        match self.word(token) {
            PREPARED => self.asks_through(Cause::Refused, first, token),
            TO => {}
            AND if self.word(self.lexer.peek()) != NO => {}
            AND => self.transaction = Transaction::Ends,
            _ => {
                self.transaction = Transaction::Ends;
                return self.rest_from(token, statement);
            }
        }
        self.rest(Statement::Other)
    }

    /// The modes of the transaction that is open here, as far as the text has said them.
    pub(super) fn open_modes(&self) -> Modes {
        match self.transaction {
            Transaction::Begins(modes) | Transaction::Sets(modes) => modes,
            Transaction::Same | Transaction::Ends => Modes::default(),
        }
    }

    pub(super) fn set_open_modes(&mut self, modes: Modes) {
        self.transaction = match self.transaction {
            Transaction::Begins(_) => Transaction::Begins(modes),
            // Outside a transaction it has no effect but a warning.
            Transaction::Ends => Transaction::Ends,
            Transaction::Same | Transaction::Sets(_) => Transaction::Sets(modes),
        };
    }

    /// The modes that follow, to the end of the statement; a later one counts.
    pub(super) fn modes(&mut self, modes: &mut Modes) {
        let mut last = self.lexer.next();
        while !self.ends(last) {
            let token = self.lexer.peek();
            match (self.word(last), self.word(token)) {
                (READ, ONLY) => modes.access = Some(AccessMode::ReadOnly),
                (READ, WRITE) => {
                    modes.access = Some(AccessMode::ReadWrite);
                    self.asks_through(Cause::Mode, last, token);
                }
                (READ, COMMITTED | UNCOMMITTED) => modes.isolation = Some(Isolation::ReadCommitted),
                (REPEATABLE, READ) => modes.isolation = Some(Isolation::RepeatableRead),
                (SERIALIZABLE, _) => {
                    modes.isolation = Some(Isolation::Serializable);
                    self.asks(Cause::Mode, last);
                }
                // Nobody exports one from a standby to the primary, or the other way round.
                (SNAPSHOT, _) => self.asks(Cause::Mode, last),
                _ => {}
            }
            last = self.lexer.next();
        }
    }

    /// `SET [LOCAL] transaction_read_only = on`, which does what `SET TRANSACTION` does. The name, and what is behind it.
    pub(super) fn sets_mode(&mut self, name: Token, mut behind: Lexer<'a>) {
        let setting = self.lexer.bytes(name);
        let read_only = setting.eq_ignore_ascii_case(b"transaction_read_only");
        if !read_only && !setting.eq_ignore_ascii_case(b"transaction_isolation") {
            return;
        }
        behind.next();
        let token = behind.next();
        let value = match token.kind {
            Kind::Text => self.lexer.value(token).unwrap_or_default(),
            _ => self.lexer.name(token),
        };
        let mut modes = self.open_modes();
        match (read_only, value.to_ascii_lowercase().as_slice()) {
            (true, b"on" | b"true" | b"yes" | b"1") => modes.access = Some(AccessMode::ReadOnly),
            (false, b"repeatable read") => modes.isolation = Some(Isolation::RepeatableRead),
            (false, b"read committed" | b"read uncommitted") => {
                modes.isolation = Some(Isolation::ReadCommitted)
            }
            (false, b"serializable") => {
                modes.isolation = Some(Isolation::Serializable);
                self.asks_through(Cause::Mode, name, token);
            }
            (true, _) => {
                modes.access = Some(AccessMode::ReadWrite);
                self.asks_through(Cause::Mode, name, token);
            }
            (false, _) => self.asks_through(Cause::Mode, name, token),
        }
        self.set_open_modes(modes);
    }

    /// To the first word of the statement that is explained.
    pub(super) fn explain(&mut self) -> Token {
        self.explained = true;
        loop {
            let token = self.lexer.next();
            match self.word(token) {
                ANALYZE | ANALYSE => self.explained = false,
                VERBOSE => {}
                _ if token.kind == Kind::Open && !self.query_follows() => {
                    let mut options = self.lexer;
                    self.parentheses();
                    // Whatever value it has: that costs a read at most.
                    while options.peek().start() < self.lexer.at() {
                        let option = options.next();
                        if option.is_name() && matches!(&*self.lexer.name(option), b"analyze" | b"analyse") {
                            self.explained = false;
                        }
                    }
                }
                _ => return token,
            }
        }
    }

    fn query_follows(&self) -> bool {
        let token = self.lexer.peek();
        token.kind == Kind::Open || matches!(self.word(token), SELECT | WITH | VALUES | TABLE)
    }

    /// `COPY`: from where to where is said behind the table or the query.
    pub(super) fn copy(&mut self, first: Token) {
        let mut ahead = Rules::new(&[], self.knowledge);
        ahead.lexer = self.lexer;
        let mut token = ahead.lexer.next();
        if self.word(token) == BINARY && ahead.lexer.peek().is_name() {
            token = ahead.lexer.next();
        }
        if token.is_name() {
            dotted(&mut ahead.lexer, token);
            token = ahead.lexer.next();
        }
        if token.kind == Kind::Open {
            ahead.parentheses();
            token = ahead.lexer.next();
        }
        match (self.word(token), self.word(ahead.lexer.peek())) {
            (FROM, _) => self.asks_for(Cause::Changes, b"COPY FROM"),
            (TO, STDOUT | STDIN) => {}
            (TO, _) => self.asks_for(Cause::Host, b"COPY TO a file"),
            _ => self.asks(Cause::NotUnderstood, first),
        }
    }

    /// A relation that every host fills for itself. Asked of every name, so told from most by its first letters.
    #[inline]
    pub(super) fn relation(&mut self, token: Token) {
        let bytes = self.lexer.bytes(token);
        if let [b'p' | b'P', b'g' | b'G', b'_', _, ..] | [b'"', b'p', b'g', b'_', ..] = bytes {
            self.catalog(token);
        }
    }

    fn catalog(&mut self, token: Token) {
        let name = self.lexer.name(token);
        if name.starts_with(b"pg_stat_") || name.starts_with(b"pg_statio_") || HOSTS_OWN.contains(&name) {
            self.asks(Cause::Host, token);
        }
    }

    /// `current_setting('transaction_read_only')`
    pub(super) fn asks_for_setting(&mut self, name: &[u8], call: Token) {
        if name.eq_ignore_ascii_case(b"current_setting") {
            let argument = self.lexer.peek();
            if self.lexer.value(argument).is_some_and(|setting| is_of_host(&setting)) {
                self.asks_for(Cause::Host, self.lexer.between(call.start(), argument.end()));
            }
        }
    }
}

/// Settings by which drivers tell a primary from a standby.
fn is_of_host(setting: &[u8]) -> bool {
    [&b"transaction_read_only"[..], b"in_hot_standby"].iter().any(|name| setting.eq_ignore_ascii_case(name))
}
