//! Bodies of functions, of which only one thing is asked: whether they can be called without a look at the session.

use std::cell::RefCell;

use crate::lexer::{Kind, Lexer, Token};
use crate::rules::effects_of_expressions;
use crate::words::{Words, pack};
use crate::{Effects, Harmless};

/// The language of a function's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs)]
pub enum Language {
    Sql,
    PlPgSql,
}

/// A name behind which a parenthesis stands, or which stands behind a dot: `f(x)`, `x.f`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mention {
    /// A function that PostgreSQL does not bring along as a harmless one, or a type or the like.
    Call,
    /// Perhaps a function, if there is one of this name.
    Perhaps,
}

/// Whether a body leaves the session as it is, if everything that it calls does. It is not parsed: what is not known for
/// sure is not clean. `mention` is told the names that it may call, some of them twice.
pub fn is_clean_body(text: &[u8], language: Language, mention: &mut dyn FnMut(&[u8], Mention)) -> bool {
    if u32::try_from(text.len()).is_err() || !starts_only_harmless_statements(text, mention) {
        return false;
    }
    let calls = RefCell::new(mention);
    let called = |name: &[u8]| {
        if language == Language::Sql || !CONTROL.contains(name) {
            (*calls.borrow_mut())(name, Mention::Call);
        }
        true
    };
    let effects = effects_of_expressions(text, &Harmless(&called));
    // Here `SELECT INTO` fills a variable; what creates anything else was found above.
    let variables = Effects::DDL | Effects::TEMP;
    let effects = if language == Language::PlPgSql { effects.without(variables) } else { effects };
    effects.without(HARMLESS).is_empty()
}

/// What ends with the transaction, and what calls of unknown functions are taken for in any case.
const HARMLESS: Effects =
    Effects::LOCAL_SETTINGS.union(Effects::SEQUENCE).union(Effects::SEQUENCE_READ).union(Effects::NOTIFY);

/// No statement in the body begins with a word that may change the session, and no word in it hides what it does.
fn starts_only_harmless_statements(text: &[u8], mention: &mut dyn FnMut(&[u8], Mention)) -> bool {
    let mut lexer = Lexer::new(text);
    let (mut before, mut starts) = (Token::NONE, true);
    loop {
        let token = lexer.next();
        let bytes = lexer.bytes(token);
        let word = if token.kind == Kind::Word { pack(bytes) } else { 0 };
        match token.kind {
            Kind::End => return true,
            Kind::Bad => return false,
            Kind::Word if HIDING.contains(bytes) => return false,
            Kind::Word if starts && word == SET && !is_local(lexer) => return false,
            Kind::Word if starts && word != SET && STATEMENTS.contains(bytes) => return false,
            Kind::Word | Kind::Quoted => {
                let name = lexer.name(token);
                // To update the view sets what it says.
                if name.starts_with(b"pg_temp") || *name == *b"pg_settings" {
                    return false;
                }
                if before.kind == Kind::Dot || lexer.peek().kind == Kind::Open {
                    mention(&name, Mention::Perhaps);
                }
            }
            _ => {}
        }
        starts = match token.kind {
            Kind::Semicolon => true,
            Kind::Operator => bytes == b">", // of a label, perhaps
            _ => matches!(word, BEGIN | THEN | ELSE | LOOP),
        };
        before = token;
    }
}

/// What follows `SET` says that it ends with the transaction.
fn is_local(lexer: Lexer<'_>) -> bool {
    let next = lexer.peek();
    matches!(lexer.packed(next), LOCAL | CONSTRAINTS | TRANSACTION)
}

/// Statements that may change the session, make something that could be temporary, or end the transaction.
static STATEMENTS: Words<64> = Words::new(
    b"abort alter analyze checkpoint close cluster comment commit create deallocate discard do drop grant import listen \
load prepare reassign refresh reindex release reset revoke rollback savepoint security start unlisten vacuum ",
);

/// Words that hide statements wherever they stand, or make cursors that outlive the transaction.
static HIDING: Words<16> = Words::new(b"execute explain hold ");

/// Words of PL/pgSQL behind which a parenthesis is no call.
static CONTROL: Words<64> = Words::new(
    b"assert begin by cursor elseif elsif exception exit if insert loop next perform query raise return slice while ",
);

const BEGIN: u128 = pack(b"begin");
const CONSTRAINTS: u128 = pack(b"constraints");
const ELSE: u128 = pack(b"else");
const LOCAL: u128 = pack(b"local");
const LOOP: u128 = pack(b"loop");
const SET: u128 = pack(b"set");
const THEN: u128 = pack(b"then");
const TRANSACTION: u128 = pack(b"transaction");
