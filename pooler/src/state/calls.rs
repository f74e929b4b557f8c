//! Which functions of the database may be called by name without an audit: they, and all that they call by name, leave
//! the session as it is. What their bodies cause otherwise (triggers, operators) counts as if a text had done it.

use std::collections::{HashMap, HashSet};

use sql::{Language, Mention, is_clean_body};

use crate::intern::hash_of;

/// What look-ups have told of the functions of a database. Those that were dropped stay for a while, which can only make
/// others look worse than they are.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    functions: HashMap<u32, Function>,
    /// Up to where they are known.
    mark: Mark,
    /// They are all there.
    complete: bool,
}

/// A moment in the life of a database. The default is before any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The database, on a server since its start.
    pub(crate) place: String,
    /// The oldest transaction that was under way: what older ones have defined is known.
    pub(crate) since: String,
}

impl Default for Mark {
    fn default() -> Mark {
        Mark { place: String::new(), since: "3".to_owned() } // the first transaction
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: Box<[u8]>,
    /// PostgreSQL has one of this name itself, which may be meant.
    ambiguous: bool,
    clean: bool,
    /// The hashes of the names that it may call.
    mentions: Box<[(u64, Mention)]>,
}

/// The answer of a look-up: the rows of `functions.sql`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) mark: Option<(String, String)>,
    pub(crate) functions: Vec<(String, String)>,
}

/// The same, understood.
#[derive(Debug)]
pub(crate) struct News {
    mark: Mark,
    /// How many functions there are.
    count: usize,
    /// These are all of them, and not only those that are new since the mark that was asked for.
    whole: bool,
    functions: Vec<(u32, Function)>,
}

/// To look at more bodies than this, in bytes, takes milliseconds.
const LONG: usize = 256 << 10;

impl Listing {
    pub(crate) fn is_long(&self) -> bool {
        self.functions.iter().map(|(_, body)| body.len() / 2).sum::<usize>() > LONG
    }

    /// Looks at the bodies, which may take a while. `None`: there was more than can be looked at, or nothing.
    pub(crate) fn read(self) -> Option<News> {
        let (mark, count) = self.mark?;
        let (place, since) = mark.split_once(' ')?;
        let (count, whole) = count.split_once(' ')?;
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if !is_number(place) || !is_number(since) {
            return None;
        }
        Some(News {
            mark: Mark { place: place.to_owned(), since: since.to_owned() },
            count: count.parse().ok()?,
            whole: whole == "t",
            functions: self
                .functions
                .iter()
                .map(|(head, body)| Function::read(head, body))
                .collect::<Option<_>>()?,
        })
    }
}

impl Function {
    fn read(head: &str, body: &str) -> Option<(u32, Function)> {
        let mut parts = head.split(' ');
        let (number, kind, name) = (parts.next()?, parts.next()?, unhex(parts.next()?)?);
        let mut mentions = HashSet::new();
        let mut mention = |name: &[u8], how| {
            mentions.insert((hash_of([name]), how));
        };
        let clean = match kind.as_bytes().first()? {
            b's' => is_clean_body(&unhex(body)?, Language::Sql, &mut mention),
            b'p' => is_clean_body(&unhex(body)?, Language::PlPgSql, &mut mention),
            b'n' => is_clean_body(&unhex(body)?, Language::Sql, &mut mention), // the defaults of its arguments
            _ => false,
        };
        let mentions = if clean { mentions.into_iter().collect() } else { Box::default() };
        let function = Function { name: name.into(), ambiguous: kind.ends_with('B'), clean, mentions };
        Some((number.parse().ok()?, function))
    }
}

impl Facts {
    /// From where a look-up has to tell.
    pub(crate) fn mark(&self) -> Mark {
        self.mark.clone()
    }

    /// Takes what a look-up has told that was asked for all behind `asked`.
    pub(crate) fn learn(&mut self, asked: &Mark, news: Option<News>) {
        let Some(news) = news else { return *self = Facts::default() };
        if news.whole {
            self.functions.clear();
        } else if self.mark != *asked {
            // Another look-up was answered in between: what is known may be of another moment.
            return *self = Facts::default();
        }
        self.functions.extend(news.functions);
        self.complete = self.functions.len() >= news.count;
        // Some were dropped: the next look-up tells which are left.
        self.mark = if self.functions.len() == news.count { news.mark } else { Mark::default() };
    }

