//! What each statement may do: one pass over the tokens, dispatched by the first word of a statement.

mod expressions;

use crate::lexer::{Kind, Lexer, Token};
use crate::words::{HARMLESS, KEYWORDS, WRITING, pack};
use crate::{Effects, Name, Scan, Statement, Target};

/// Patterns for packed words: `words! { SET = "set" }`.
macro_rules! words {
    ($($name:ident = $word:literal)*) => { $(const $name: u128 = pack($word.as_bytes());)* };
}

words! {
    ABORT = "abort" ALL = "all" ALTER = "alter" ANALYSE = "analyse" ANALYZE = "analyze" AND = "and" AS = "as"
    AUTHORIZATION = "authorization" BEGIN = "begin" BIT = "bit" BY = "by" CALL = "call" CATALOG = "catalog"
    CHAR = "char" CHARACTER = "character" CHARACTERISTICS = "characteristics" CHECKPOINT = "checkpoint"
    CLOSE = "close" CLUSTER = "cluster" COLUMNS = "columns" COMMENT = "comment" COMMIT = "commit"
    CONFLICT = "conflict" CONSTRAINTS = "constraints" COPY = "copy" CREATE = "create" DATABASE = "database"
    DEALLOCATE = "deallocate" DECLARE = "declare" DELETE = "delete" DISCARD = "discard" DO = "do" DROP = "drop"
    END = "end" ESCAPE = "escape" EXECUTE = "execute" EXISTS = "exists" EXPLAIN = "explain" EXTENSION = "extension"
    FETCH = "fetch" FIRST = "first" FOR = "for" FORCE_NOT_NULL = "force_not_null" FORCE_NULL = "force_null"
    FORCE_QUOTE = "force_quote" FOREIGN = "foreign" FROM = "from" FUNCTION = "function" GLOBAL = "global"
    GRANT = "grant" GROUP = "group" GROUPING = "grouping" HASH = "hash" HOLD = "hold" IF = "if" ILIKE = "ilike"
    IMPORT = "import" INSERT = "insert" INTO = "into" JOIN = "join" KEY = "key" LIST = "list" LISTEN = "listen"
    LOAD = "load" LOCAL = "local" LOCK = "lock" MATERIALIZED = "materialized" MERGE = "merge" MOVE = "move"
    NAMES = "names" NCHAR = "nchar" NEXT = "next" NOT = "not" NOTIFY = "notify" ON = "on" ONLY = "only" OPERATOR = "operator"
    ORDER = "order" ORDINALITY = "ordinality" PARTITION = "partition" PASSING = "passing"
    PLANS = "plans" PREPARE = "prepare" PREPARED = "prepared" PRIMARY = "primary" PROCEDURE = "procedure"
    RANGE = "range" REASSIGN = "reassign" RECURSIVE = "recursive" REFERENCES = "references" REFRESH = "refresh"
    REINDEX = "reindex" RELEASE = "release" RENAME = "rename" REPLACE = "replace" RESET = "reset"
    REVOKE = "revoke" ROLE = "role" ROLLBACK = "rollback" ROLLUP = "rollup" CUBE = "cube" SAVEPOINT = "savepoint"
    SCHEMA = "schema" SECURITY = "security" SELECT = "select" SEQUENCES = "sequences" SESSION = "session"
    SET = "set" SETS = "sets" SHARE = "share" SHOW = "show" START = "start" STDIN = "stdin" STDOUT = "stdout" SYSTEM = "system" TABLE = "table"
    TABLESAMPLE = "tablesample" TABLESPACE = "tablespace" TEMP = "temp" TEMPLATE = "template" TEMPORARY = "temporary" THEN = "then"
    TIME = "time" TO = "to" TRANSACTION = "transaction" TRUE = "true" TRUNCATE = "truncate" UNLISTEN = "unlisten"
    UPDATE = "update" USER = "user" VACUUM = "vacuum" VALUES = "values" VARYING = "varying" VERBOSE = "verbose"
    WITH = "with" WORK = "work" XML = "xml" ZONE = "zone"
}

