//! What the expressions of a statement may do: calls of functions, and words that write, wherever they stand.

use super::*;

impl<'a> Rules<'a, '_> {
    /// The rest of a statement, looked at for calls of functions and for words that write.
    pub(super) fn expressions(&mut self, verb: u128, first: Token) -> Statement<'a> {
        let mut seen = Seen { last: first, name: first, parts: 1, verb, ..Seen::START };
        match seen.verb {
            WITH => seen.with_list = 1,
            0 if first.kind == Kind::Open => seen.depth = 1,
            _ => {}
        }
        loop {
            let token = self.lexer.next();
            if seen.with_list != 0 {
                self.leave_with_list(&mut seen, token);
            }
            let mut kind = token.kind;
            match token.kind {
                Kind::Word | Kind::Quoted => {
                    self.relation(token);
                    if seen.last.kind == Kind::Dot {
                        (seen.schema, seen.name, seen.parts) =
                            (seen.name, token, seen.parts.saturating_add(1));
                    } else {
                        (seen.before, seen.name, seen.parts) = (seen.last, token, 1);
                        if kind == Kind::Word {
                            self.keyword(&mut seen, token);
                        }
                    }
                }
                Kind::Dot if !seen.last.is_name() => seen.parts = u8::MAX,
                Kind::Open => self.open(&mut seen),
                Kind::Close => kind = self.close(&mut seen),
                _ if self.ends(token) => return Statement::Other,
                _ => {}
            }
            seen.before_last = seen.last.kind;
            seen.last = token.taken_for(kind);
        }
    }

    /// Words in a query that matter where they stand: few, and told from the rest by length and first letter.
    #[inline]
    fn keyword(&mut self, seen: &mut Seen, token: Token) {
        let bytes = self.lexer.bytes(token);
        let first = bytes.first().map_or(0, |b| b | 0x20);
        if matches!((bytes.len(), first), (4, b'i' | b'w') | (5, b'm' | b's') | (6, b'd' | b'i' | b'u')) {
            self.notable(seen, token);
        }
    }

    fn notable(&mut self, seen: &mut Seen, token: Token) {
        match self.word(token) {
            WITH => {
                let starts = seen.last.kind == Kind::Open || matches!(self.word(seen.last), AS | FOR);
                if starts {
                    seen.with_list |= seen.bit();
                }
            }
            INTO if !matches!(self.word(seen.last), INSERT | MERGE) => {
                self.asks_for(Cause::Defines, b"SELECT INTO");
                self.effects |= Effects::DDL;
                let target = self.lexer.peek();
                if matches!(self.word(target), TEMP | TEMPORARY | LOCAL | GLOBAL)
                    || self.is_temporary_schema(target)
                {
                    self.effects |= Effects::TEMP;
                }
            }
            UPDATE | SHARE if matches!(self.word(seen.last), FOR | KEY) => {
                let clause: &[u8] = match (self.word(seen.last), self.word(token)) {
                    (FOR, UPDATE) => b"FOR UPDATE",
                    (FOR, _) => b"FOR SHARE",
                    (_, UPDATE) => b"FOR NO KEY UPDATE",
                    _ => b"FOR KEY SHARE",
                };
                self.asks_for(Cause::Locks, clause);
            }
            // Elsewhere they are names, if not a statement begins here. None of these words is reserved.
            UPDATE if self.names_table(self.lexer.peek()) => self.update(token),
            INSERT | MERGE if self.word(self.lexer.peek()) == INTO => self.asks(Cause::Changes, token),
            DELETE if self.word(self.lexer.peek()) == FROM => self.asks(Cause::Changes, token),
            _ => {}
        }
    }

    fn names_table(&self, token: Token) -> bool {
        token.is_name() && self.word(token) != FROM
    }

    /// `UPDATE [ONLY] table`: that of the view `pg_settings` sets what it says.
    pub(super) fn update(&mut self, verb: Token) {
        self.asks(Cause::Changes, verb);
        let mut ahead = self.lexer;
        let mut token = ahead.next();
        if self.word(token) == ONLY {
            token = ahead.next();
        }
        let name = if token.is_name() { dotted(&mut ahead, token) } else { Name::default() };
        if matches!(&*name, b"pg_settings" | b"pg_catalog.pg_settings") {
            self.effects |= Effects::SETTINGS;
        }
    }

    /// `WITH a (x) AS (...), b (y) AS (...) SELECT`: the list goes on behind a parenthesis with a comma only.
    fn leave_with_list(&self, seen: &mut Seen, token: Token) {
        if matches!(seen.last.kind, Kind::Close)
            && seen.with_list & seen.bit() != 0
            && token.kind != Kind::Comma
            && self.word(token) != AS
        {
            seen.with_list &= !seen.bit();
        }
    }

    fn open(&mut self, seen: &mut Seen) {
        let mut config = None;
        if seen.last.is_name() && self.is_call(seen) {
            config = self.call(seen);
        }
        let precedes_expression = matches!(self.word(seen.last), OPERATOR | ON | WITH) && seen.parts == 1;
        seen.depth += 1;
        let bit = seen.bit();
        if bit == 0 {
            // Too deep for the bits below.
            self.opaque(seen.last);
        }
        seen.with_list &= !bit;
        seen.set(precedes_expression, |seen| &mut seen.precedes_expression);
        seen.set(config.is_some(), |seen| &mut seen.config);
        seen.set(config.is_some_and(|effects| effects.contains(Effects::ROLE)), |seen| &mut seen.role);
        if bit == 0 && config.is_some() {
            self.effects |= Effects::SETTINGS | Effects::ROLE;
        }
    }

    fn close(&mut self, seen: &mut Seen) -> Kind {
        let bit = seen.bit();
        seen.with_list &= !bit;
        if seen.config & bit != 0 {
            let local = self.word(seen.last) == TRUE && seen.before_last == Kind::Comma;
            self.effects |= match (local, seen.role & bit != 0) {
                (true, _) => Effects::LOCAL_SETTINGS,
                (false, true) => Effects::SETTINGS | Effects::ROLE,
                (false, false) => Effects::SETTINGS,
            };
        }
        let kind = if seen.precedes_expression & bit != 0 { Kind::Operator } else { Kind::Close };
        seen.depth = seen.depth.saturating_sub(1);
        kind
    }

    /// A name is followed by a parenthesis: is it a call? Asked in the order of what is cheap and usual.
    fn is_call(&self, seen: &Seen) -> bool {
        let before = self.word(seen.before);
        match before {
            _ if matches!(seen.before.kind, Kind::Cast | Kind::Close | Kind::End) => return false,
            AS | INTO | COPY | ORDINALITY | TABLESAMPLE => return false,
            TABLE | EXISTS | REFERENCES | FUNCTION | PROCEDURE | EXECUTE
                if matches!(seen.verb, CREATE | ALTER) =>
            {
                return false;
            }
            _ => {}
        }
        if seen.parts > 1 {
            return true;
        }
        let in_with_list = seen.with_list & seen.bit() != 0;
        if in_with_list && (seen.before.kind == Kind::Comma || matches!(before, WITH | RECURSIVE)) {
            return false;
        }
        if seen.name.kind == Kind::Quoted {
            return true;
        }
        if KEYWORDS.contains(self.lexer.bytes(seen.name)) {
            return false;
        }
        match (self.word(seen.name), before) {
            (CONFLICT, ON)
            | (BY, GROUP | ORDER | PARTITION)
            | (ROLLUP | CUBE | RANGE | LIST | HASH, BY)
            | (SETS, GROUPING)
            | (ZONE, TIME)
            | (VARYING, CHARACTER | CHAR | NCHAR | BIT)
            | (FIRST | NEXT, FETCH)
            | (KEY, PRIMARY | FOREIGN)
            | (MATERIALIZED, NOT) => false,
            (INSERT, THEN) => !matches!(seen.verb, MERGE | WITH),
            (STDIN, FROM) | (STDOUT, TO) | (FORCE_QUOTE | FORCE_NULL | FORCE_NOT_NULL, _) => {
                seen.verb != COPY
            }
            (OPERATOR | SET | JOIN | ILIKE | ESCAPE | COLUMNS | PASSING, _) => {
                !self.ends_operand(seen.before)
            }
            _ => true,
        }
    }

    fn ends_operand(&self, token: Token) -> bool {
        match token.kind {
            Kind::Word => !KEYWORDS.contains(self.lexer.bytes(token)),
            kind => matches!(kind, Kind::Quoted | Kind::Text | Kind::Coded | Kind::Dollar | Kind::Number),
        }
    }

    /// What the call does. `Some` for `set_config`, with what it may set: whether it is local is known at its end.
    fn call(&mut self, seen: &Seen) -> Option<Effects> {
        let mut name = self.lexer.bytes(seen.name);
        if seen.name.kind == Kind::Quoted {
            name = name.get(1..name.len() - 1).unwrap_or_default();
        }
        // A quoted name with a capital or a quote in it is nobody's but the user's.
        let folded =
            seen.name.kind == Kind::Word || !name.iter().any(|b| b.is_ascii_uppercase() || *b == b'"');
        let builtin = seen.parts == 1 || (seen.parts == 2 && self.is_builtin_schema(seen.schema));
        if !folded || !builtin {
            self.unknown(seen);
        } else if HARMLESS.contains(name) {
            if WRITING.contains(name) {
                self.asks_for(Cause::Function, self.written(seen));
            }
            self.asks_for_setting(name, seen.name);
        } else if name.eq_ignore_ascii_case(b"set_config") {
            self.asks_for(Cause::Function, self.written(seen));
            return Some(self.first_argument_sets());
        } else if let Some((_, effects)) =
            SPECIAL.iter().find(|(special, _)| name.eq_ignore_ascii_case(special.as_bytes()))
        {
            self.effects |= *effects;
            self.asks_for(Cause::Function, self.written(seen));
        } else {
            self.unknown(seen);
        }
        None
    }

    /// Whoever knows the functions need not know the temporary ones, which are called by their schema only.
    fn unknown(&mut self, seen: &Seen) {
        let temporary = seen.parts > 1 && self.is_temporary_schema(seen.schema);
        let name = self.lexer.name(seen.name);
        let schema = if seen.parts > 1 { self.lexer.name(seen.schema) } else { Name::default() };
        if temporary || seen.parts > 2 || !self.knowledge.only_reads(&schema, &name) {
            self.asks_for(Cause::UnknownFunction, self.written(seen));
        }
        if temporary || !self.knowledge.is_harmless(&name) {
            self.effects |= Effects::CALLS;
        }
    }

    /// The function's name as in the text.
    fn written(&self, seen: &Seen) -> &'a [u8] {
        let first = if seen.parts > 1 { seen.schema } else { seen.name };
        self.lexer.between(first.start(), seen.name.end())
    }

    fn is_builtin_schema(&self, token: Token) -> bool {
        let schema = self.lexer.name(token);
        matches!(&*schema, b"pg_catalog" | b"information_schema")
    }

    /// `set_config('name', ...)`: the effects of that setting, or of any if it is not a plain string.
    fn first_argument_sets(&self) -> Effects {
        let mut ahead = self.lexer;
        let argument = ahead.next();
        match self.lexer.value(argument) {
            Some(name) if ahead.next().kind == Kind::Comma => setting_effects(&name),
            _ => Effects::ROLE,
        }
    }
}

