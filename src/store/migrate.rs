//! The list of schema versions of both back ends, and what may happen when one meets a stored schema.

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::StoreError;
use crate::domain::Timestamp;

/// One step of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// Its number, from 1 without gaps.
    pub version: u32,
    /// Its name without number and ending.
    pub name: &'static str,
    /// Its statements.
    pub sql: &'static str,
}

macro_rules! migrations {
    ($folder:literal: $($version:literal $number:literal $name:literal),+ $(,)?) => {
        &[$(Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../migrations/", $folder, "/", $number, "_", $name, ".sql")),
        }),+]
    };
}

/// The schema of SQLite.
pub const SQLITE: &[Migration] = migrations!("sqlite":
    1 "0001" "create_tokens_and_projects",
    2 "0002" "create_audit_events",
    3 "0003" "create_grant_folds_and_changes",
    4 "0004" "create_usage_ledger",
    5 "0005" "create_spend_by_day",
    6 "0006" "rebuild_record_indexes",
    7 "0007" "add_media_units",
);

/// The schema of PostgreSQL.
pub const POSTGRES: &[Migration] = migrations!("postgres":
    1 "0001" "create_tokens_and_projects",
    2 "0002" "create_audit_events",
    3 "0003" "create_grant_folds_and_changes",
    4 "0004" "create_usage_ledger",
    5 "0005" "create_spend_by_day",
    6 "0006" "rebuild_record_indexes",
    7 "0007" "add_media_units",
);

impl Migration {
    /// What is kept of its text, to see later whether it was edited.
    pub fn checksum(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(64);
        for byte in Sha256::digest(self.sql.as_bytes()) {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

/// One line of `migrate status`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MigrationStatus {
    /// Its number.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// When it was applied; absent: not yet.
    pub applied_at: Option<Timestamp>,
}

/// A row of `schema_migrations`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AppliedMigration {
    pub version: i64,
    pub name: String,
    pub checksum: String,
    pub applied_at: i64,
}

/// The schema of a store, for `migrate up` and `migrate status`.
#[async_trait]
pub trait Schema: Send + Sync + 'static {
    /// Applies what is missing; answers what was applied now.
    async fn up(&self) -> Result<Vec<MigrationStatus>, StoreError>;
    /// Says what is applied and what is missing, and changes nothing.
    async fn status(&self) -> Result<Vec<MigrationStatus>, StoreError>;
}

/// Compares what is applied with what is known: a newer or edited schema is an error, else the answer is what is missing.
pub(super) fn missing<'a>(
    known: &'a [Migration],
    applied: &[AppliedMigration],
) -> Result<&'a [Migration], StoreError> {
    let newest_known = known.last().map_or(0, |migration| migration.version);
    for (index, row) in applied.iter().enumerate() {
        let version = u32::try_from(row.version).unwrap_or(0);
        if version > newest_known {
            let found = applied
                .iter()
                .filter_map(|row| u32::try_from(row.version).ok())
                .max()
                .unwrap_or(version);
            return Err(StoreError::NewerSchema {
                found,
                known: newest_known,
            });
        }
        let Some(migration) = known.get(index).filter(|migration| migration.version == version) else {
            return Err(StoreError::Damaged(format!(
                "`schema_migrations` lists version {version} where version {} should be",
                index + 1
            )));
        };
        if migration.checksum() != row.checksum {
            return Err(StoreError::Damaged(format!(
                "migration {version} `{}` was applied with another text than this program has; the schema was made \
                 by another build or edited by hand: restore a backup or use the program that made it",
                row.name
            )));
        }
    }
    Ok(&known[applied.len()..])
}

/// What `migrate status` shows.
pub(super) fn status(
    known: &[Migration],
    applied: &[AppliedMigration],
) -> Result<Vec<MigrationStatus>, StoreError> {
    missing(known, applied)?;
    Ok(known
        .iter()
        .map(|migration| MigrationStatus {
            version: migration.version,
            name: migration.name.to_owned(),
            applied_at: applied
                .iter()
                .find(|row| row.version == i64::from(migration.version))
                .map(|row| Timestamp::from_micros(row.applied_at)),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(migrations: &[Migration]) -> Vec<AppliedMigration> {
        migrations
            .iter()
            .map(|migration| AppliedMigration {
                version: i64::from(migration.version),
                name: migration.name.to_owned(),
                checksum: migration.checksum(),
                applied_at: 1,
            })
            .collect()
    }

    #[test]
    fn both_back_ends_have_the_same_numbers_and_names_without_gaps() {
        let names = |list: &[Migration]| list.iter().map(|m| (m.version, m.name)).collect::<Vec<_>>();
        assert_eq!(names(SQLITE), names(POSTGRES));
        for (index, migration) in SQLITE.iter().enumerate() {
            assert_eq!(migration.version as usize, index + 1);
        }
        for folder in ["sqlite", "postgres"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("migrations")
                .join(folder);
            let mut files: Vec<String> = std::fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort();
            let listed: Vec<String> = SQLITE
                .iter()
                .map(|m| format!("{:04}_{}.sql", m.version, m.name))
                .collect();
            assert_eq!(files, listed, "every file of `migrations/{folder}` is listed");
        }
    }

    #[test]
    fn a_fresh_an_older_and_a_current_schema_miss_what_they_miss() {
        assert_eq!(missing(SQLITE, &[]).unwrap().len(), SQLITE.len());
        assert_eq!(missing(SQLITE, &applied(&SQLITE[..1])).unwrap(), &SQLITE[1..]);
        assert!(missing(SQLITE, &applied(SQLITE)).unwrap().is_empty());
    }

    #[test]
    fn a_newer_schema_and_an_edited_migration_are_named() {
        let mut newer = applied(SQLITE);
        newer.push(AppliedMigration {
            version: 99,
            name: "future".to_owned(),
            checksum: String::new(),
            applied_at: 1,
        });
        assert_eq!(
            missing(SQLITE, &newer),
            Err(StoreError::NewerSchema {
                found: 99,
                known: SQLITE.len() as u32
            })
        );
        let mut edited = applied(SQLITE);
        edited[0].checksum = "0".repeat(64);
        assert!(
            matches!(missing(SQLITE, &edited), Err(StoreError::Damaged(why)) if why.contains("migration 1"))
        );
    }
}
