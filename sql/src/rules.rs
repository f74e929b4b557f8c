//! What each statement may do: one pass over the tokens, dispatched by the first word of a statement.

mod access;
mod definitions;
mod expressions;

use crate::access::{Access, Cause, Kind as AccessKind, Transaction};
use crate::lexer::{Kind, Lexer, Token};
use crate::words::{HARMLESS, HOSTS_OWN, KEYWORDS, WRITING, pack};
use crate::{Effects, Knowledge, Name, Scan, Statement, Target};

/// Patterns for packed words: `words! { SET = "set" }`.
macro_rules! words {
    ($($name:ident = $word:literal)*) => { $(const $name: u128 = pack($word.as_bytes());)* };
}

words! {
    ABORT = "abort" ALL = "all" ALTER = "alter" ANALYSE = "analyse" ANALYZE = "analyze" AND = "and" AS = "as"
    AUTHORIZATION = "authorization" BEGIN = "begin" BINARY = "binary" BIT = "bit" BY = "by" CALL = "call" CATALOG = "catalog"
    CHAR = "char" CHARACTER = "character" CHARACTERISTICS = "characteristics" CHECKPOINT = "checkpoint"
    CLOSE = "close" CLUSTER = "cluster" COLUMNS = "columns" COMMENT = "comment" COMMIT = "commit" COMMITTED = "committed"
    CONFLICT = "conflict" CONSTRAINTS = "constraints" COPY = "copy" CREATE = "create" DATABASE = "database"
    DEALLOCATE = "deallocate" DECLARE = "declare" DELETE = "delete" DISCARD = "discard" DO = "do" DROP = "drop"
    END = "end" ESCAPE = "escape" EXECUTE = "execute" EXISTS = "exists" EXPLAIN = "explain" EXTENSION = "extension"
    FETCH = "fetch" FIRST = "first" FOR = "for" FORCE_NOT_NULL = "force_not_null" FORCE_NULL = "force_null"
    FORCE_QUOTE = "force_quote" FOREIGN = "foreign" FROM = "from" FUNCTION = "function" GLOBAL = "global"
    GRANT = "grant" GROUP = "group" GROUPING = "grouping" HASH = "hash" HOLD = "hold" IF = "if" ILIKE = "ilike"
    IMPORT = "import" INSERT = "insert" INTO = "into" JOIN = "join" KEY = "key" LIST = "list" LISTEN = "listen"
    LOAD = "load" LOCAL = "local" LOCK = "lock" MATERIALIZED = "materialized" MERGE = "merge" MOVE = "move"
    NAMES = "names" NCHAR = "nchar" NEXT = "next" NO = "no" NOT = "not" NOTIFY = "notify" ON = "on" ONLY = "only" OPERATOR = "operator"
    ORDER = "order" ORDINALITY = "ordinality" PARTITION = "partition" PASSING = "passing"
    PLANS = "plans" PREPARE = "prepare" PREPARED = "prepared" PRIMARY = "primary" PROCEDURE = "procedure"
    RANGE = "range" READ = "read" REASSIGN = "reassign" RECURSIVE = "recursive" REFERENCES = "references" REFRESH = "refresh"
    REINDEX = "reindex" RELEASE = "release" RENAME = "rename" REPEATABLE = "repeatable" REPLACE = "replace" RESET = "reset"
    REVOKE = "revoke" ROLE = "role" ROLLBACK = "rollback" ROLLUP = "rollup" CUBE = "cube" SAVEPOINT = "savepoint"
    SCHEMA = "schema" SECURITY = "security" SELECT = "select" SEQUENCES = "sequences" SERIALIZABLE = "serializable" SESSION = "session"
    SET = "set" SETS = "sets" SHARE = "share" SHOW = "show" SNAPSHOT = "snapshot" START = "start" STDIN = "stdin" STDOUT = "stdout" SYSTEM = "system" TABLE = "table"
    TABLESAMPLE = "tablesample" TABLESPACE = "tablespace" TEMP = "temp" TEMPLATE = "template" TEMPORARY = "temporary" THEN = "then"
    TIME = "time" TO = "to" TRANSACTION = "transaction" TRUE = "true" TRUNCATE = "truncate" UNCOMMITTED = "uncommitted" UNLISTEN = "unlisten"
    UPDATE = "update" USER = "user" VACUUM = "vacuum" VALUES = "values" VARYING = "varying" VERBOSE = "verbose"
    WITH = "with" WORK = "work" WRITE = "write" XML = "xml" ZONE = "zone"
}

