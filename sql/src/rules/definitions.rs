//! `CREATE`, `ALTER`, `DROP`.

use super::*;

impl<'a> Rules<'a, '_> {
    pub(super) fn drop(&mut self, first: Token) -> Statement<'a> {
        self.asks_through(Cause::Defines, first, self.lexer.peek());
        self.effects |= Effects::DDL | Effects::TEMP_GONE;
        let kind = self.lexer.next();
        if self.word(kind) != DATABASE {
            return self.rest_from(kind, Statement::Other);
        }
        self.effects |= Effects::DATABASE;
        if self.word(self.lexer.peek()) == IF {
            self.lexer.next();
            if self.word(self.lexer.peek()) == EXISTS {
                self.lexer.next();
            }
        }
        let statement = self.name().map_or(Statement::Other, Statement::Vacate);
        self.rest(statement)
    }

    /// `CREATE` and `ALTER`: the words tell what is defined; then the expressions in it.
    pub(super) fn definition(&mut self, verb: u128, first: Token) -> Statement<'a> {
        self.effects |= Effects::DDL;
        self.asks_through(Cause::Defines, first, self.lexer.peek());
        let mut words = self.lexer;
        let kind = self.word(words.peek());
        let mut last = first;
        let mut vacates = false;
        loop {
            let token = words.next();
            if matches!(token.kind, Kind::Semicolon | Kind::End | Kind::Bad) {
                break;
            }
            match (kind, self.word(token)) {
                (_, TEMP | TEMPORARY) if matches!(self.word(last), CREATE | REPLACE | LOCAL | GLOBAL) => {
                    self.effects |= Effects::TEMP;
                }
                (_, EXECUTE) if self.word(last) == AS => {
                    self.effects |= Effects::EXECUTE;
                    self.asks(Cause::Named, token);
                }
                (EXTENSION, _) => self.effects |= Effects::CALLS,
                (DATABASE, _) if verb == CREATE => vacates = true,
                (DATABASE, RENAME) => vacates = true,
                (DATABASE, TABLESPACE) if self.word(last) == SET => vacates = true,
                (SYSTEM, _) => self.effects |= Effects::DEFAULTS,
                (ROLE | USER | GROUP | DATABASE, SET | RESET) if verb == ALTER => {
                    self.effects |= Effects::DEFAULTS
                }
                _ if self.is_temporary_schema(token) => self.effects |= Effects::TEMP,
                _ => {}
            }
            last = token;
        }
        let vacated = vacates.then(|| self.vacated(verb)).flatten();
        if vacates {
            self.effects |= Effects::DATABASE;
        }
        let statement = self.expressions(verb, first);
        vacated.map_or(statement, Statement::Vacate)
    }

    /// The database that `ALTER DATABASE` names, or the template of `CREATE DATABASE`.
    fn vacated(&self, verb: u128) -> Option<Name<'a>> {
        let mut words = self.lexer;
        words.next();
        let mut token = words.next();
        if verb == CREATE {
            while self.word(token) != TEMPLATE {
                if matches!(token.kind, Kind::Semicolon | Kind::End | Kind::Bad) {
                    return Some(b"template1".as_slice().into());
                }
                token = words.next();
            }
            token = words.next();
            if self.lexer.bytes(token) == b"=" {
                token = words.next();
            }
        }
        match token.is_name() {
            true => Some(self.lexer.name(token)),
            false => self.lexer.value(token),
        }
    }
}
