//! Who asks for a host: modes of transactions, `pgferry.route`, databases with a route, `target_session_attrs`.

use support::postgres::USER;
use support::tools::Tool;
use support::wait::eventually;
use support::wire::{Client, Target};

use super::{Fleet, PORT, SOON, eventual, extended, hosts, warned};

const SETUP: &str = "create table t (id int primary key, v text); insert into t values (1, 'one')";

/// Read-only replies by a standby, and by the primary to a transaction that is not to write.
const READ_ONLY: &str = "25006";

fn explicit(builder: support::pooler::PoolerBuilder) -> support::pooler::PoolerBuilder {
    eventual(builder).setting("read_routing", "explicit")
}

/// Where the statements of a transaction run that begins so.
#[track_caller]
fn place_in(fleet: &Fleet, client: &mut Client, begin: &str) -> usize {
    client.execute(begin);
    let places =
        [(); 2].map(|()| fleet.place_of(&extended(client, &format!("select count(*), {PORT} from t"))));
    assert_eq!(client.execute("commit").status(), Some(b'I'), "{begin}");
    assert_eq!(places[0], places[1], "{begin}");
    places[0]
}

/// A transaction is judged by what it says when it begins; one that says nothing may write.
#[test]
fn transactions_go_where_their_modes_let_them() {
    for configure in [eventual, explicit] {
        let fleet = Fleet::quiet(SETUP, configure);
        let mut client = fleet.connect();
        for begin in [
            "begin read only",
            "START TRANSACTION READ ONLY",
            "begin transaction isolation level repeatable read, read only",
            "begin isolation level read committed read only not deferrable",
        ] {
            assert_ne!(place_in(&fleet, &mut client, begin), 0, "{begin}");
        }
        for begin in [
            "begin",
            "start transaction",
            "begin read write",
            "begin isolation level repeatable read",
            "begin isolation level serializable, read only",
            "begin read only, read write",
        ] {
            assert_eq!(place_in(&fleet, &mut client, begin), 0, "{begin}");
        }
        // A write there is refused, as the primary would, and that is the end of it.
        client.execute("begin read only");
        client.execute("select count(*) from t");
        let reply = client.query("insert into t values (2, 'two')");
        assert_eq!((reply.error_code().as_str(), reply.status()), (READ_ONLY, Some(b'E')));
        assert_eq!(client.query("commit").commands(), ["ROLLBACK"]);
        assert_eq!(
            client.scalar("with w as (delete from t where id = 2 returning 1) select count(*) from w"),
            "0"
        );
    }
}

/// `default_transaction_read_only` does what `READ ONLY` does for every transaction, wherever it comes from.
#[test]
fn sessions_whose_transactions_only_read() {
    let fleet = Fleet::quiet(SETUP, |builder| explicit(builder).secret("careful_reader", ""));
    fleet.database.sql(
        "create role careful_reader login; alter role careful_reader set default_transaction_read_only = on; \
         grant select, insert on t to careful_reader",
    );
    fleet.set.catch_up();

    let mut client = fleet.connect();
    assert_eq!(place_in(&fleet, &mut client, "begin"), 0);
    client.execute("set default_transaction_read_only = on");
    eventually("at a replica", SOON, || place_in(&fleet, &mut client, "begin") != 0);
    assert_ne!(fleet.reads_at(&mut client), 0, "a statement by itself");
    assert_eq!(place_in(&fleet, &mut client, "begin read write"), 0);
    assert_eq!(client.query("insert into t values (3, 'no')").error_code(), READ_ONLY);
    client.execute("set default_transaction_read_only = off");
    assert_eq!(place_in(&fleet, &mut client, "begin"), 0);
    client.execute("insert into t values (3, 'yes')");

    let target = fleet.target();
    let by_option = target.clone().param("options", "-c default_transaction_read_only=on");
    let by_name = target.clone().param("default_transaction_read_only", "on");
    let by_role = target.clone().user("careful_reader");
    for target in [by_option, by_name, by_role] {
        let mut client = Client::login(&target);
        assert_ne!(place_in(&fleet, &mut client, "begin"), 0, "{target:?}");
        assert_eq!(client.query("insert into t values (4, 'no')").error_code(), READ_ONLY, "{target:?}");
        assert_eq!(place_in(&fleet, &mut client, "begin read write"), 0, "{target:?}");
    }
}

/// A client says where it wants to go, for as long as it wants.
#[test]
fn the_route_of_a_client() {
    for (configure, usual) in [(explicit as crate::common::Configure, true), (eventual, false)] {
        let fleet = Fleet::quiet(SETUP, configure);
        let mut client = fleet.connect();
        let at_primary = |client: &mut Client| fleet.reads_at(client) == 0;
        // What only prefers a replica may stay where the setting was made for as long as the pooler looks at that.
        let as_usual = |client: &mut Client| eventually("as usual", SOON, || at_primary(client) == usual);
        assert_eq!(at_primary(&mut client), usual);
        for (word, primary) in [
            ("replica", false),
            ("primary", true),
            ("standby", false),
            ("read-write", true),
            ("prefer-standby", false),
            ("auto", usual),
        ] {
            client.execute(&format!("set pgferry.route = '{word}'"));
            match word {
                "auto" | "prefer-standby" => eventually(word, SOON, || at_primary(&mut client) == primary),
                _ => assert_eq!(at_primary(&mut client), primary, "{word}"),
            }
            assert_eq!(place_in(&fleet, &mut client, "begin") == 0, primary || word == "auto", "{word}");
        }
        assert_eq!(client.scalar("show pgferry.route"), "auto");

        client.execute("set pgferry.route to replica");
        assert_eq!(client.scalar("show pgferry.route"), "replica");
        let reply = client.query("insert into t values (2, 'two')");
        assert_eq!(reply.error_code(), READ_ONLY, "{reply:?}");
        client.execute("reset pgferry.route");
        as_usual(&mut client);
        client.execute("insert into t values (2, 'two')");

        client.execute("set pgferry.route = 'replica'");
        assert!(warned(&client.query("set pgferry.route = 'moon'")));
        as_usual(&mut client);
        client.execute("set pgferry.route = 'replica'");
        client.execute("discard all");
        as_usual(&mut client);
    }
}

