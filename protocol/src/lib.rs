//! PostgreSQL's wire protocol as a pooler needs it: frames, the messages that are looked into, the authentication
//! exchanges in both roles, and the two machines that know what a client has begun and what a server owes.
//!
//! Nothing here does I/O, reads a clock or draws a random number: bytes and events go in, bytes and decisions come
//! out, so that every rule can be tested without a socket.

pub mod auth;
pub mod error_fields;
pub mod frame;
pub mod ldap;
pub mod message;
pub mod params;
pub mod session;
pub mod sqlstate;
pub mod startup;
