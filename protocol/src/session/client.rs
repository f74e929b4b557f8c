//! What a client asks for, one message at a time.

/// What a message from the client means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// It belongs to a server: forward it, and take one first if none is linked.
    Forward,
    /// It matters only to a server that is linked; without one it is dropped, as PostgreSQL would ignore it.
    ForwardIfLinked,
    /// Dropped: it belongs to a request that was refused.
    Drop,
    /// The first message of a refused request: answer with the error.
    Refuse,
    /// As `Refuse`, and the request ends with it: answer with the error and `ReadyForQuery`.
    RefuseAndReady,
    /// The `Sync` that ends a refused request: answer with `ReadyForQuery`.
    Ready,
    /// `Terminate`.
    Terminate,
    /// No message that a client may send after its login.
    Unknown,
}

/// The client's side of the conversation after login.
///
/// ```text
///            refuse()             Query, FunctionCall
///   Open ───────────────▶ Refused ───────────────────▶ Open
///     ▲                      │ Parse, Bind, …
///     │        Sync          ▼
///     └────────────────── Skipping
/// ```
///
/// A request that can't be served (a cancelled wait for a server) is refused as PostgreSQL refuses one: an error,
/// then everything up to `Sync` is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientMachine {
    /// Requests are served.
    #[default]
    Open,
    /// The next request is refused.
    Refused,
    /// An error was sent inside an extended-query batch; all is ignored until `Sync`.
    Skipping,
}

impl ClientMachine {
    /// Refuses the request that is about to be given to [`on_message`](Self::on_message).
    pub fn refuse(&mut self) {
        *self = ClientMachine::Refused;
    }

    /// A message came from the client.
    pub fn on_message(&mut self, tag: u8) -> Request {
        match tag {
            b'X' => return Request::Terminate,
            b'Q' | b'P' | b'B' | b'E' | b'D' | b'C' | b'S' | b'F' | b'H' | b'd' | b'c' | b'f' => {}
            _ => return Request::Unknown,
        }
        match (*self, tag) {
            (ClientMachine::Open, b'H' | b'd' | b'c' | b'f') => Request::ForwardIfLinked,
            (ClientMachine::Open, _) => Request::Forward,
            (_, b'd' | b'c' | b'f' | b'H') => Request::Drop,
            (ClientMachine::Refused, b'Q' | b'F' | b'S') => {
                *self = ClientMachine::Open;
                Request::RefuseAndReady
            }
            (ClientMachine::Refused, _) => {
                *self = ClientMachine::Skipping;
                Request::Refuse
            }
            (ClientMachine::Skipping, b'S') => {
                *self = ClientMachine::Open;
                Request::Ready
            }
            (ClientMachine::Skipping, _) => Request::Drop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(machine: &mut ClientMachine, tags: &str) -> Vec<Request> {
        tags.bytes().map(|t| machine.on_message(t)).collect()
    }

    #[test]
    fn requests_need_a_server_and_leftovers_do_not() {
        let mut machine = ClientMachine::default();
        assert!(all(&mut machine, "QPBEDCSF").iter().all(|r| *r == Request::Forward));
        assert!(all(&mut machine, "Hdcf").iter().all(|r| *r == Request::ForwardIfLinked));
        assert_eq!(machine.on_message(b'X'), Request::Terminate);
        assert!(all(&mut machine, "pRTZ\0").iter().all(|r| *r == Request::Unknown));
    }

    #[test]
    fn a_refused_request_ends_as_with_postgresql() {
        use Request::*;
        let mut machine = ClientMachine::Refused;
        assert_eq!(all(&mut machine, "QQ"), [RefuseAndReady, Forward]);
        machine.refuse();
        assert_eq!(all(&mut machine, "PBQES"), [Refuse, Drop, Drop, Drop, Ready]);
        assert_eq!(all(&mut machine, "P"), [Forward]);
        machine.refuse();
        assert_eq!(all(&mut machine, "cS"), [Drop, RefuseAndReady]);
    }
}