/// Start-up parameters of the same name, plain or in `options`.
#[test]
fn the_route_a_client_comes_with() {
    let fleet = Fleet::quiet(SETUP, explicit);
    for name in ["param", "options"] {
        for (word, primary) in [("replica", false), ("primary", true)] {
            let target = match name {
                "param" => fleet.target().param("pgferry.route", word),
                _ => fleet.target().param("options", &format!("-c pgferry.route={word}")),
            };
            let mut client = Client::login(&target);
            assert_eq!(fleet.reads_at(&mut client) == 0, primary, "{name} {word}");
            assert_eq!(client.scalar("show pgferry.route"), word);
        }
    }
    let wrong = crate::common::refusal(&fleet.target().param("pgferry.route", "moon"));
    assert_eq!(wrong.code(), "22023", "{wrong:?}");
}

/// Names of one database with routes of their own.
fn with_aliases() -> Fleet {
    let set = super::quiet_set();
    let database = super::database_of(&set, SETUP);
    let hosts = hosts(&set, &database);
    let pooler = crate::common::pooler()
        .setting("read_routing", "explicit")
        .setting("read_consistency", "eventual")
        .database_line(database.name(), &hosts)
        .database_line("readers", &format!("{hosts} route=replica"))
        .database_line("writers", &format!("{hosts} route=primary"))
        .start();
    let fleet = Fleet { pooler, database, set };
    fleet.wait_until_known();
    fleet
}

/// A client of a database for readers is told that it is at a standby, and is answered as by one.
#[test]
fn databases_with_a_route() {
    let fleet = with_aliases();
    let direct = Target::new(fleet.set.replicas[0].address(), USER, fleet.database.name());
    let insert = "insert into t values (2, 'two')";
    let mut standby = Client::login(&direct);
    let mut reader = fleet.pooler.connect("readers");
    assert_eq!(reader.params["in_hot_standby"], standby.params["in_hot_standby"]);
    assert_eq!(reader.params["in_hot_standby"], "on");
    for _ in 0..5 {
        assert_ne!(fleet.reads_at(&mut reader), 0);
    }
    assert_eq!(reader.query(insert), standby.query(insert));
    assert_eq!(extended(&mut reader, insert), extended(&mut standby, insert));
    for sql in
        ["begin read write", "begin; insert into t values (2, 'two'); commit", "show transaction_read_only"]
    {
        assert_eq!(reader.query(sql), standby.query(sql), "{sql}");
        assert_eq!(reader.query("rollback"), standby.query("rollback"), "after {sql}");
    }
    assert_eq!(reader.scalar("select pg_is_in_recovery()"), "t");

    let mut writer = fleet.pooler.connect("writers");
    assert_eq!(writer.params["in_hot_standby"], "off");
    assert_eq!(fleet.reads_at(&mut writer), 0);
    writer.execute(insert);
    assert_eq!(writer.scalar("select pg_is_in_recovery()"), "f");
}

/// libpq itself looks at what it is told, and goes on to the next host where it does not fit.
#[test]
fn psql_with_target_session_attrs() {
    let fleet = with_aliases();
    let fits = |database: &str, wanted: &str| {
        let psql = Tool::psql(&fleet.pooler.target(database)).env("PGTARGETSESSIONATTRS", wanted);
        let output = psql.args(["-c", &format!("select {PORT}")]).run();
        let said = output.status.is_some_and(|status| status.success());
        said.then(|| fleet.place(output.stdout.trim()))
    };
    for (database, at_primary) in [(fleet.database.name(), true), ("writers", true), ("readers", false)] {
        for (wanted, by_primary, by_standby) in [
            ("any", true, true),
            ("read-write", true, false),
            ("primary", true, false),
            ("read-only", false, true),
            ("standby", false, true),
            ("prefer-standby", true, true),
        ] {
            let place = fits(database, wanted);
            let expected = if at_primary { by_primary } else { by_standby };
            assert_eq!(place.is_some(), expected, "{wanted} of {database}");
            assert!(
                place.is_none_or(|place| (place == 0) == at_primary),
                "{wanted} of {database}: {place:?}"
            );
        }
    }
}

/// Replicas are taken out of use while the last request of a client was at one: the next is the primary's.
#[test]
fn replicas_are_taken_out_of_use() {
    let mut fleet = Fleet::quiet(SETUP, eventual);
    let mut client = fleet.connect();
    let (name, port) = (fleet.database.name().to_owned(), fleet.set.primary.port());
    let write = format!("update t set v = v returning {PORT}");
    assert_ne!(fleet.reads_at(&mut client), 0);
    fleet.pooler.reload(|builder| builder.setting("read_routing", "off"));
    assert_eq!(fleet.place_of(&client.execute(&write)), 0);
    assert_eq!(fleet.reads_at(&mut client), 0);
    fleet.pooler.reload(|builder| builder.setting("read_routing", "auto"));
    eventually("replicas are read from", SOON, || fleet.reads_at(&mut client) != 0);
    let alone = format!("host=127.0.0.1 port={port} dbname={name}");
    fleet.pooler.reload(|builder| builder.database_line(&name, &alone));
    assert_eq!(fleet.place_of(&client.execute(&write)), 0);
    assert_eq!(fleet.reads_at(&mut client), 0);
}
