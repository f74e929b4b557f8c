use protocol::message::TxStatus;
use protocol::session::{ClientMachine, Invented, Origin, Request, Route, ServerMachine};

use crate::input::Input;
use crate::postgres::{INVENTED, Postgres, Reply, Sent};

/// Types that a client may send.
const CLIENT_TAGS: &[u8] = b"QPBDECSFHdcf";

/// A server that keeps the protocol and a client, with the machines between them, in any interleaving of sending,
/// answering and receiving.
///
/// Whatever the client does, the proof of idleness must not be given while the server has anything left. If the
/// client keeps the protocol too, every reply must be accepted and taken for whose it is, and the proof must be
/// given in the end.
pub fn operations(data: &[u8]) {
    let mut input = Input::new(data);
    refusals(input.byte());
    let mut world = World::new(input.byte() % 4 != 3);
    while !input.is_empty() && world.goes_on() {
        world.operation(&mut input);
        world.take_invented();
        world.check();
    }
    world.finish();
}

struct World {
    server: ServerMachine,
    postgres: Postgres,
    /// The client ends each COPY FROM that it sent, or learns that it failed, before it asks for anything else; if it
    /// has sent a Sync that COPY may have eaten, it sends another.
    lawful: bool,
    /// COPYs that the client has sent and not ended.
    copies: u8,
    /// A Sync was sent between a COPY and its end.
    owes_sync: bool,
    /// Extended-query messages were sent and no Sync yet.
    in_batch: bool,
    /// All before the request that began the batch had been answered: an error now is this batch's.
    alone: bool,
    /// A message sent in part.
    half_sent: Option<Sent>,
    /// The connection would be closed now.
    given_up: bool,
}

impl World {
    fn new(lawful: bool) -> World {
        World {
            server: ServerMachine::new(),
            postgres: Postgres::new(),
            lawful,
            copies: 0,
            owes_sync: false,
            in_batch: false,
            alone: false,
            half_sent: None,
            given_up: false,
        }
    }

    fn goes_on(&self) -> bool {
        let over = self.postgres.closed && self.postgres.outbox.is_empty();
        !over && !self.given_up && !self.server.is_lost()
    }

    fn operation(&mut self, input: &mut Input) {
        let op = usize::from(input.byte());
        match op {
            0..110 => self.send(CLIENT_TAGS[op % CLIENT_TAGS.len()], 0),
            110..120 => self.send(b'E', 1),
            120..128 => self.send(b'Q', 1 + op as u8 % 2),
            128..136 => self.send_half(CLIENT_TAGS[input.below(CLIENT_TAGS.len())]),
            136 => (0..=input.byte()).for_each(|_| self.send(b'S', 0)),
            137 if input.below(64) == 63 => (0..usize::from(u16::MAX) + 2).for_each(|_| self.send(b'S', 0)),
            137..148 => self.send_own(),
            148..190 => drop(self.postgres.step(input)),
            190..200 => while self.postgres.step(input) {},
            200..216 => drop(self.receive()),
            216..226 => self.send_in_front(b"PCD"[op % 3]),
            226..236 => self.invent([Invented::Parse, Invented::Close][op % 2]),
            236..240 => drop(self.receive()),
            240..250 => self.receive_all(),
            250..255 => self.postgres.say_unasked(b"NSA"[op % 3]),
            _ => self.postgres.terminate(),
        }
    }

    /// The client sends a message, if it is one that would do so now.
    fn send(&mut self, tag: u8, copies: u8) {
        self.complete_half();
        if self.begin(tag, copies) {
            self.server.on_sent(tag, Origin::Client, true);
            self.postgres.inbox.push_back(Sent { tag, origin: Origin::Client, copies });
        }
    }

    fn send_half(&mut self, tag: u8) {
        self.complete_half();
        if self.begin(tag, 0) {
            self.server.on_sent(tag, Origin::Client, false);
            self.half_sent = Some(Sent { tag, origin: Origin::Client, copies: 0 });
        }
    }