    /// The names of those that may be called.
    pub(crate) fn clean_names(&self) -> HashSet<Box<[u8]>> {
        if !self.complete {
            return HashSet::new();
        }
        let mut names: HashMap<u64, bool> = HashMap::new();
        for function in self.functions.values() {
            *names.entry(function.key()).or_default() |= function.ambiguous;
        }
        let safe = |&(name, how): &(u64, Mention)| match (how, names.get(&name)) {
            (Mention::Call, Some(ambiguous)) => !ambiguous,
            (Mention::Call, None) => false,
            (Mention::Perhaps, _) => true,
        };
        let mut callers: HashMap<u64, Vec<u64>> = HashMap::new();
        let mut unclean = HashSet::new();
        let mut spread = Vec::new();
        for function in self.functions.values() {
            let own = function.mentions.iter().filter(|(name, _)| names.contains_key(name));
            own.for_each(|(name, _)| callers.entry(*name).or_default().push(function.key()));
            if !function.clean || !function.mentions.iter().all(safe) {
                spread.push(function.key());
            }
        }
        while let Some(name) = spread.pop() {
            if unclean.insert(name) {
                spread.extend(callers.get(&name).into_iter().flatten());
            }
        }
        // Those beyond ASCII clients may write in other encodings.
        let trusted = |function: &&Function| {
            function.name.is_ascii() && !names[&function.key()] && !unclean.contains(&function.key())
        };
        self.functions.values().filter(trusted).map(|function| function.name.clone()).collect()
    }
}

impl Function {
    fn key(&self) -> u64 {
        hash_of([&*self.name])
    }
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    digits.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(functions: &[(u32, &str, &str, &str)], count: usize, mark: &str, whole: &str) -> Option<News> {
        let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let row = |(number, kind, name, body): &(u32, &str, &str, &str)| {
            (format!("{number} {kind} {}", hex(name)), hex(body))
        };
        let functions = functions.iter().map(row).collect();
        Listing { mark: Some((mark.to_owned(), format!("{count} {whole}"))), functions }.read()
    }

    fn names(facts: &Facts) -> String {
        let mut names: Vec<_> =
            facts.clean_names().into_iter().map(|n| String::from_utf8(n.into()).unwrap()).collect();
        names.sort();
        names.join(" ")
    }

    #[test]
    fn what_calls_the_unclean_is_unclean() {
        let functions = [
            (1, "s", "a", "select b(1), lower('x')"),
            (2, "p", "b", "begin return (select row.c from t as row); end"),
            (3, "s", "c", "select 1"),
            (4, "s", "d", "select \"E f\"(a(1))"),
            (5, "p", "E f", "begin perform d(1); perform g(); end"),
            (6, "u", "g", ""),
            (7, "n", "h", "\n; select 5, g(1)"),
            (8, "n", "i", "\n; select 5"),
            (9, "s", "j", "select unknown(1)"),
            (10, "sB", "lower", "select 1"),
            (11, "s", "k", "select public.lower('x')"),
            (12, "s", "é", "select 1"),
            (13, "s", "l", "select \"é\"()"),
            (14, "s", "m", "select 1"),
            (15, "s", "m", "select g(1)"),
        ];
        let mut facts = Facts::default();
        facts.learn(&Mark::default(), listing(&functions, functions.len(), "1.2 3", "t"));
        assert_eq!(names(&facts), "a b c i l");
        // One that PostgreSQL has as well, and worse.
        let mut worse = functions;
        worse[9].3 = "select g()";
        facts.learn(&Mark::default(), listing(&worse, worse.len(), "1.2 3", "t"));
        assert_eq!(names(&facts), "b c i l");
    }

    #[test]
    fn news_are_put_to_what_is_known() {
        let mut facts = Facts::default();
        assert_eq!((names(&facts), facts.mark()), (String::new(), Mark::default()));
        facts.learn(
            &Mark::default(),
            listing(&[(1, "s", "a", "select 1"), (2, "s", "b", "select a()")], 2, "1.2 3", "t"),
        );
        let mark = facts.mark();
        assert_eq!((names(&facts).as_str(), mark.since.as_str()), ("a b", "3"));
        facts.learn(&mark, listing(&[(1, "s", "a", "select setseed(1)")], 2, "1.2 4", "f"));
        assert_eq!(names(&facts), "");
        let mark = facts.mark();
        facts.learn(&mark, listing(&[(1, "s", "c", "select 1")], 1, "1.2 5", "f"));
        assert_eq!(
            (names(&facts).as_str(), facts.mark()),
            ("c", Mark::default()),
            "b was dropped, as it seems"
        );
        facts.learn(&Mark::default(), listing(&[(1, "s", "c", "select 1")], 1, "1.2 6", "t"));
        let mark = facts.mark();
        assert_eq!((names(&facts).as_str(), mark == Mark::default()), ("c", false));
        facts.learn(&Mark::default(), listing(&[], 1, "1.2 5", "f"));
        assert_eq!(
            (names(&facts).as_str(), facts.mark()),
            ("", Mark::default()),
            "asked behind another mark"
        );
        facts.learn(&Mark::default(), listing(&[(1, "s", "c", "select 1")], 2, "1.2 6", "t"));
        assert_eq!(names(&facts), "", "some are not there");
        facts.learn(&Mark::default(), None);
        assert_eq!((names(&facts).as_str(), facts.mark()), ("", Mark::default()), "there are too many");
        for mark in ["1.2", "1' 2", "1.2 x"] {
            assert!(listing(&[], 0, mark, "t").is_none(), "{mark}");
        }
    }
}
