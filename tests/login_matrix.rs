//! Every way for a client to log in, with every kind of secret in every place, to a server that wants every kind of
//! proof: who gets in, and the exact code and words for who does not. What is expected comes from the few rules of
//! [`model`], which know nothing of the pooler's code; a PostgreSQL of this module's own answers in earnest.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use support::wire::{Client, LoginError};

mod model;
mod world;

use model::{Case, Method};
use world::{Front, World};

/// Logins at the same time: enough to keep both the pooler and PostgreSQL at work.
const AT_ONCE: usize = 8;

#[test]
fn every_method_with_every_secret_to_every_server() {
    let world = World::shared();
    let mut wrong = Vec::new();
    let mut count = 0;
    for method in Method::ALL {
        let cases = Case::all(method);
        count += cases.len();
        wrong.extend(deviations(&world.front(method), &cases));
    }
    println!("{count} logins");
    assert!(wrong.is_empty(), "{} of {count} logins went otherwise:\n{}", wrong.len(), wrong.join("\n"));
}

/// Logs in as each case says: those that went otherwise than the model expects.
fn deviations(front: &Front, cases: &[Case]) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (expected, seen) = (case.expected(), outcome(front, case));
                    if seen != expected {
                        wrong
                            .lock()
                            .unwrap()
                            .push(format!("{case:?}\n    is      {seen:?}\n    not     {expected:?}"));
                    }
                }
            });
        }
    });
    wrong.into_inner().unwrap()
}

/// The server-side user of who is let in, else severity, code and text of the refusal.
fn outcome(front: &Front, case: &Case) -> model::Outcome {
    match Client::try_login(&front.target(case)) {
        Ok(mut client) => Ok(client.scalar("select current_user")),
        Err(LoginError::Refused(fields)) => {
            Err((fields.severity().into(), fields.code().into(), fields.message().into()))
        }
        Err(LoginError::Io(error)) => Err(("none".into(), "none".into(), error.to_string())),
    }
}