pub(crate) fn scan<'a>(text: &'a [u8], harmless: &'a dyn Fn(&[u8]) -> bool) -> Scan<'a> {
    let mut rules = Rules::new(text, harmless);
    if u32::try_from(text.len()).is_err() {
        rules.opaque();
        return Scan { effects: rules.effects, read_only: false, statement: Statement::Other, statements: 1 };
    }
    let mut statement = Statement::Empty;
    let mut statements = 0;
    while let Some(first) = rules.begin() {
        let this = rules.statement(first);
        statement = if statements == 0 { this } else { Statement::Several };
        statements += 1;
    }
    Scan { effects: rules.effects, read_only: rules.read_only, statement, statements }
}

/// What the expressions in a text do, whatever its statements are.
pub(crate) fn effects_of_expressions(text: &[u8], harmless: &dyn Fn(&[u8]) -> bool) -> Effects {
    let mut rules = Rules::new(text, harmless);
    while let Some(first) = rules.begin() {
        let verb = rules.word(first);
        rules.expressions(verb, first);
    }
    rules.effects
}

struct Rules<'a> {
    lexer: Lexer<'a>,
    /// Says it of functions that are not known here, by the last part of their names.
    harmless: &'a dyn Fn(&[u8]) -> bool,
    effects: Effects,
    read_only: bool,
    /// What ended the statement.
    end: Token,
}

impl<'a> Rules<'a> {
    fn new(text: &'a [u8], harmless: &'a dyn Fn(&[u8]) -> bool) -> Self {
        Rules { lexer: Lexer::new(text), harmless, effects: Effects::NONE, read_only: true, end: Token::NONE }
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
        let mut outer = None;
        loop {
            let (holder, body) = match self.word(first) {
                // The usual one need not be told from all the others.
                SELECT if outer.is_none() => return self.expressions(SELECT, first),
                EXPLAIN => (Statement::Other, self.explain()),
                PREPARE if self.word(self.lexer.peek()) != TRANSACTION => {
                    self.effects |= Effects::PREPARED;
                    self.read_only = false;
                    self.prepare()
                }
                DECLARE => {
                    self.read_only = false;
                    (Statement::Other, self.declare())
                }
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
            SHOW => return self.rest(Statement::Other),
            _ => self.read_only = false,
        }
        match verb {
            UPDATE => {
                self.update();
                return self.expressions(verb, first);
            }
            INSERT | DELETE | MERGE | COPY => return self.expressions(verb, first),
            BEGIN | START => {
                self.effects |= Effects::TRANSACTION;
                return self.rest(Statement::Begin);
            }
            COMMIT | END => return self.transaction(Statement::Commit),
            ROLLBACK | ABORT => return self.transaction(Statement::Rollback),
            SAVEPOINT | RELEASE | PREPARE => self.effects |= Effects::TRANSACTION,
            SET => return self.set(),
            RESET => return self.reset(),
            EXECUTE => return self.execute(),
            DEALLOCATE => return self.deallocate(),
            DISCARD => return self.discard(),
            LISTEN => return self.listen(),
            UNLISTEN => return self.unlisten(),
            NOTIFY => return self.notify(),
            CLOSE => self.effects |= Effects::CLOSE_CURSOR,
            LOAD => self.effects |= Effects::LOAD,
            FETCH | MOVE | LOCK | TRUNCATE | VACUUM | ANALYZE | ANALYSE | CHECKPOINT | CLUSTER | REINDEX => {}
            DO | REFRESH => self.effects |= Effects::CALLS,
            CALL => {
                self.effects |= Effects::CALLS;
                return self.expressions(verb, first);
            }
            CREATE | ALTER => return self.definition(verb, first),
            DROP => return self.drop(),
            COMMENT | GRANT | REVOKE | SECURITY | REASSIGN | IMPORT => self.effects |= Effects::DDL,
            _ => self.opaque(),
        }
        self.rest(Statement::Other)
    }

    /// `COMMIT`, `ROLLBACK`: with their words that end no transaction, or begin the next.
    fn transaction(&mut self, statement: Statement<'a>) -> Statement<'a> {
        self.effects |= Effects::TRANSACTION;
        let mut token = self.lexer.next();
        if matches!(self.word(token), WORK | TRANSACTION) {
            token = self.lexer.next();
        }
        match self.word(token) {
            PREPARED | TO | AND => self.rest(Statement::Other),
            _ => self.rest_from(token, statement),
        }
    }

    /// To the first word of the statement that is explained.
    fn explain(&mut self) -> Token {
        loop {
            let token = self.lexer.next();
            match self.word(token) {
                ANALYZE | ANALYSE | VERBOSE => {}
                _ if token.kind == Kind::Open && !self.query_follows() => self.parentheses(),
                _ => return token,
            }
        }
    }

    fn query_follows(&self) -> bool {
        let token = self.lexer.peek();
        token.kind == Kind::Open || matches!(self.word(token), SELECT | WITH | VALUES | TABLE)
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
                (WITH, HOLD) => self.effects |= Effects::HOLD_CURSOR,
                _ if matches!(token.kind, Kind::Word | Kind::Quoted) => {}
                _ => return token,
            }
            last = token;
        }
    }