/// Where the expressions of a statement stand.
struct Seen {
    /// The token before, and the kind of the one before that.
    last: Token,
    before_last: Kind,
    /// The last name: its last part, the part before, how many parts, and the token before all of them.
    name: Token,
    schema: Token,
    parts: u8,
    before: Token,
    /// The statement's first word.
    verb: u128,
    depth: u32,
    /// One bit for each depth of parentheses: in the list of a `WITH`; ...
    with_list: u64,
    /// ... in one that an expression may follow: `DISTINCT ON (x) f(y)`, `OPERATOR(s.+) f(x)`; ...
    precedes_expression: u64,
    /// ... in the arguments of `set_config`; ...
    config: u64,
    /// ... which may set a role.
    role: u64,
}

impl Seen {
    const START: Self = Self {
        last: Token::NONE,
        before_last: Kind::End,
        name: Token::NONE,
        schema: Token::NONE,
        parts: 0,
        before: Token::NONE,
        verb: 0,
        depth: 0,
        with_list: 0,
        precedes_expression: 0,
        config: 0,
        role: 0,
    };

    /// The bit of this depth; none is left for more than 63.
    fn bit(&self) -> u64 {
        1u64.checked_shl(self.depth).unwrap_or_default()
    }

    fn set(&mut self, on: bool, bits: impl Fn(&mut Self) -> &mut u64) {
        let bit = self.bit();
        let bits = bits(self);
        *bits = if on { *bits | bit } else { *bits & !bit };
    }
}