    fn begin(&mut self, tag: u8, copies: u8) -> bool {
        let belongs_to_copy = matches!(tag, b'd' | b'c' | b'f' | b'H' | b'S');
        let allowed = match (self.copies, self.owes_sync) {
            (0, false) => true,
            (0, true) => tag == b'S',
            _ => belongs_to_copy,
        };
        if self.server.is_overrun() || self.lawful && !allowed {
            return false;
        }
        if tag == b'S' {
            self.owes_sync = self.copies > 0;
        }
        if !belongs_to_copy && !self.in_batch {
            self.alone = self.postgres.is_clean();
        }
        match tag {
            b'P' | b'B' | b'D' | b'E' | b'C' => self.in_batch = true,
            b'S' | b'Q' | b'F' => self.in_batch = false,
            _ => {}
        }
        if matches!(tag, b'c' | b'f') {
            self.copies = self.copies.saturating_sub(1);
        }
        self.copies += copies;
        true
    }

    fn complete_half(&mut self) {
        if let Some(sent) = self.half_sent.take() {
            self.server.on_sent_rest(false);
            self.server.on_sent_rest(true);
            self.postgres.inbox.push_back(sent);
        }
    }

    /// The pooler asks something itself when it may: between clients, or to learn whether more is to come.
    fn send_own(&mut self) {
        if self.server.idle().is_some() || self.server.needs_probe() {
            self.server.on_sent(b'Q', Origin::Pooler, true);
            self.postgres.inbox.push_back(Sent { tag: b'Q', origin: Origin::Pooler, copies: 0 });
        }
    }

    /// The pooler puts a message in front of the client's next.
    fn send_in_front(&mut self, tag: u8) {
        self.complete_half();
        if self.is_between_copies() && self.begin(tag, 0) {
            self.server.on_sent(tag, Origin::InFront, true);
            self.postgres.inbox.push_back(Sent { tag, origin: Origin::InFront, copies: 0 });
        }
    }

    /// The pooler answers a message of the client's itself, in its turn; not if the server would skip it.
    fn invent(&mut self, reply: Invented) {
        self.complete_half();
        if self.is_between_copies() && self.server.may_invent() && self.begin(b'P', 0) {
            let skipped = self.server.skips_until_sync();
            self.server.on_invented(reply);
            if !skipped {
                self.postgres.inbox.push_back(Sent { tag: INVENTED, origin: Origin::Client, copies: 0 });
            }
        }
    }

    fn is_between_copies(&self) -> bool {
        self.copies == 0 && !self.owes_sync && !self.server.reads_copy()
    }

    /// What the pooler answers comes when everything before it has come, and not earlier.
    fn take_invented(&mut self) {
        if !self.goes_on() {
            return;
        }
        self.postgres.pass_invented();
        // What the server says unasked keeps no answer waiting.
        let waits = |reply: &Reply| reply.origin.is_some();
        while let Some(at) = self.postgres.outbox.iter().position(waits)
            && self.postgres.outbox[at].tag == INVENTED
        {
            self.postgres.outbox.remove(at);
            assert!(self.server.next_invented().is_some(), "an answer of the pooler's own is missing");
        }
        assert_eq!(self.server.next_invented(), None, "an answer of the pooler's own comes too early");
    }

    fn receive(&mut self) -> bool {
        self.take_invented();
        let Some(reply) = self.postgres.outbox.pop_front() else { return false };
        let route = match self.server.on_received(reply.tag, reply.status) {
            Ok(route) => route,
            Err(_) if !self.lawful => {
                self.given_up = true;
                return false;
            }
            Err(violation) => panic!("a lawful reply was refused: {violation}; {:?}", self.server),
        };
        match reply.tag {
            b'E' if self.alone => self.copies = 0,
            b'Z' if self.alone && self.copies == 0 => self.owes_sync = false, // it was not eaten
            _ => {}
        }
        if self.server.is_lost() {
            return true;
        }
        match (reply.origin, route) {
            (Some(Origin::Client), Route::Forward) | (Some(Origin::Pooler), Route::Swallow) | (None, _) => {}
            (Some(Origin::InFront), Route::Forward) if reply.tag == b'E' => {} // the client's
            (Some(Origin::InFront), Route::Swallow) if reply.tag != b'E' => {}
            (Some(Origin::Pooler), Route::OwnRequestFailed) => self.given_up = true,
            (origin, route) => panic!("{:?} answers {origin:?}, not {route:?}", char::from(reply.tag)),
        }
        true
    }

