//! `llm-proxy config diff` and `config rollback`: the file against what was in force.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::source::Source;
use super::{Failure, Global, output, reload};
use crate::config::history::{History, Kept};
use crate::config::{FileChoice, Loaded, diff, show};
use crate::domain::Secret;

/// `config rollback`.
#[derive(Debug, Args)]
pub struct RollbackArguments {
    /// List the configurations that were in force, and change nothing.
    #[arg(long)]
    list: bool,
    /// Put this one of the list back: 1 is the newest.
    #[arg(long, value_name = "NUMBER", conflicts_with = "list")]
    to: Option<usize>,
}

/// Says what the file would change of the configuration in force; exit 1 when it would change anything.
pub fn show_diff(global: &Global) -> Result<(), Failure> {
    let source = Source::of(global)?;
    let file = source.load_or_report(global.json)?;
    let Some(newest) = kept(&file)?.into_iter().next() else {
        return Err(Failure::Failed(format!(
            "no configuration was in force yet with the state folder `{}`",
            file.settings.server.state_dir.display()
        )));
    };
    let in_force = load_as(&source, &file, &newest.text)?;
    let diff = diff(&in_force, &file);
    let (before, after) = (show(&in_force), show(&file));
    let changes: Vec<Value> = diff
        .changed
        .iter()
        .map(|key| {
            json!({
                "key": key,
                "in_force": value_at(&before, key),
                "file": value_at(&after, key),
                "needs_process": diff.process_only.contains(key),
            })
        })
        .collect();
    if global.json {
        output::json(&json!({"in_force_since": newest.since, "changes": changes}))?;
    } else if changes.is_empty() {
        output::line("the file says what is in force")?;
    } else {
        for change in &changes {
            let note = if change["needs_process"] == true {
                "  (needs a new process)"
            } else {
                ""
            };
            let key = change["key"].as_str().unwrap_or_default();
            output::line(&format!(
                "{key}: {} -> {}{note}",
                change["in_force"], change["file"]
            ))?;
        }
    }
    if changes.is_empty() {
        Ok(())
    } else {
        Err(Failure::Reported)
    }
}

/// Puts the last configuration that was in force and is not what the file says into the file's place.
pub fn rollback(global: &Global, arguments: &RollbackArguments) -> Result<(), Failure> {
    let source = Source::of(global)?;
    let (path, state_dir) = places(&source)?;
    let all = History::in_state_dir(&state_dir)
        .all()
        .map_err(|error| Failure::Failed(format!("`{}`: {error}", state_dir.display())))?;
    if arguments.list {
        return list(global, &all);
    }
    let current = std::fs::read_to_string(&path)
        .map_err(|error| Failure::Failed(format!("`{}`: {error}", path.display())))?;
    let chosen = match arguments.to {
        Some(number) => number.checked_sub(1).and_then(|index| all.get(index)),
        None => all.iter().find(|kept| kept.text.expose() != current),
    };
    let Some(chosen) = chosen else {
        return Err(Failure::Failed(format!(
            "there is no such configuration to go back to; `config rollback --list` shows {}",
            all.len()
        )));
    };
    let checked = Source {
        file: FileChoice::Text {
            path: path.clone(),
            text: chosen.text.clone(),
        },
        ..source
    };
    checked.load_or_report(global.json)?;
    replace(&path, &chosen.text)?;
    let told = format!(
        "`{}` is again what took force at {}",
        path.display(),
        chosen.since
    );
    if global.json {
        output::json(&json!({"file": path, "since": chosen.since}))?;
    } else {
        output::line(&told)?;
    }
    // a server that runs sees the file by itself; asked, it says at once what it makes of it
    if reload::is_running(&state_dir) {
        return reload::run(global);
    }
    Ok(())
}

fn list(global: &Global, all: &[Kept]) -> Result<(), Failure> {
    if global.json {
        let times: Vec<Value> = all.iter().map(|kept| json!(kept.since)).collect();
        return output::json(&json!(times));
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .enumerate()
        .map(|(index, kept)| {
            vec![
                (index + 1).to_string(),
                kept.since.to_string(),
                kept.text.expose().lines().count().to_string(),
            ]
        })
        .collect();
    output::table(&["NUMBER", "IN FORCE SINCE", "LINES"], &rows)
}

fn kept(file: &Loaded) -> Result<Vec<Kept>, Failure> {
    let state_dir = &file.settings.server.state_dir;
    History::in_state_dir(state_dir)
        .all()
        .map_err(|error| Failure::Failed(format!("`{}`: {error}", state_dir.display())))
}

fn load_as(source: &Source, file: &Loaded, text: &Secret) -> Result<Loaded, Failure> {
    let source = Source {
        file: FileChoice::Text {
            path: file.path.clone().unwrap_or_default(),
            text: text.clone(),
        },
        ..source.clone()
    };
    source
        .load()
        .map_err(|errors| Failure::Failed(format!("what was in force cannot be read any more:\n{errors}")))
}

/// The file, and the state folder: what the file says of it, else where it is without a file.
fn places(source: &Source) -> Result<(PathBuf, PathBuf), Failure> {
    let path = source
        .chosen_file()
        .ok_or_else(|| Failure::Usage("name the file to put back with `--config`".to_owned()))?;
    let path = std::fs::canonicalize(source.cwd.join(&path))
        .map_err(|error| Failure::Failed(format!("`{}`: {error}", path.display())))?;
    // a file that cannot be used is what people roll back from
    let state_dir = match source.load() {
        Ok(loaded) => loaded.settings.server.state_dir,
        Err(_) => state_dir_in(&path).unwrap_or_else(|| PathBuf::from("data")),
    };
    Ok((path, source.cwd.join(state_dir)))
}

/// What a file that cannot be used says of the state folder, if it says so on a line of its own.
fn state_dir_in(path: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(path).ok()?;
    let values = |key: &'static str| {
        let lines = text.lines().filter_map(move |line| line.trim().strip_prefix(key));
        lines
            .map(|line| PathBuf::from(line.trim().trim_matches(['"', '\''])))
            .filter(|value| !value.as_os_str().is_empty() && !value.to_string_lossy().contains('$'))
    };
    let named = values("state_dir:").next();
    // else the folder of the database
    named.or_else(|| {
        let database =
            values("path:").find(|value| value.extension().is_some_and(|extension| extension == "db"))?;
        database.parent().map(Path::to_owned)
    })
}

/// Writes beside and renames over: whoever reads sees the old text or the new one.
fn replace(path: &Path, text: &Secret) -> Result<(), Failure> {
    let mode = std::fs::metadata(path).map_or(0o600, |metadata| metadata.permissions().mode() & 0o777);
    let unfinished = path.with_extension("yaml.unfinished");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&unfinished)?;
    file.write_all(text.expose().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    Ok(())
}

fn value_at<'a>(shown: &'a Value, key: &str) -> &'a Value {
    key.split('.').fold(shown, |value, part| &value[part])
}