const KEPT: Effects = Effects::LOAD.union(Effects::CALLS);

const SPECIAL: &[(&str, Effects)] = &[
    ("nextval", Effects::SEQUENCE),
    ("setval", Effects::SEQUENCE),
    ("currval", Effects::SEQUENCE_READ),
    ("lastval", Effects::SEQUENCE_READ),
    ("setseed", Effects::SEED),
    ("dblink_connect", KEPT),
    ("dblink_connect_u", KEPT),
    ("pg_backup_start", KEPT),
    ("pg_start_backup", KEPT),
    ("pg_create_logical_replication_slot", KEPT),
    ("pg_create_physical_replication_slot", KEPT),
    ("pg_copy_logical_replication_slot", KEPT),
    ("pg_copy_physical_replication_slot", KEPT),
    ("pg_replication_origin_session_setup", KEPT),
    ("pg_notify", Effects::NOTIFY),
    ("pg_listening_channels", Effects::LISTEN),
    ("pg_advisory_lock", Effects::LOCKS),
    ("pg_advisory_lock_shared", Effects::LOCKS),
    ("pg_try_advisory_lock", Effects::LOCKS),
    ("pg_try_advisory_lock_shared", Effects::LOCKS),
    ("pg_advisory_unlock", Effects::UNLOCKS),
    ("pg_advisory_unlock_shared", Effects::UNLOCKS),
    ("pg_advisory_unlock_all", Effects::UNLOCKS),
];
