use protocol::error_fields::{ErrorFields, ErrorMessage, Severity};
use protocol::sqlstate::SqlState;

/// Bodies of `ErrorResponse` and `NoticeResponse`: reading never fails, and a message made of what was read says the
/// same when it is read again.
pub fn error_fields(data: &[u8]) {
    let fields = ErrorFields::new(data);
    assert!(fields.iter().all(|(tag, value)| tag != 0 && !value.contains(&0)));
    let _ = (fields.to_string(), format!("{fields:?}"), fields.localized_severity());

    let mut message = ErrorMessage::new(
        fields.severity().unwrap_or(Severity::Error),
        fields.code().unwrap_or(SqlState::INTERNAL_ERROR),
        fields.message().unwrap_or_default().into_owned(),
    );
    message.detail = fields.detail().map(|text| text.into_owned().into());
    message.hint = fields.hint().map(|text| text.into_owned().into());
    let mut out = Vec::new();
    message.encode_error(&mut out);

    let again = ErrorFields::new(&out[5..]);
    assert_eq!(again.severity(), Some(message.severity));
    assert_eq!(again.code(), Some(message.code));
    assert_eq!(again.message(), Some(message.message));
    assert_eq!((again.detail(), again.hint()), (message.detail, message.hint));
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    vec![
        b"SERROR\0VERROR\0C57014\0Mcanceling statement due to user request\0Fpostgres.c\0L3092\0\0".to_vec(),
        b"SFEHLER\0VFATAL\0C28P01\0Mnein\0Dweil\0Hdoch\0\0".to_vec(),
        b"SNOTICE\0C00000\0M\xc3\xa4\0\0".to_vec(),
    ]
}
