//! SQLSTATE codes.

use std::fmt;

/// A five-character SQLSTATE code: digits and upper-case ASCII letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// `successful_completion`: what notices carry.
    pub const SUCCESSFUL_COMPLETION: SqlState = SqlState(*b"00000");
    /// `warning`.
    pub const WARNING: SqlState = SqlState(*b"01000");
    /// `connection_does_not_exist`: the connection was lost before the statement was sent.
    pub const CONNECTION_DOES_NOT_EXIST: SqlState = SqlState(*b"08003");
    /// `connection_failure`: the server was lost.
    pub const CONNECTION_FAILURE: SqlState = SqlState(*b"08006");
    /// `protocol_violation`: PgBouncer's code for nearly everything.
    pub const PROTOCOL_VIOLATION: SqlState = SqlState(*b"08P01");
    /// `feature_not_supported`; also "cached plan must not change result type".
    pub const FEATURE_NOT_SUPPORTED: SqlState = SqlState(*b"0A000");
    /// `invalid_parameter_value`.
    pub const INVALID_PARAMETER_VALUE: SqlState = SqlState(*b"22023");
    /// `active_sql_transaction`: a statement that may not stand inside a transaction block.
    pub const ACTIVE_SQL_TRANSACTION: SqlState = SqlState(*b"25001");
    /// `read_only_sql_transaction`: a write reached a replica.
    pub const READ_ONLY_SQL_TRANSACTION: SqlState = SqlState(*b"25006");
    /// `in_failed_sql_transaction`: only the end of the transaction block is accepted.
    pub const IN_FAILED_SQL_TRANSACTION: SqlState = SqlState(*b"25P02");
    /// `idle_in_transaction_session_timeout`.
    pub const IDLE_IN_TRANSACTION_SESSION_TIMEOUT: SqlState = SqlState(*b"25P03");
    /// `transaction_timeout`.
    pub const TRANSACTION_TIMEOUT: SqlState = SqlState(*b"25P04");
    /// `invalid_sql_statement_name`: no such prepared statement.
    pub const INVALID_SQL_STATEMENT_NAME: SqlState = SqlState(*b"26000");
    /// `invalid_authorization_specification`: this user may not log in like this.
    pub const INVALID_AUTHORIZATION_SPECIFICATION: SqlState = SqlState(*b"28000");
    /// `invalid_password`.
    pub const INVALID_PASSWORD: SqlState = SqlState(*b"28P01");
    /// `invalid_catalog_name`: no such database.
    pub const INVALID_CATALOG_NAME: SqlState = SqlState(*b"3D000");
    /// `invalid_cursor_name`: no such portal.
    pub const INVALID_CURSOR_NAME: SqlState = SqlState(*b"34000");
    /// `transaction_rollback`: for a reason that no other code names.
    pub const TRANSACTION_ROLLBACK: SqlState = SqlState(*b"40000");
    /// A transaction can't be shown as one after another with others.
    pub const SERIALIZATION_FAILURE: SqlState = SqlState(*b"40001");
    /// `statement_completion_unknown`: the server was lost and the statement may have run.
    pub const STATEMENT_COMPLETION_UNKNOWN: SqlState = SqlState(*b"40003");
    /// `duplicate_cursor`: a portal of that name exists.
    pub const DUPLICATE_CURSOR: SqlState = SqlState(*b"42P03");
    /// `duplicate_prepared_statement`.
    pub const DUPLICATE_PREPARED_STATEMENT: SqlState = SqlState(*b"42P05");
    /// `out_of_memory`.
    pub const OUT_OF_MEMORY: SqlState = SqlState(*b"53200");
    /// `too_many_connections`.
    pub const TOO_MANY_CONNECTIONS: SqlState = SqlState(*b"53300");
    /// `configuration_limit_exceeded`: a limit that the administrator has set.
    pub const CONFIGURATION_LIMIT_EXCEEDED: SqlState = SqlState(*b"53400");
    /// `program_limit_exceeded`: a message or value is too large for a limit of this program.
    pub const PROGRAM_LIMIT_EXCEEDED: SqlState = SqlState(*b"54000");
    /// `object_not_in_prerequisite_state`: console commands that do not fit the present state.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: SqlState = SqlState(*b"55000");
    /// `query_canceled`: by request or by a statement timeout.
    pub const QUERY_CANCELED: SqlState = SqlState(*b"57014");
    /// `admin_shutdown`: disconnected by an administrator.
    pub const ADMIN_SHUTDOWN: SqlState = SqlState(*b"57P01");
    /// `cannot_connect_now`: starting up, shutting down or in recovery; worth another attempt.
    pub const CANNOT_CONNECT_NOW: SqlState = SqlState(*b"57P03");
    /// `config_file_error`: a reload that failed.
    pub const CONFIG_FILE_ERROR: SqlState = SqlState(*b"F0000");
    /// `internal_error`.
    pub const INTERNAL_ERROR: SqlState = SqlState(*b"XX000");

    /// Takes a code as it stands in a message; `None` unless it is five digits or upper-case ASCII letters.
    pub fn new(code: &[u8]) -> Option<SqlState> {
        let code: [u8; 5] = code.try_into().ok()?;
        code.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()).then_some(SqlState(code))
    }

    /// The five characters.
    pub fn as_bytes(&self) -> &[u8; 5] {
        &self.0
    }

    /// The first two characters, shared by related codes (`08` is every connection exception).
    pub fn class(&self) -> [u8; 2] {
        [self.0[0], self.0[1]]
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&b| fmt::Write::write_char(f, char::from(b)))
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqlState({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_five_digits_and_capitals_are_a_code() {
        assert_eq!(SqlState::new(b"57014"), Some(SqlState::QUERY_CANCELED));
        assert_eq!(SqlState::new(b"08P01").map(|c| c.to_string()).as_deref(), Some("08P01"));
        for junk in [&b""[..], b"5701", b"570144", b"0a000", b"0 000", b"\xff\xff\xff\xff\xff"] {
            assert_eq!(SqlState::new(junk), None, "{junk:?}");
        }
        assert_eq!(&SqlState::CONNECTION_FAILURE.class(), b"08");
    }
}