pub(crate) fn scan<'a>(text: &'a [u8], knowledge: &dyn Knowledge) -> Scan<'a> {
    let mut rules = Rules::new(text, knowledge);
    let (mut statement, mut statements) = (Statement::Empty, 0);
    let (mut kind, mut read_only) = (AccessKind::Neutral, true);
    if u32::try_from(text.len()).is_err() {
        rules.opaque(Token::NONE);
        (statement, statements) = (Statement::Other, 1);
        (kind, read_only) = (rules.kind, false);
    } else {
        while let Some(first) = rules.begin() {
            let this = rules.statement(first);
            statement = if statements == 0 { this } else { Statement::Several };
            statements += 1;
            read_only &= rules.kind.changes_nothing();
            kind = kind.and(rules.kind);
        }
    }
    let access = Access { kind, transaction: rules.transaction };
    Scan { effects: rules.effects, access, read_only, statement, statements }
}

/// What the expressions in a text do, whatever its statements are.
pub(crate) fn effects_of_expressions(text: &[u8], knowledge: &dyn Knowledge) -> Effects {
    let mut rules = Rules::new(text, knowledge);
    while let Some(first) = rules.begin() {
        let verb = rules.word(first);
        rules.expressions(verb, first);
    }
    rules.effects
}

struct Rules<'a, 'k> {
    lexer: Lexer<'a>,
    knowledge: &'k dyn Knowledge,
    effects: Effects,
    /// What the statement asks of its host.
    kind: AccessKind<'a>,
    /// It is only explained: nothing in it is run but functions, which the planner may call.
    explained: bool,
    transaction: Transaction,
    /// What ended the statement.
    end: Token,
}

impl<'a, 'k> Rules<'a, 'k> {
    fn new(text: &'a [u8], knowledge: &'k dyn Knowledge) -> Self {
        Rules {
            lexer: Lexer::new(text),
            knowledge,
            effects: Effects::NONE,
            kind: AccessKind::Reads,
            explained: false,
            transaction: Transaction::Same,
            end: Token::NONE,
        }
    }

    /// The first token of the next statement.
    fn begin(&mut self) -> Option<Token> {
        loop {
            let first = self.lexer.next();
            match first.kind {
                Kind::End => return None,
                Kind::Semicolon => {}
                _ => return Some(first),
            }
        }
    }