    fn set(&mut self) -> Statement<'a> {
        let mut token = self.lexer.next();
        if self.word(token) == LOCAL && !self.assignment_follows() {
            self.effects |= Effects::LOCAL_SETTINGS;
            return self.rest(Statement::Other);
        }
        match self.word(token) {
            CONSTRAINTS => return self.rest(Statement::Other),
            TRANSACTION if !self.assignment_follows() => {
                self.effects |= Effects::LOCAL_SETTINGS;
                return self.rest(Statement::Other);
            }
            SESSION if !self.assignment_follows() => token = self.lexer.next(),
            _ => {}
        }
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

    fn execute(&mut self) -> Statement<'a> {
        self.effects |= Effects::EXECUTE;
        let token = self.lexer.next();
        if !token.is_name() {
            return self.rest_from(token, Statement::Other);
        }
        let name = self.lexer.name(token);
        // The arguments are expressions; seen from behind the name, their parenthesis opens no call.
        self.expressions(0, token.taken_for(Kind::Operator));
        Statement::Execute { name }
    }

    fn deallocate(&mut self) -> Statement<'a> {
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
        let token = self.lexer.next();
        match self.word(token) {
            PLANS => {}
            SEQUENCES => self.effects |= Effects::SEQUENCE,
            TEMP | TEMPORARY => self.effects |= Effects::TEMP_GONE,
            ALL => {
                self.effects |= DISCARD_ALL;
                return self.rest(Statement::DiscardAll);
            }
            _ => self.opaque(),
        }
        self.rest_from(token, Statement::Other)
    }

    fn listen(&mut self) -> Statement<'a> {
        self.effects |= Effects::LISTEN;
        let statement = self.name().map_or(Statement::Other, Statement::Listen);
        self.rest(statement)
    }

    fn unlisten(&mut self) -> Statement<'a> {
        self.effects |= Effects::UNLISTEN;
        let token = self.lexer.next();
        if self.lexer.bytes(token) == b"*" {
            return self.rest(Statement::Unlisten(Target::All));
        }
        let target = token.is_name().then(|| Target::One(self.lexer.name(token)));
        self.rest_from(token, target.map_or(Statement::Other, Statement::Unlisten))
    }

    fn notify(&mut self) -> Statement<'a> {
        self.effects |= Effects::NOTIFY;
        let statement = self.name().map_or(Statement::Other, Statement::Notify);
        self.rest(statement)
    }

    fn drop(&mut self) -> Statement<'a> {
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
    fn definition(&mut self, verb: u128, first: Token) -> Statement<'a> {
        self.effects |= Effects::DDL;
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
                (_, EXECUTE) if self.word(last) == AS => self.effects |= Effects::EXECUTE,
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
            Kind::Bad => self.opaque(),
            _ => return false,
        }
        self.end = token;
        true
    }

    fn opaque(&mut self) {
        self.effects |= Effects::OPAQUE;
        self.read_only = false;
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
