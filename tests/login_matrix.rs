//! Every way for a client to log in, with every kind of secret in every place, to a server that wants every kind of
//! proof: who gets in, and the exact code and words for who does not. What is expected comes from the few rules of
//! [`model`], which know nothing of the pooler's code; a PostgreSQL of this module's own answers in earnest.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use support::wire::{Client, LoginError};

mod encrypted;
mod model;
mod world;

use model::{Case, Method};
use world::{Chosen, Front, World};

/// Logins at the same time: enough to keep both the pooler and PostgreSQL at work.
const AT_ONCE: usize = 8;

#[test]
fn every_method_with_every_secret_to_every_server() {
    let world = World::shared();
    let mut results = Results::default();
    for method in Method::ALL {
        let cases = Case::all(method);
        for chosen in [Chosen::BySetting, Chosen::ByRule] {
            if (method, chosen) == (Method::Any, Chosen::ByRule) {
                continue; // rules do not know it
            }
            let front = world.front(method, chosen);
            results.judge(&cases, |case| (case.expected(), outcome(&front, case)));
        }
    }
    results.finish();
}

/// How logins went.
struct Results {
    at_once: usize,
    count: usize,
    wrong: Vec<String>,
}

impl Default for Results {
    fn default() -> Results {
        Results { at_once: AT_ONCE, count: 0, wrong: Vec::new() }
    }
}

impl Results {
    /// `log_in` tells what is expected of each case, and what is.
    fn judge<T, F>(&mut self, cases: &[T], log_in: F)
    where
        T: Sync + fmt::Debug,
        F: Fn(&T) -> (model::Outcome, model::Outcome) + Sync,
    {
        self.count += cases.len();
        let (next, wrong) = (AtomicUsize::new(0), Mutex::new(&mut self.wrong));
        let one_after_the_other = || {
            while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (expected, seen) = log_in(case);
                if seen != expected {
                    let text = format!("{case:?}\n    is      {seen:?}\n    not     {expected:?}");
                    wrong.lock().unwrap().push(text);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.at_once {
                scope.spawn(one_after_the_other);
            }
        });
    }

    #[track_caller]
    fn finish(self) {
        let Results { count, wrong, .. } = self;
        println!("{count} logins");
        let shown = wrong.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(wrong.is_empty(), "{} of {count} logins went otherwise:\n{shown}", wrong.len());
    }
}

/// The server-side user of who is let in, else severity, code and text of the refusal.
fn outcome(front: &Front, case: &Case) -> model::Outcome {
    seen(Client::try_login(&front.target(case)))
}

fn seen(login: Result<Client, LoginError>) -> model::Outcome {
    match login {
        Ok(mut client) => Ok(client.scalar("select current_user")),
        Err(LoginError::Refused(fields)) => {
            Err((fields.severity().into(), fields.code().into(), fields.message().into()))
        }
        Err(LoginError::Io(error)) => Err(("none".into(), "none".into(), error.to_string())),
    }
}
