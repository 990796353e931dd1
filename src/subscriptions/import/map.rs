//! The file that says which organization a customer is: `customer,organization`. It is
//! read line by line and checked whole before anything is done.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{BufRead as _, BufReader, Read};

use csv::{ReaderBuilder, StringRecord, Trim};
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::db::WorkerTx;
use crate::tenancy::names::{Named, find_names, own_id};
use crate::tenancy::organizations::is_customer_id;

/// How many names are looked up at once.
const LOOKUP: usize = 1_000;
/// How many wrong lines are told before reading stops.
const MOST_PROBLEMS: usize = 20;
/// Bytes of a line at most.
const LONGEST_LINE: u64 = 64 * 1024;
const COLUMNS: &str = "expected the header `customer,organization`";

/// Why a map cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// One for each line, with its number.
    #[error("{}", .0.join("\n"))]
    Wrong(Vec<String>),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Which organization each customer is.
#[derive(Debug, Default)]
pub struct CustomerMap {
    organizations: HashMap<String, Uuid>,
    digest: String,
}

/// The lines of a file, by customer.
#[derive(Debug, Default)]
struct Lines(HashMap<String, (u64, String)>);

impl CustomerMap {
    /// Reads a file, and finds its organizations.
    pub async fn read(pool: &PgPool, file: impl Read) -> Result<Self, MapError> {
        let lines = read_lines(file).map_err(MapError::Wrong)?;
        if lines.0.is_empty() {
            let none = "the file names no customer; leave --map out if there is none to name";
            return Err(MapError::Wrong(vec![none.to_owned()]));
        }
        let mut sorted: Vec<(&String, &(u64, String))> = lines.0.iter().collect();
        sorted.sort_unstable_by_key(|(_, (line, _))| *line);
        let mut map = Self::default();
        let mut wrong = Vec::new();
        let mut digest = Sha256::new();
        for chunk in sorted.chunks(LOOKUP) {
            let names: Vec<&str> = chunk.iter().map(|(_, (_, name))| name.as_str()).collect();
            let ids: Vec<Uuid> = names.iter().filter_map(|name| own_id(name)).collect();
            let mut tx = WorkerTx::begin(pool).await?;
            let found = find_names(tx.conn(), &names, &ids).await?;
            tx.rollback().await?;
            for (customer, (line, name)) in chunk {
                match found.named(name) {
                    Some(Named::Organization { id, .. }) => {
                        digest.update(format!("{customer},{id}\n"));
                        map.organizations.insert((*customer).clone(), id);
                    }
                    Some(Named::Ambiguous) => wrong.push(format!(
                        "line {line}: {name:?} is the external id of one organization and the id of another"
                    )),
                    None => wrong.push(format!(
                        "line {line}: there is no organization {name:?}; `organizations list` shows them"
                    )),
                }
            }
            if wrong.len() >= MOST_PROBLEMS {
                break;
            }
        }
        if !wrong.is_empty() {
            wrong.truncate(MOST_PROBLEMS);
            return Err(MapError::Wrong(wrong));
        }
        map.digest = hex::encode(digest.finalize());
        Ok(map)
    }

    /// The organization that the file names for a customer.
    pub fn organization(&self, customer: &str) -> Option<Uuid> {
        self.organizations.get(customer).copied()
    }

    pub fn customers(&self) -> impl Iterator<Item = (&str, Uuid)> {
        let named = self.organizations.iter();
        named.map(|(customer, organization)| (customer.as_str(), *organization))
    }

    /// The same for two files exactly if they say the same; empty without a file.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// The lines, or what is wrong with them.
fn read_lines(file: impl Read) -> Result<Lines, Vec<String>> {
    let mut file = BufReader::new(file);
    let mut lines = Lines::default();
    let mut wrong = Vec::new();
    let mut columns = None;
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = (&mut file).take(LONGEST_LINE).read_until(b'\n', &mut line);
        match read {
            Ok(0) => break,
            Ok(_) if line.ends_with(b"\n") || (line.len() as u64) < LONGEST_LINE => {}
            Ok(_) => {
                let most = format!("line {number}: is longer than {LONGEST_LINE} bytes");
                return Err(vec![most]);
            }
            Err(error) => return Err(vec![format!("line {number}: {error}")]),
        }
        let problem = match (columns, fields(&line)) {
            (_, Err(problem)) => Some(problem),
            // Spreadsheets leave empty lines at the end.
            (_, Ok(fields)) if fields.iter().all(str::is_empty) && number > 1 => None,
            (None, Ok(header)) => {
                let found = self::columns(&header);
                columns = Some(found.map_err(|problem| vec![format!("line 1: {problem}")])?);
                None
            }
            (Some(_), Ok(fields)) if fields.len() != 2 => {
                Some(format!("has {} fields, and the header 2", fields.len()))
            }
            (Some((customer, organization)), Ok(fields)) => {
                let added = lines.add(number, &fields[customer], &fields[organization]);
                added.err()
            }
        };
        wrong.extend(problem.map(|problem| format!("line {number}: {problem}")));
        if wrong.len() >= MOST_PROBLEMS {
            break;
        }
    }
    if columns.is_none() && wrong.is_empty() {
        wrong.push(format!("line 1: a column is missing; {COLUMNS}"));
    }
    if wrong.is_empty() {
        Ok(lines)
    } else {
        Err(wrong)
    }
}

