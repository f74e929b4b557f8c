//! What a parse tree says that a text does: written from the grammar's side, and sharing nothing with the scanner but
//! the lists of harmless and of writing functions.

use serde_json::Value;
use sql::Effects;
use std::collections::HashSet;
use std::sync::LazyLock;

#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) effects: Effects,
    /// Nothing in it writes, locks or calls what is not known only to read; or it is about the session only.
    pub(crate) read_only: bool,
    /// What the tree shows of modes of a transaction: `read only`, `read write`, an isolation.
    pub(crate) modes: Vec<String>,
    /// What is looked at is only explained, not run.
    explained: bool,
    /// All statements are queries: `SELECT`, `INSERT`, `UPDATE`, `DELETE`, `MERGE`, `COPY`.
    pub(crate) query: bool,
    /// What kind of statement, and which name, if it is one alone that has one.
    pub(crate) statement: Option<String>,
}

pub(crate) fn expect(parsed: &Value) -> Expected {
    let statements = parsed["stmts"].as_array().unwrap();
    let mut expected = Expected {
        effects: Effects::NONE,
        read_only: true,
        modes: Vec::new(),
        explained: false,
        query: true,
        statement: None,
    };
    for statement in statements {
        expected.statement(&statement["stmt"]["node"]);
    }
    if statements.len() != 1 {
        expected.statement = None;
    }
    expected
}

impl Expected {
    fn statement(&mut self, node: &Value) {
        let Some((kind, body)) = node.as_object().and_then(|node| node.iter().next()) else { return };
        let name = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        let (mut effects, mut statement) = (Effects::NONE, None);
        self.query &= matches!(
            kind.as_str(),
            "SelectStmt" | "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" | "CopyStmt"
        );
        self.read_only &= match kind.as_str() {
            "SelectStmt" | "VariableShowStmt" | "ExplainStmt" | "PrepareStmt" | "DeclareCursorStmt" => true,
            "DeallocateStmt" | "DiscardStmt" | "ClosePortalStmt" | "UnlistenStmt" => true,
            "CopyStmt" => body["is_from"] != true,
            "TransactionStmt" => body["kind"].as_i64().is_some_and(|kind| kind < PREPARE_TRANSACTION),
            "VariableSetStmt" => true,
            "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" | "CreateTableAsStmt" => self.explained,
            _ => false,
        };
        match kind.as_str() {
            "SelectStmt" | "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" | "CopyStmt" => {}
            "VariableShowStmt" | "FetchStmt" | "LockStmt" | "TruncateStmt" | "VacuumStmt"
            | "CheckPointStmt" | "ClusterStmt" | "ReindexStmt" | "ConstraintsSetStmt" => {}
            "ExplainStmt" => {
                self.explained = option(body, "analyze").is_none();
                self.statement(&body["query"]["node"]);
                self.inside(body);
                (self.explained, self.statement) = (false, None);
                return;
            }
            "VariableSetStmt" => (effects, statement) = set(body),
            "TransactionStmt" => (effects, statement) = (Effects::TRANSACTION, transaction(body)),
            "PrepareStmt" => {
                self.statement(&body["query"]["node"]);
                effects = Effects::PREPARED;
                statement = Some(format!("prepare {}", name("name")));
            }
            "ExecuteStmt" => {
                effects = Effects::EXECUTE;
                statement = Some(format!("execute {}", name("name")));
            }
            "DeallocateStmt" => {
                let all = body["isall"].as_bool() == Some(true);
                effects = Effects::PREPARED | if all { Effects::DEALLOCATE_ALL } else { Effects::NONE };
                statement = Some(format!("deallocate {}", if all { "ALL".to_owned() } else { name("name") }));
            }
            "DeclareCursorStmt" => {
                self.statement(&body["query"]["node"]);
                let hold = body["options"].as_i64().unwrap_or_default() & 0x20 != 0;
                effects = if hold { Effects::HOLD_CURSOR } else { Effects::NONE };
            }
            "ClosePortalStmt" => effects = Effects::CLOSE_CURSOR,
            "ListenStmt" => {
                effects = Effects::LISTEN;
                statement = Some(format!("listen {}", name("conditionname")));
            }
            "UnlistenStmt" => {
                effects = Effects::UNLISTEN;
                let channel = Some(name("conditionname")).filter(|channel| !channel.is_empty());
                statement = Some(format!("unlisten {}", channel.unwrap_or("ALL".to_owned())));
            }
            "NotifyStmt" => {
                effects = Effects::NOTIFY;
                statement = Some(format!("notify {}", name("conditionname")));
            }
            "LoadStmt" => effects = Effects::LOAD,
            "DiscardStmt" => (effects, statement) = discard(&body["target"]),
            "CallStmt" | "DoStmt" | "RefreshMatViewStmt" => effects = Effects::CALLS,
            "DropdbStmt" => {
                effects = Effects::DDL | Effects::DATABASE | Effects::TEMP_GONE;
                statement = Some(format!("vacate {}", name("dbname")));
            }
            "CreatedbStmt" => {
                effects = Effects::DDL | Effects::DATABASE;
                let template = option(body, "template");
                let template = template.map(|arg| arg["node"]["String"]["sval"].as_str().map(str::to_owned));
                let template = template.flatten().unwrap_or("template1".to_owned());
                statement = Some(format!("vacate {template}"));
            }
            "AlterDatabaseStmt" if option(body, "tablespace").is_some() => {
                effects = Effects::DDL | Effects::DATABASE;
                statement = Some(format!("vacate {}", name("dbname")));
            }
            "AlterSystemStmt" | "AlterRoleSetStmt" | "AlterDatabaseSetStmt" => {
                effects = Effects::DDL | Effects::DEFAULTS;
            }
            "CreateExtensionStmt" | "AlterExtensionStmt" => effects = Effects::DDL | Effects::CALLS,
            "DropStmt"
            | "DropRoleStmt"
            | "DropOwnedStmt"
            | "DropTableSpaceStmt"
            | "DropSubscriptionStmt"
            | "DropUserMappingStmt" => effects = Effects::DDL | Effects::TEMP_GONE,
            "RenameStmt" if body["rename_type"] == serde_json::json!(OBJECT_DATABASE) => {
                effects = Effects::DDL | Effects::DATABASE;
                statement = Some(format!("vacate {}", name("subname")));
            }
            _ => {
                effects = Effects::DDL;
                if body["query"]["node"].get("ExecuteStmt").is_some() {
                    effects |= Effects::EXECUTE;
                }
            }
        }
        if effects.contains(Effects::DDL)
            && body.to_string().contains("\"pg_temp\"")
            && !kind.starts_with("Drop")
        {
            effects |= Effects::TEMP;
        }
        self.effects |= effects;
        self.statement = statement;
        self.inside(body);
    }

