//! `llm-proxy backup` and `llm-proxy restore`: the database in one file.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde_json::json;

use super::source::Source;
use super::{Failure, Global, output};
use crate::config::{DatabaseDriver, Settings};
use crate::domain::SystemClock;
use crate::store::sqlite::backup;

/// Flags of `backup`.
#[derive(Debug, Args)]
pub struct BackupArguments {
    /// The new file. SQLite: a database; PostgreSQL: an archive of `pg_dump`.
    file: PathBuf,
}

/// Flags of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// A file that `backup` made.
    file: PathBuf,
}

/// Runs `backup`.
pub fn backup(global: &Global, arguments: &BackupArguments) -> Result<(), Failure> {
    let settings = Source::of(global)?.load_or_report(global.json)?.settings;
    let file = &arguments.file;
    match settings.database.driver {
        DatabaseDriver::Sqlite => {
            let database = sqlite_file(&settings)?;
            backup::backup(database, &settings.server.state_dir, file)?;
        }
        DatabaseDriver::Postgres => {
            if file.exists() {
                return Err(Failure::Failed(format!(
                    "`{}` exists already; name another file",
                    file.display()
                )));
            }
            let mut command = postgres_tool("pg_dump", &settings)?;
            command
                .args(["--format=custom", "--no-owner"])
                .arg("--file")
                .arg(file);
            finish("pg_dump", command)?;
        }
    }
    let bytes = std::fs::metadata(file)?.len();
    if global.json {
        return output::json(
            &json!({"file": file, "bytes": bytes, "driver": settings.database.driver.name()}),
        );
    }
    output::line(&format!("wrote `{}`, {bytes} bytes", file.display()))?;
    if settings.encryption.has_key() {
        output::line(
            "the encryption key is not in it: keep that in another place, the provider keys need it",
        )?;
    }
    Ok(())
}

/// Runs `restore`.
pub fn restore(global: &Global, arguments: &RestoreArguments) -> Result<(), Failure> {
    let settings = Source::of(global)?.load_or_report(global.json)?.settings;
    let file = &arguments.file;
    if !file.is_file() {
        return Err(Failure::Failed(format!("`{}` is no file", file.display())));
    }
    let kept = match settings.database.driver {
        DatabaseDriver::Sqlite => {
            let now = SystemClock::shared().now();
            backup::restore(file, sqlite_file(&settings)?, &settings.server.state_dir, now)?
        }
        DatabaseDriver::Postgres => {
            let mut command = postgres_tool("pg_restore", &settings)?;
            command
                .args(["--clean", "--if-exists", "--no-owner", "--single-transaction"])
                .arg(file);
            finish("pg_restore", command)?;
            None
        }
    };
    if global.json {
        return output::json(
            &json!({"restored": file, "kept": kept, "driver": settings.database.driver.name()}),
        );
    }
    output::line(&format!("restored `{}`", file.display()))?;
    match kept {
        Some(kept) => output::line(&format!("what was there before is kept as `{}`", kept.display())),
        None => Ok(()),
    }
}

fn sqlite_file(settings: &Settings) -> Result<&Path, Failure> {
    if settings.database.is_in_memory() {
        return Err(Failure::Failed(
            "the database is in memory (`database.path: \":memory:\"`): there is nothing to keep".to_owned(),
        ));
    }
    Ok(&settings.database.path)
}

/// A tool of PostgreSQL's with the address as argument and the password in its environment, where no other user of the
/// machine sees it.
fn postgres_tool(tool: &str, settings: &Settings) -> Result<Command, Failure> {
    let url = settings
        .database
        .listen_url
        .as_ref()
        .or(settings.database.url.as_ref());
    let url = url.map(crate::domain::Secret::expose).unwrap_or_default();
    let (address, password) = without_password(url);
    let mut command = Command::new(tool);
    command.arg("--dbname").arg(address);
    if let Some(password) = password {
        let password = percent_decoded(password).ok_or_else(|| {
            Failure::Failed("the password in `database.url` is not well encoded".to_owned())
        })?;
        command.env("PGPASSWORD", password);
    }
    Ok(command)
}

fn finish(tool: &str, mut command: Command) -> Result<(), Failure> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::Failed(format!(
            "`{tool}` failed ({status}); its own words stand above"
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::Failed(format!(
            "`{tool}` is not installed; it comes with PostgreSQL's client package (`apt-get install postgresql-client`)"
        ))),
        Err(error) => Err(Failure::Failed(format!("`{tool}` cannot be run: {error}"))),
    }
}

/// A libpq URL without its password, and the password as written.
fn without_password(url: &str) -> (String, Option<&str>) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return (url.to_owned(), None);
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let Some(at) = rest[..end].rfind('@') else {
        return (url.to_owned(), None);
    };
    match rest[..at].split_once(':') {
        Some((user, password)) => (format!("{scheme}://{user}{}", &rest[at..]), Some(password)),
        None => (url.to_owned(), None),
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_taken_out_of_the_address() {
        for (url, address, password) in [
            (
                "postgres://u:p%40x@h:5432/d?sslmode=require",
                "postgres://u@h:5432/d?sslmode=require",
                Some("p%40x"),
            ),
            ("postgres://u@h/d", "postgres://u@h/d", None),
            ("postgres:///d?host=/run/pg", "postgres:///d?host=/run/pg", None),
            ("postgresql://u:a:b@h/d@x", "postgresql://u@h/d@x", Some("a:b")),
        ] {
            assert_eq!(without_password(url), (address.to_owned(), password), "{url}");
        }
        assert_eq!(percent_decoded("p%40x").as_deref(), Some("p@x"));
        assert_eq!(percent_decoded("%4"), None);
    }
}
