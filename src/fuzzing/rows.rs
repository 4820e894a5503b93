//! Everything that reads rows, topics and targets.
//!
//! Rows that were read are read again as the same after they were written, what a message writes it
//! reads, and no fault of a `530` row is worded with a double quote, a line break, or at length.

use smartrest::{
    CollectionAnswer, ConnectRequest, Credentials, PendingOperation, Row, Target, Token, Topics,
    decode, encode, plain_text,
};

/// Bytes that a fault may be worded in; a failure reason has room for them.
const FAULT_LIMIT: usize = 128;

pub(super) fn run(payload: &[u8]) {
    let rows = decode(payload);
    assert_eq!(fields(&decode(encode(&rows).as_bytes())), fields(&rows));
    for row in &rows {
        read_templates(row);
        for field in row.fields() {
            read_text(field);
        }
    }
}

fn fields(rows: &[Row]) -> Vec<&[String]> {
    rows.iter().map(Row::fields).collect()
}

fn read_templates(row: &Row) {
    if let Ok(credentials) = Credentials::from_row(row) {
        assert_eq!(
            Credentials::from_row(&credentials.to_row()),
            Ok(credentials)
        );
    }
    if let Ok(token) = Token::from_row(row) {
        assert_eq!(Token::from_row(&token.to_row()), Ok(token));
    }
    CollectionAnswer::from_row(row);
    if let Some(Ok(operation)) = PendingOperation::from_collection_row(row)
        && let Err(error) = operation.request()
    {
        assert!(error.to_string().len() <= FAULT_LIMIT, "{error}");
    }
    match ConnectRequest::from_row(row) {
        Ok(request) => {
            assert_eq!(
                request.target.to_string().parse(),
                Ok(request.target.clone())
            );
            assert_eq!(ConnectRequest::from_row(&request.to_row()), Ok(request));
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.len() <= FAULT_LIMIT, "{error}");
            assert_eq!(plain_text(&error, FAULT_LIMIT), error);
        }
    }
}

fn read_text(field: &str) {
    if let Ok(target) = field.parse::<Target>() {
        assert_eq!(target.to_string().parse(), Ok(target));
    }
    let topics = Topics::default();
    if let Ok(topic) = topics.child_up(field) {
        assert!(topics.parse(&topic).is_some());
    }
    if let Ok(topics) = Topics::new(field) {
        assert!(topics.parse(&topics.down()).is_some());
    }
    topics.parse(field);
}