/// The fields of a line. None has a line end in it: neither ids nor external ids may.
fn fields(line: &[u8]) -> Result<StringRecord, String> {
    let text = std::str::from_utf8(line).map_err(|_| "is not UTF-8".to_owned())?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    if line.strip_suffix('\r').unwrap_or(line).contains('\r') {
        return Err(
            "has a carriage return in it; save the file with line ends of LF or CRLF".to_owned(),
        );
    }
    // A quote within quotes is two.
    if text.matches('"').count() % 2 == 1 {
        return Err("has a quote that is not closed".to_owned());
    }
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .trim(Trim::All)
        .buffer_capacity(256)
        .from_reader(text.as_bytes());
    let mut fields = StringRecord::new();
    let read = reader.read_record(&mut fields);
    read.map_err(|error| error.to_string())?;
    Ok(fields)
}

impl Lines {
    fn add(&mut self, line: u64, customer: &str, organization: &str) -> Result<(), String> {
        if !is_customer_id(customer) {
            return Err(format!("{customer:?} is not a Stripe customer id (cus_…)"));
        }
        if organization.is_empty() {
            return Err("names no organization".to_owned());
        }
        match self.0.entry(customer.to_owned()) {
            Entry::Occupied(before) => {
                let (first, _) = before.get();
                Err(format!("{customer} is on line {first} already"))
            }
            Entry::Vacant(new) => {
                new.insert((line, organization.to_owned()));
                Ok(())
            }
        }
    }
}

/// The positions of the two columns.
fn columns(headers: &StringRecord) -> Result<(usize, usize), String> {
    let (mut customer, mut organization) = (None, None);
    for (position, name) in headers.iter().enumerate() {
        // Spreadsheets begin a file with a byte order mark.
        let column = match name.trim_start_matches('\u{feff}') {
            "customer" => &mut customer,
            "organization" => &mut organization,
            other => return Err(format!("unknown column {other:?}; {COLUMNS}")),
        };
        if column.replace(position).is_some() {
            return Err(format!("the column {name:?} is there twice; {COLUMNS}"));
        }
    }
    customer
        .zip(organization)
        .ok_or_else(|| format!("a column is missing; {COLUMNS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        read_lines(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn lines_are_read_by_their_header() {
        let text = "\u{feff}organization, customer\r\nacme ,cus_1\r\n\r\n\"a,b\",cus_2\r\n";
        let lines = read_lines(text.as_bytes()).unwrap().0;
        assert_eq!(lines["cus_1"], (2, "acme".to_owned()));
        assert_eq!(lines["cus_2"].1, "a,b");
        assert_eq!(
            read_lines(&b"customer,organization\n"[..]).unwrap().0.len(),
            0
        );
    }

    #[test]
    fn each_wrong_line_is_named() {
        assert!(problems("")[0].starts_with("line 1: a column is missing"));
        assert!(problems("customer\ncus_1\n")[0].contains("missing"));
        assert!(problems("customer,organization,plan\n")[0].contains("unknown column \"plan\""));
        assert!(problems("customer,customer\n")[0].contains("twice"));
        let text = "customer,organization\ncus_1,a\nsub_1,b\ncus_2,\ncus_1,c\ncus_3\n";
        assert_eq!(
            problems(text),
            [
                "line 3: \"sub_1\" is not a Stripe customer id (cus_…)",
                "line 4: names no organization",
                "line 5: cus_1 is on line 2 already",
                "line 6: has 1 fields, and the header 2",
            ]
        );
        let binary = read_lines(&b"customer,organization\ncus_1,\xff\n"[..]).unwrap_err();
        assert_eq!(binary, ["line 2: is not UTF-8"]);
    }

    #[test]
    fn nothing_of_a_line_is_left_unread() {
        let cr = "has a carriage return in it; save the file with line ends of LF or CRLF";
        assert_eq!(
            problems("customer,organization\rcus_1,a\r"),
            [
                format!("line 1: {cr}"),
                format!("line 1: a column is missing; {COLUMNS}")
            ][..1]
        );
        let text = "customer,organization\ncus_1,a\rcus_2,b\n";
        assert_eq!(problems(text), [format!("line 2: {cr}")]);
        let text = "customer,organization\ncus_1,\"a\n";
        assert_eq!(problems(text), ["line 2: has a quote that is not closed"]);
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let endless = std::io::repeat(b'x').take(1 << 40);
        let wrong = read_lines(endless).unwrap_err();
        assert_eq!(wrong, ["line 1: is longer than 65536 bytes"]);
    }

    #[test]
    fn a_file_that_is_all_wrong_is_not_read_to_its_end() {
        let lines = "nobody,a\n".repeat(100_000);
        let wrong = problems(&format!("customer,organization\n{lines}"));
        assert_eq!(wrong.len(), MOST_PROBLEMS);
    }
}
