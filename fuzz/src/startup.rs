use protocol::startup::{Parsed, StartupPacket, encode_cancel, encode_ssl_request, encode_startup, parse};

const MAX_LEN: usize = 10_004;

/// Start-up packets: every prefix of a packet is incomplete and asks for no more than the packet, what is refused
/// stays refused whatever follows, and what is read can be written again.
pub fn startup(data: &[u8]) {
    match parse(data, MAX_LEN) {
        Ok(Parsed::Complete { packet, used }) => {
            assert!(used <= data.len().min(MAX_LEN));
            prefixes_are_incomplete(&data[..used], used);
            rewrite(&packet, &data[..used]);
        }
        Ok(Parsed::Incomplete { needed }) => {
            assert!(needed > data.len() && needed <= MAX_LEN);
            prefixes_are_incomplete(data, needed);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let longer = [data, &[0]].concat();
            assert!(parse(&longer, MAX_LEN).is_err(), "refused, then not: {error}");
        }
    }
}

fn prefixes_are_incomplete(data: &[u8], len: usize) {
    for have in 0..data.len() {
        let expected = if have < 8 { 8 } else { len };
        assert_eq!(parse(&data[..have], MAX_LEN), Ok(Parsed::Incomplete { needed: expected }));
    }
}

fn rewrite(packet: &StartupPacket, bytes: &[u8]) {
    let mut out = Vec::new();
    match packet {
        StartupPacket::Ssl => encode_ssl_request(&mut out),
        StartupPacket::GssEnc => return,
        StartupPacket::Cancel(request) => encode_cancel(&mut out, request.pid, &request.secret),
        StartupPacket::Startup(startup) => {
            assert!(!startup.user().is_empty() && !startup.database().is_empty());
            let _ = (startup.replication(), startup.must_negotiate(0), startup.agreed_minor(2));
            let params = startup.params.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            encode_startup(&mut out, startup.minor, params);
        }
    }
    assert_eq!(out, bytes);
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let mut ssl = Vec::new();
    encode_ssl_request(&mut ssl);
    let mut cancel = Vec::new();
    encode_cancel(&mut cancel, 1, &[1; 32]);
    let mut plain = Vec::new();
    encode_startup(&mut plain, 0, [("user", "ann"), ("database", "shop"), ("client_encoding", "UTF8")]);
    let mut newer = Vec::new();
    encode_startup(&mut newer, 2, [("user", "ann"), ("replication", "database"), ("_pq_.x", "1")]);
    let mut gss = ssl.clone();
    gss[7] += 1;
    let both = [&ssl[..], &plain].concat();
    vec![ssl, gss, cancel, plain, newer, both]
}
