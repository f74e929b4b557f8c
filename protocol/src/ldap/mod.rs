//! As much of LDAP (RFC 4511) as finding out whether a password is right takes: simple bind, search, StartTLS.
//!
//! The codec knows no other message, descends no deeper than the messages that it knows, and never holds more than
//! [`MOST_REPLY`] bytes of a reply, because an LDAP server, or who answers in its place, is not trusted with the process.

mod ber;
mod filter;
mod login;
mod message;

pub use ber::{MOST_REPLY, Malformed, frame};
pub use filter::{BadFilter, Filter};
pub use login::{Failure, Login, Search, Step, bind_name};
pub use message::{Outcome, Scope};