    /// Whatever is anywhere in a statement.
    fn inside(&mut self, value: &Value) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| self.inside(value)),
            Value::Object(fields) => {
                for (field, value) in fields {
                    match field.as_str() {
                        "FuncCall" => self.call(value),
                        "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" => {
                            self.read_only &= self.explained
                        }
                        "LockingClause" => self.read_only &= self.explained,
                        "ExecuteStmt" => self.read_only = false,
                        "DefElem" => self.mode(value),
                        "into_clause" if value.is_object() => {
                            self.read_only &= self.explained;
                            self.effects |= Effects::DDL;
                            let schema = value["rel"]["schemaname"].as_str();
                            if schema == Some("pg_temp") {
                                self.effects |= Effects::TEMP;
                            }
                        }
                        "relpersistence" if value == "t" => self.effects |= Effects::TEMP,
                        _ => {}
                    }
                    self.inside(value);
                }
            }
            _ => {}
        }
    }

    /// Of `BEGIN` and `SET TRANSACTION`.
    fn mode(&mut self, option: &Value) {
        let value = &option["arg"]["node"]["AConst"]["val"];
        let mode = match option["defname"].as_str() {
            Some("transaction_read_only") if value["Ival"]["ival"] == 1 => "read only".to_owned(),
            Some("transaction_read_only") => "read write".to_owned(),
            Some("transaction_isolation") => value["Sval"]["sval"].as_str().unwrap_or_default().to_owned(),
            _ => return,
        };
        self.modes.push(mode);
    }

    fn call(&mut self, call: &Value) {
        let parts = call["funcname"].as_array().unwrap();
        let parts: Vec<_> =
            parts.iter().map(|part| part["node"]["String"]["sval"].as_str().unwrap()).collect();
        let name = match parts.as_slice() {
            [name] | ["pg_catalog" | "information_schema", name] => *name,
            _ => "",
        };
        let effects = match name {
            "set_config" => set_config(&call["args"]),
            "nextval" | "setval" => Effects::SEQUENCE,
            "currval" | "lastval" => Effects::SEQUENCE_READ,
            "setseed" => Effects::SEED,
            "pg_notify" => Effects::NOTIFY,
            "pg_listening_channels" => Effects::LISTEN,
            "pg_advisory_lock" | "pg_advisory_lock_shared" | "pg_try_advisory_lock" => Effects::LOCKS,
            "pg_try_advisory_lock_shared" => Effects::LOCKS,
            "pg_advisory_unlock" | "pg_advisory_unlock_shared" | "pg_advisory_unlock_all" => Effects::UNLOCKS,
            _ if HARMLESS.contains(name) => Effects::NONE,
            _ => Effects::CALLS,
        };
        if !effects.is_empty() || WRITING.contains(name) {
            self.read_only = false;
        }
        self.effects |= effects;
    }
}