    fn receive_all(&mut self) {
        while self.receive() {}
    }

    fn check(&self) {
        if self.server.idle().is_some() {
            assert!(self.half_sent.is_none(), "idle in the middle of a message");
            assert!(self.postgres.is_clean(), "idle too early");
        }
        assert_eq!(self.server.is_mid_message(), self.half_sent.is_some());
    }

    /// Lets the client end what it has begun; then the connection must be free.
    fn finish(mut self) {
        let mut nothing = Input::new(&[]); // chooses the first outcome of all: success, and the transaction ends
        self.complete_half();
        for _ in 0..6 {
            while self.postgres.step(&mut nothing) {}
            self.receive_all();
            self.take_invented();
            self.check();
            if self.server.idle().is_some() || self.postgres.closed || !self.goes_on() {
                return;
            }
            if self.postgres.reads_copy() {
                self.send(b'c', 0);
                continue;
            }
            (self.copies, self.owes_sync) = (0, false);
            if self.server.batch_is_open() {
                self.send(b'S', 0);
            } else if self.postgres.status() != TxStatus::Idle {
                self.send(b'Q', 0);
            } else {
                self.send_own();
            }
        }
        assert!(!self.lawful, "everything is over, but not for {:?}", self.server);
    }
}

/// The client machine: each request is answered once, served or refused.
fn refusals(pattern: u8) {
    let mut machine = ClientMachine::default();
    let (mut refused, mut errors) = (0, 0);
    for step in 0..64u8 {
        if machine == ClientMachine::Open && step & pattern == 0 {
            machine.refuse();
            refused += 1;
        }
        let before = machine;
        let tag = CLIENT_TAGS[usize::from(step.wrapping_mul(pattern | 1)) % CLIENT_TAGS.len()];
        let request = machine.on_message(tag);
        match request {
            Request::Refuse | Request::RefuseAndReady => errors += 1,
            Request::Forward | Request::ForwardIfLinked => assert_eq!(before, ClientMachine::Open),
            Request::Drop => assert!(tag != b'S', "a Sync is always answered"),
            Request::Ready => assert_eq!((before, tag), (ClientMachine::Skipping, b'S')),
            Request::Terminate | Request::Unknown => panic!("{tag} is neither"),
        }
    }
    assert_eq!(refused, errors + u32::from(machine == ClientMachine::Refused));
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    // Bytes of the operations: `send` by position in CLIENT_TAGS (X and Y with one COPY), 190 lets the server answer
    // all, 240 receives all.
    let op = |tag| match tag {
        b'X' => 120,
        b'Y' => 110,
        tag => CLIENT_TAGS.iter().position(|&t| t == tag).unwrap_or(0) as u8,
    };
    let sends = |tags: &str| tags.bytes().map(op).collect::<Vec<u8>>();
    let exchange =
        |tags: &str, outcomes: &[u8]| [&[0, 0], &sends(tags)[..], &[190], outcomes, &[240]].concat();
    vec![
        exchange("Q", &[0, 0, 2]),
        exchange("QQ", &[0, 2, 1, 2, 3, 0, 0, 7]),
        exchange("PBDES", &[0, 0, 0, 7, 0]),
        exchange("PBESPBES", &[0, 0, 9, 0, 0, 0, 0, 7]),
        exchange("XdddcQ", &[0, 6, 0, 0, 0, 0, 0]),
        exchange("PBYSdcS", &[0, 0, 0, 0, 0, 0, 0]),
        exchange("PBYSdcS", &[0, 0, 0, 0, 5, 0, 0]),
        exchange("PBYSddS", &[0, 0, 0, 0, 5, 5, 0]),
        exchange("FHSCS", &[0, 0, 0]),
        [&[0, 0, 138, 190, 2, 240][..], &sends("Q"), &[190, 0, 0, 3, 240]].concat(),
        // COPY fails before it has read the Sync behind it.
        [&[0, 0][..], &sends("YS"), &[190, 0, 7, 240], &sends("PS"), &[190, 0, 240]].concat(),
        // A client that asks on behind a failed COPY whose Sync may have been eaten.
        [&[0, 3][..], &sends("YS"), &[148, 0, 7, 200, 200], &sends("QS"), &[148, 148, 0, 0, 7, 200, 200]]
            .concat(),
    ]
}
