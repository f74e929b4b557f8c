//! What to look at.

use pgbouncer_compat::columns::Show;
use pooler::control::Control;

use crate::console::Answer;
use crate::rows::{Table, cells};

pub(crate) async fn advice(control: &Control) -> Answer {
    let mut table = Table::new(Show::Advice.columns());
    for row in control.advice().await {
        table.row(cells![row.severity.name(), row.subject, row.advice, row.evidence]);
    }
    Ok(table.finish())
}