    /// One statement with its end. What holds another statement goes round.
    fn statement(&mut self, mut first: Token) -> Statement<'a> {
        (self.kind, self.explained) = (AccessKind::Reads, false);
        let mut outer = None;
        loop {
            let (holder, body) = match self.word(first) {
                // The usual one need not be told from all the others.
                SELECT if outer.is_none() => return self.expressions(SELECT, first),
                EXPLAIN => (Statement::Other, self.explain()),
                PREPARE if self.word(self.lexer.peek()) != TRANSACTION => {
                    self.effects |= Effects::PREPARED;
                    self.asks(Cause::Session, first);
                    self.prepare()
                }
                DECLARE => (Statement::Other, self.declare()),
                verb => {
                    let statement = self.simple(verb, first);
                    return match outer {
                        None => statement,
                        Some((Statement::Prepare { name, types, .. }, start)) => {
                            let body = self.lexer.between(start, self.end.start());
                            Statement::Prepare { name, types, body }
                        }
                        Some((holder, _)) => holder,
                    };
                }
            };
            first = body;
            outer.get_or_insert((holder, first.start()));
        }
    }

    /// A statement that holds no other.
    fn simple(&mut self, verb: u128, first: Token) -> Statement<'a> {
        match verb {
            SELECT | VALUES | TABLE | WITH => return self.expressions(verb, first),
            0 if first.kind == Kind::Open => return self.expressions(verb, first),
            SHOW => return self.show(first),
            UPDATE => {
                self.update(first);
                return self.expressions(verb, first);
            }
            INSERT | DELETE | MERGE => {
                self.asks(Cause::Changes, first);
                return self.expressions(verb, first);
            }
            COPY => {
                self.copy(first);
                return self.expressions(verb, first);
            }
            BEGIN | START => return self.begins(),
            COMMIT | END => return self.transaction(Statement::Commit, first),
            ROLLBACK | ABORT => return self.transaction(Statement::Rollback, first),
            SAVEPOINT | RELEASE => {
                self.neutral();
                self.effects |= Effects::TRANSACTION;
            }
            PREPARE => {
                self.asks_through(Cause::Refused, first, self.lexer.peek());
                self.effects |= Effects::TRANSACTION;
            }
            SET => return self.set(first),
            RESET => return self.reset(),
            EXECUTE => return self.execute(first),
            DEALLOCATE => return self.deallocate(),
            DISCARD => return self.discard(),
            LISTEN => return self.listen(first),
            UNLISTEN => return self.unlisten(),
            NOTIFY => return self.notify(first),
            CLOSE => {
                self.neutral();
                self.effects |= Effects::CLOSE_CURSOR;
            }
            LOAD => {
                self.asks(Cause::Code, first);
                self.effects |= Effects::LOAD;
            }
            FETCH | MOVE => self.asks(Cause::Named, first),
            LOCK => self.asks(Cause::Locks, first),
            TRUNCATE => self.asks(Cause::Changes, first),
            VACUUM | ANALYZE | ANALYSE | CHECKPOINT | CLUSTER | REINDEX => self.asks(Cause::Refused, first),
            DO => {
                self.asks(Cause::Code, first);
                self.effects |= Effects::CALLS;
            }
            REFRESH => {
                self.asks(Cause::Changes, first);
                self.effects |= Effects::CALLS;
            }
            CALL => {
                self.asks(Cause::Code, first);
                self.effects |= Effects::CALLS;
                return self.expressions(verb, first);
            }
            CREATE | ALTER => return self.definition(verb, first),
            DROP => return self.drop(first),
            COMMENT | GRANT | REVOKE | SECURITY | REASSIGN | IMPORT => {
                self.asks(Cause::Defines, first);
                self.effects |= Effects::DDL;
            }
            _ => self.opaque(first),
        }
        self.rest(Statement::Other)
    }

    /// `name [(types)] AS`, to the first word of what is prepared.
    fn prepare(&mut self) -> (Statement<'a>, Token) {
        let Some(name) = self.name() else { return (Statement::Other, self.lexer.next()) };
        let mut token = self.lexer.next();
        let mut types: &[u8] = &[];
        if token.kind == Kind::Open {
            self.parentheses();
            types = self.lexer.between(token.end(), self.end.start());
            token = self.lexer.next();
        }
        if self.word(token) != AS {
            return (Statement::Other, token);
        }
        (Statement::Prepare { name, types, body: &[] }, self.lexer.next())
    }

    /// `DECLARE name ... CURSOR ... FOR`, to the first word of its query.
    fn declare(&mut self) -> Token {
        let mut last = self.lexer.next();
        loop {
            let token = self.lexer.next();
            match (self.word(last), self.word(token)) {
                (_, FOR) => return self.lexer.next(),
                (WITH, HOLD) => {
                    self.effects |= Effects::HOLD_CURSOR;
                    self.asks_through(Cause::Session, last, token);
                }
                _ if matches!(token.kind, Kind::Word | Kind::Quoted) => {}
                _ => return token,
            }
            last = token;
        }
    }

    fn set(&mut self, first: Token) -> Statement<'a> {
        self.neutral();
        let mut token = self.lexer.next();
        if self.word(token) == LOCAL && !self.assignment_follows() {
            self.effects |= Effects::LOCAL_SETTINGS;
            let mut behind = self.lexer;
            let name = behind.next();
            self.sets_mode(name, behind);
            return self.rest(Statement::Other);
        }
        match self.word(token) {
            CONSTRAINTS => {
                self.asks_through(Cause::Mode, first, token);
                return self.rest(Statement::Other);
            }
            TRANSACTION if !self.assignment_follows() => {
                self.effects |= Effects::LOCAL_SETTINGS;
                let mut modes = self.open_modes();
                self.modes(&mut modes);
                self.set_open_modes(modes);
                return Statement::Other;
            }
            SESSION if !self.assignment_follows() => token = self.lexer.next(),
            _ => {}
        }
        self.sets_mode(token, self.lexer);
        let statement = self.setting(token).map_or(Statement::Other, |name| Statement::Set { name });
        self.rest_from(token, statement)
    }

    fn assignment_follows(&self) -> bool {
        let token = self.lexer.peek();
        self.word(token) == TO || matches!(token.kind, Kind::Operator | Kind::Dot)
    }

    /// The setting that begins with this token, and what changing it does to the session.
    fn setting(&mut self, token: Token) -> Option<Name<'a>> {
        self.effects |= Effects::SETTINGS;
        let plain = self.assignment_follows();
        let name: Name<'a> = match self.word(token) {
            CHARACTERISTICS if !plain => return None,
            AUTHORIZATION if !plain => b"session_authorization".as_slice().into(),
            SESSION if !plain => b"session_authorization".as_slice().into(),
            TIME if !plain => b"timezone".as_slice().into(),
            NAMES if !plain => b"client_encoding".as_slice().into(),
            XML if !plain => b"xmloption".as_slice().into(),
            SCHEMA if !plain => b"search_path".as_slice().into(),
            CATALOG if !plain => return None,
            TRANSACTION if !plain => b"transaction_isolation".as_slice().into(),
            _ if token.is_name() => dotted(&mut self.lexer, token),
            _ => {
                self.effects |= Effects::ROLE;
                return None;
            }
        };
        self.effects |= setting_effects(&name);
        Some(name)
    }

    fn reset(&mut self) -> Statement<'a> {
        self.neutral();
        let token = self.lexer.next();
        if self.word(token) == ALL {
            self.effects |= Effects::RESET;
            return self.rest(Statement::Reset(Target::All));
        }
        let before = std::mem::replace(&mut self.effects, Effects::NONE);
        let target = self.setting(token).map(Target::One);
        self.effects = before | Effects::RESET | self.effects.without(Effects::SETTINGS);
        self.rest_from(token, target.map_or(Statement::Other, Statement::Reset))
    }

    fn execute(&mut self, first: Token) -> Statement<'a> {
        self.effects |= Effects::EXECUTE;
        let token = self.lexer.next();
        if !token.is_name() || !self.knowledge.prepared_only_reads(&self.lexer.name(token)) {
            self.asks_through(Cause::Named, first, token);
        }
        if !token.is_name() {
            return self.rest_from(token, Statement::Other);
        }
        let name = self.lexer.name(token);
        // The arguments are expressions; seen from behind the name, their parenthesis opens no call.
        self.expressions(0, token.taken_for(Kind::Operator));
        Statement::Execute { name }
    }

    fn deallocate(&mut self) -> Statement<'a> {
        self.neutral();
        self.effects |= Effects::PREPARED;
        let mut token = self.lexer.next();
        if self.word(token) == PREPARE && self.lexer.peek().is_name() {
            token = self.lexer.next();
        }
        match self.target(token) {
            Some(target) => {
                if target == Target::All {
                    self.effects |= Effects::DEALLOCATE_ALL;
                }
                self.rest(Statement::Deallocate(target))
            }
            None => self.rest_from(token, Statement::Other),
        }
    }

    fn discard(&mut self) -> Statement<'a> {
        self.neutral();
        let token = self.lexer.next();
        match self.word(token) {
            PLANS => {}
            SEQUENCES => self.effects |= Effects::SEQUENCE,
            TEMP | TEMPORARY => self.effects |= Effects::TEMP_GONE,
            ALL => {
                self.effects |= DISCARD_ALL;
                return self.rest(Statement::DiscardAll);
            }
            _ => self.opaque(token),
        }
        self.rest_from(token, Statement::Other)
    }

    fn listen(&mut self, first: Token) -> Statement<'a> {
        self.asks(Cause::Refused, first);
        self.effects |= Effects::LISTEN;
        let statement = self.name().map_or(Statement::Other, Statement::Listen);
        self.rest(statement)
    }

    fn unlisten(&mut self) -> Statement<'a> {
        self.neutral();
        self.effects |= Effects::UNLISTEN;
        let token = self.lexer.next();
        if self.lexer.bytes(token) == b"*" {
            return self.rest(Statement::Unlisten(Target::All));
        }
        let target = token.is_name().then(|| Target::One(self.lexer.name(token)));
        self.rest_from(token, target.map_or(Statement::Other, Statement::Unlisten))
    }

    fn notify(&mut self, first: Token) -> Statement<'a> {
        self.asks(Cause::Refused, first);
        self.effects |= Effects::NOTIFY;
        let statement = self.name().map_or(Statement::Other, Statement::Notify);
        self.rest(statement)
    }

    fn is_temporary_schema(&self, token: Token) -> bool {
        let bytes = self.lexer.bytes(token);
        let bytes = bytes.strip_prefix(b"\"").unwrap_or(bytes);
        token.is_name() && bytes.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"pg_temp"))
    }

    fn target(&self, token: Token) -> Option<Target<'a>> {
        match self.word(token) {
            ALL => Some(Target::All),
            _ => token.is_name().then(|| Target::One(self.lexer.name(token))),
        }
    }

    /// The name that follows, if one does.
    fn name(&mut self) -> Option<Name<'a>> {
        let token = self.lexer.peek();
        token.is_name().then(|| {
            self.lexer.next();
            self.lexer.name(token)
        })
    }

    /// To the parenthesis that closes the one before; or to the statement's end, which is left.
    fn parentheses(&mut self) {
        let mut depth = 1;
        while depth > 0 && !matches!(self.lexer.peek().kind, Kind::Semicolon | Kind::End | Kind::Bad) {
            self.end = self.lexer.next();
            match self.end.kind {
                Kind::Open => depth += 1,
                Kind::Close => depth -= 1,
                _ => {}
            }
        }
    }

    /// To the end of a statement of which no more need be known.
    fn rest(&mut self, statement: Statement<'a>) -> Statement<'a> {
        let token = self.lexer.next();
        self.rest_from(token, statement)
    }

    fn rest_from(&mut self, mut token: Token, statement: Statement<'a>) -> Statement<'a> {
        while !self.ends(token) {
            token = self.lexer.next();
        }
        statement
    }

    #[inline]
    fn ends(&mut self, token: Token) -> bool {
        match token.kind {
            Kind::Semicolon | Kind::End => {}
            Kind::Bad => self.opaque(token),
            _ => return false,
        }
        self.end = token;
        true
    }

    fn opaque(&mut self, token: Token) {
        self.effects |= Effects::OPAQUE;
        self.asks(Cause::NotUnderstood, token);
    }

    /// The token as a packed word, 0 if it is none.
    fn word(&self, token: Token) -> u128 {
        self.lexer.packed(token)
    }
}

/// The name of a setting, of one part or several with dots between, whose first part is this token.
pub(crate) fn dotted<'a>(lexer: &mut Lexer<'a>, token: Token) -> Name<'a> {
    let mut name = lexer.name(token);
    while lexer.peek().kind == Kind::Dot {
        lexer.next();
        let part = lexer.peek();
        if !part.is_name() {
            break;
        }
        lexer.next();
        let whole = lexer.between(token.start(), part.end());
        let part = lexer.name(part);
        // Borrowed as long as nothing is folded and no blank is between.
        if name.len() + 1 + part.len() == whole.len()
            && !whole.iter().any(|b| b.is_ascii_uppercase() || *b == b'"')
        {
            name = whole.into();
        } else {
            let mut owned = name.into_owned();
            owned.push(b'.');
            owned.extend_from_slice(&part);
            name = owned.into();
        }
    }
    name
}

/// What a setting does beyond being one. Names of settings know no case.
fn setting_effects(name: &[u8]) -> Effects {
    match name {
        _ if name.eq_ignore_ascii_case(b"role") => Effects::ROLE,
        _ if name.eq_ignore_ascii_case(b"session_authorization") => Effects::ROLE,
        _ if name.eq_ignore_ascii_case(b"seed") => Effects::SEED,
        _ => Effects::NONE,
    }
}

const DISCARD_ALL: Effects = Effects::DISCARD_ALL
    .union(Effects::SETTINGS)
    .union(Effects::ROLE)
    .union(Effects::PREPARED)
    .union(Effects::DEALLOCATE_ALL)
    .union(Effects::LISTEN)
    .union(Effects::CLOSE_CURSOR)
    .union(Effects::TEMP_GONE)
    .union(Effects::UNLOCKS)
    .union(Effects::SEQUENCE);
