//! The parameters of a start-up packet.

use std::collections::BTreeMap;

use protocol::params::{Tracked, Values};
use protocol::startup::{PROTOCOL_OPTION_PREFIX, Replication, Startup};

use crate::config::Config;
use crate::error::Refusal;
use crate::net::Peer;

/// Under what refused parameters are counted.
const UNSUPPORTED: &str = "unsupported startup parameter";

/// What a client asked for.
#[derive(Debug)]
pub(super) struct ClientParams {
    /// Tracked parameters that it gave.
    pub(super) values: Values,
    /// Settings that it gave and that are not tracked.
    pub(super) untracked: BTreeMap<String, String>,
    /// For a replication client: what goes into the server's own start-up packet.
    pub(super) for_server: Vec<(String, String)>,
}

impl ClientParams {
    /// Takes what is tracked, drops what is ignored, and takes the rest as well if session state is preserved, else
    /// refuses it.
    pub(super) fn read(
        startup: &Startup,
        config: &Config,
        tracked: &Tracked,
        remote: Peer,
        preserves: bool,
    ) -> Result<ClientParams, Refusal> {
        let replicates = startup.replication() != Replication::Off;
        let mut params = ClientParams {
            values: Values::none(tracked),
            untracked: BTreeMap::new(),
            for_server: Vec::new(),
        };
        for (name, value) in &startup.params {
            match name.as_str() {
                "user" | "database" => {}
                "replication" if replicates => params.for_server.push((name.clone(), value.clone())),
                "replication" => {}
                "options" if replicates => params.for_server.push((name.clone(), value.clone())),
                "options" => params.read_options(value, config, tracked, preserves)?,
                name if name.starts_with(PROTOCOL_OPTION_PREFIX) => {}
                name => match tracked.index(name) {
                    Some(index) => params.values.set(index, value),
                    None if config.params.ignore.iter().any(|i| i == name) => {}
                    None if preserves => drop(params.untracked.insert(name.to_lowercase(), value.clone())),
                    None => {
                        return Err(Refusal::fatal(format!("unsupported startup parameter: {name}"))
                            .because(UNSUPPORTED));
                    }
                },
            }
        }
        if config.params.application_name_add_host {
            let name = params.values.get(Tracked::APPLICATION_NAME).unwrap_or("app");
            let with_host = format!("{name} - {}", host(remote, config));
            params.values.set(Tracked::APPLICATION_NAME, &with_host);
        }
        if replicates {
            for (index, name) in tracked.names().enumerate() {
                if let Some(value) = params.values.get(index) {
                    params.for_server.push((name.to_owned(), value.to_owned()));
                }
            }
        }
        Ok(params)
    }

    /// Everything that it gave, for a session that returns to its beginning.
    pub(super) fn beginning(&self, tracked: &Tracked) -> Vec<(String, String)> {
        let given =
            tracked.names().enumerate().filter_map(|(index, name)| Some((name, self.values.get(index)?)));
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
        given.chain(self.untracked.clone()).collect()
    }

    fn read_options(
        &mut self,
        text: &str,
        config: &Config,
        tracked: &Tracked,
        preserves: bool,
    ) -> Result<(), Refusal> {
        const FORM: &str =
            "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed";
        let ignored = |name: &str| config.params.ignore.iter().any(|i| i == "options" || i == name);
        let mut words = split(text).into_iter();
        while let Some(word) = words.next() {
            let setting = match word.strip_prefix("--") {
                Some(setting) => setting.to_owned(),
                None if word == "-c" => words.next().ok_or(Refusal::fatal(FORM))?,
                None => word.strip_prefix("-c").ok_or(Refusal::fatal(FORM))?.to_owned(),
            };
            let (name, value) = setting.split_once('=').ok_or(Refusal::fatal(FORM))?;
            // PostgreSQL takes a dash for an underscore in these.
            let name = name.replace('-', "_");
            match tracked.index(&name) {
                Some(index) => self.values.set(index, value),
                None if ignored(&name) => {}
                None if preserves => drop(self.untracked.insert(name.to_lowercase(), value.to_owned())),
                None => {
                    return Err(Refusal::fatal(format!("unsupported startup parameter in options: {name}"))
                        .because(UNSUPPORTED));
                }
            }
        }
        Ok(())
    }
}

/// Splits at white space; a backslash makes the next character ordinary.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The client's address as it is added to `application_name`.
fn host(remote: Peer, config: &Config) -> String {
    match remote {
        Peer::Tcp(address) => address.to_string(),
        Peer::Unix { pid } => {
            let here = nix::unistd::gethostname().unwrap_or_default();
            format!("unix({}@{}):{}", pid.unwrap_or_default(), here.to_string_lossy(), config.listen.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn options_are_words_with_escapes() {
        assert_eq!(split(r"-c  a=b --c=d\ e"), ["-c", "a=b", "--c=d e"]);
        assert_eq!(split(r"a\\b\"), [r"a\b"]);
        assert!(split("  ").is_empty());
    }
}
