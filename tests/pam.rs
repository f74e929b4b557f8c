//! Logins that PAM judges, with services of the test's own (libpam-wrapper), in builds that have the feature.

use std::path::{Path, PathBuf};
use std::process::Command;

use support::pki::Files;
use support::pooler::PoolerBuilder;
use support::postgres::{Database, PASSWORD, PLAIN_USER, Postgres, SCRAM_USER};
use support::wire::Client;

use crate::common::pooler;

const FAILED: &str = "PAM authentication failed";

/// Where libpam-wrapper is; `None` where there is none to be had, which is said.
fn wrapper() -> Option<PathBuf> {
    let output =
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pam/setup")).output().unwrap();
    if !output.status.success() {
        println!("SKIPPED: no libpam-wrapper here, so PAM is not tested");
        return None;
    }
    Some(Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("lib"))
}

/// A pooler for which PAM knows these users of the service `pgbouncer`.
fn asking(lib: &Path, files: &Files, database: &Database, users: &[(&str, &str)]) -> PoolerBuilder {
    let line = |(user, password): &(&str, &str)| format!("{user}:{password}:pgbouncer\n");
    let known = files.write("passdb", &users.iter().map(line).collect::<String>());
    let module = |kind: &str| {
        format!("{kind} required {} passdb={}\n", lib.join("pam_matrix.so").display(), known.display())
    };
    files.write("pgbouncer", &(module("auth") + &module("account")));
    pooler()
        .database(database, "")
        .setting("auth_type", "pam")
        .env("LD_PRELOAD", lib.join("libpam_wrapper.so").to_str().unwrap())
        .env("PAM_WRAPPER", "1")
        .env("PAM_WRAPPER_SERVICE_DIR", files.dir().to_str().unwrap())
}

#[test]
fn a_password_is_right_or_wrong() {
    let Some(lib) = wrapper() else { return };
    let database = Postgres::shared().database("pam");
    let files = Files::new();
    let pooler = asking(&lib, &files, &database, &[(PLAIN_USER, PASSWORD), (SCRAM_USER, PASSWORD)]).start();
    for user in [PLAIN_USER, SCRAM_USER] {
        let target = pooler.target(database.name()).user(user);
        for (password, told) in [("wrong", FAILED), ("", "empty password returned by client")] {
            let refused = Client::try_login(&target.clone().password(password)).map(drop).unwrap_err();
            assert_eq!(refused.refusal().message(), told);
        }
        // The server is opened with the password that PAM has found right.
        let mut client = Client::login(&target.password(PASSWORD));
        assert_eq!(client.scalar("select current_user"), user);
    }
    let unknown = Client::try_login(&pooler.target(database.name()).user("nobody_at_all").password(PASSWORD));
    assert_eq!(unknown.map(drop).unwrap_err().refusal().message(), FAILED);
    assert!(!pooler.log().contains(PASSWORD));
}

#[test]
fn the_service_is_the_configured_one() {
    let Some(lib) = wrapper() else { return };
    let database = Postgres::shared().database("pam_service");
    let files = Files::new();
    let pooler = asking(&lib, &files, &database, &[(PLAIN_USER, PASSWORD)])
        .setting("auth_pam_service", "other_service")
        .start();
    let target = pooler.target(database.name()).user(PLAIN_USER).password(PASSWORD);
    assert_eq!(Client::try_login(&target).map(drop).unwrap_err().refusal().message(), FAILED);
}