/// Where in the text functions are called by name and parentheses.
pub(crate) fn calls(value: &Value, found: &mut Vec<usize>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| calls(value, found)),
        Value::Object(fields) => {
            for (field, value) in fields {
                if field == "FuncCall" && value["funcformat"] == serde_json::json!(COERCE_EXPLICIT_CALL) {
                    found.extend(value["location"].as_u64().map(|location| location as usize));
                }
                calls(value, found);
            }
        }
        _ => {}
    }
}

fn set_config(args: &Value) -> Effects {
    let constant = |i: usize, kind: &str, value: &str| args[i]["node"]["AConst"]["val"][kind][value].clone();
    if constant(2, "Boolval", "boolval") == true {
        return Effects::LOCAL_SETTINGS;
    }
    let name = constant(0, "Sval", "sval");
    Effects::SETTINGS | name.as_str().map_or(Effects::ROLE, setting_effects)
}

fn setting_effects(name: &str) -> Effects {
    match name.to_ascii_lowercase().as_str() {
        "role" | "session_authorization" => Effects::ROLE,
        "seed" => Effects::SEED,
        _ => Effects::NONE,
    }
}

fn set(body: &Value) -> (Effects, Option<String>) {
    let setting = body["name"].as_str().unwrap_or_default();
    let local = body["is_local"].as_bool() == Some(true) || setting.starts_with("TRANSACTION");
    match body["kind"].as_i64() {
        _ if local => (Effects::LOCAL_SETTINGS, None),
        Some(6) => (Effects::RESET | setting_effects(setting), Some("reset ALL".to_owned())),
        Some(5) => (Effects::RESET | setting_effects(setting), Some(format!("reset {setting}"))),
        Some(4) => (Effects::SETTINGS | setting_effects(setting), None),
        _ => (Effects::SETTINGS | setting_effects(setting), Some(format!("set {setting}"))),
    }
}

fn transaction(body: &Value) -> Option<String> {
    let chain = body["chain"].as_bool() == Some(true);
    let name = match body["kind"].as_i64() {
        Some(1 | 2) => "begin",
        Some(3) if !chain => "commit",
        Some(4) if !chain => "rollback",
        _ => return None,
    };
    Some(name.to_owned())
}

fn discard(target: &Value) -> (Effects, Option<String>) {
    match target.as_i64() {
        Some(1) => {
            let all = Effects::DISCARD_ALL | Effects::SETTINGS | Effects::ROLE | Effects::PREPARED;
            let all =
                all | Effects::DEALLOCATE_ALL | Effects::LISTEN | Effects::CLOSE_CURSOR | Effects::TEMP_GONE;
            (all | Effects::UNLOCKS | Effects::SEQUENCE, Some("discard ALL".to_owned()))
        }
        Some(3) => (Effects::SEQUENCE, None),
        Some(4) => (Effects::TEMP_GONE, None),
        _ => (Effects::NONE, None),
    }
}

/// In pg_query's `TransactionStmtKind`; those behind it need a primary, too.
const PREPARE_TRANSACTION: i64 = 8;

/// In pg_query's `ObjectType`.
const OBJECT_DATABASE: i64 = 10;

/// In pg_query's `CoercionForm`.
const COERCE_EXPLICIT_CALL: i64 = 1;

static HARMLESS: LazyLock<HashSet<&str>> =
    LazyLock::new(|| include_str!("../../functions.txt").lines().collect());
static WRITING: LazyLock<HashSet<&str>> =
    LazyLock::new(|| include_str!("../../writing.txt").lines().collect());

/// The argument of an option of `CREATE` or `ALTER DATABASE`.
fn option<'a>(statement: &'a Value, name: &str) -> Option<&'a Value> {
    let options = statement["options"].as_array()?.iter().map(|option| &option["node"]["DefElem"]);
    options.filter(|option| option["defname"] == name).map(|option| &option["arg"]).next()
}
