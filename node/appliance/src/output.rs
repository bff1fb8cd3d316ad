//! Shows answers: as a table for people, as JSON or YAML with the API's own names for programs.

use std::io::{self, Write};

use serde::Serialize;

use crate::command::Form;

/// Between two columns.
const GAP: &str = "  ";

/// Shows `answer`; `table` says what of it people see: a head and rows, or one pair a line.
///
/// # Errors
///
/// When nobody reads, or the answer cannot be written in that form.
pub(crate) fn show(
    form: Form,
    answer: &impl Serialize,
    table: impl FnOnce() -> Table,
) -> Result<(), Box<dyn std::error::Error>> {
    let text = match form {
        Form::Table => table().to_string(),
        Form::Json => serde_json::to_string_pretty(answer)? + "\n",
        Form::Yaml => serde_saphyr::to_string(answer)?,
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Rows of text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Table {
    /// A head, and a row for each object.
    List { head: Vec<&'static str>, rows: Vec<Vec<String>> },
    /// One object: names and values.
    Object(Vec<(&'static str, String)>),
    /// Nothing to show: it is done.
    Done,
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::List { head, rows } => {
                let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
                let lines: Vec<&Vec<String>> = [&head].into_iter().chain(rows).collect();
                let width = |column: usize| {
                    lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)
                };
                let widths: Vec<usize> = (0..head.len()).map(width).collect();
                for line in lines {
                    let mut text = String::new();
                    for (cell, width) in line.iter().zip(&widths) {
                        text.push_str(&format!("{cell:<width$}{GAP}"));
                    }
                    writeln!(f, "{}", text.trim_end())?;
                }
                Ok(())
            }
            Self::Object(pairs) => {
                let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
                for (name, value) in pairs {
                    writeln!(f, "{}", format!("{name:<width$}{GAP}{value}").trim_end())?;
                }
                Ok(())
            }
            Self::Done => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        let table = Table::List {
            head: vec!["NAME", "SIZE"],
            rows: vec![row("a", "1 GiB"), row("long-name", "")],
        };
        assert_eq!(table.to_string(), "NAME       SIZE\na          1 GiB\nlong-name\n");
        let object = Table::Object(vec![("name", "a".to_owned()), ("uuid", "1".to_owned())]);
        assert_eq!(object.to_string(), "name  a\nuuid  1\n");
    }
}
