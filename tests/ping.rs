//! `pgferry ping`, and clients that only look whether somebody listens.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use support::peer::Peer;
use support::wait::eventually;
use support::wire::Client;

use crate::common::pooled;

/// Whether it succeeded, and what it said.
fn ping(address: &str) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pgferry")).args(["ping", address]).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_pooler_answers_a_ping_and_nothing_else_does() {
    let pooled = pooled("", |builder| builder.setting("max_client_conn", 1));
    let tcp = format!("127.0.0.1:{}", pooled.pooler.port());
    let unix = format!("{}/.s.PGSQL.{}", pooled.pooler.dir().display(), pooled.pooler.port());
    // The last one that is allowed; whoever has looked whether the pooler is up may not have left in its eyes.
    let mut client = None;
    eventually("there is room for a client", Duration::from_secs(10), || {
        client = Client::try_login(&pooled.target()).ok();
        client.is_some()
    });
    let mut client = client.expect("a client");
    for address in [&tcp, &unix] {
        assert_eq!(ping(address), (true, format!("{address} answers\n")));
    }
    client.execute("SELECT 1");

    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap().to_string();
    let (answered, text) = ping(&address); // it is connected, by the kernel, and waits
    assert!(!answered && text.starts_with(&format!("no answer at {address}: ")), "{text}");
    drop(mute);
    for address in [address.as_str(), "127.0.0.1", "/nowhere"] {
        let (answered, text) = ping(address);
        assert!(!answered && text.starts_with(&format!("no answer at {address}: ")), "{text}");
    }
}

/// Load balancers and health checks do so every few seconds.
#[test]
fn who_leaves_before_the_start_up_packet_leaves_no_line_in_the_log() {
    let pooled = pooled("", |builder| builder);
    for sent in [&b""[..], &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f], &[0, 0, 0]] {
        Peer::new(pooled.pooler.address().connect().unwrap()).send(sent).unwrap();
    }
    Client::login(&pooled.target()).terminate();
    pooled.pooler.wait_for_log("client close request");
    assert!(!pooled.pooler.log().contains("(nodb)"), "{}", pooled.pooler.log());
}
