//! Where a command's configuration comes from: the flags, over the environment, over the file.

use std::path::{Path, PathBuf};

use super::{Failure, Global, output};
use crate::config::{EnvSource, FileChoice, LoadRequest, Loaded, ProcessEnvironment, chosen_file, load};

/// The environment with some variables set by flags.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    set: Vec<(String, String)>,
    /// Of the process's own variables only those that pass.
    passes: Option<fn(&str) -> bool>,
    /// Instead of `.env`.
    file: Option<PathBuf>,
}

impl Overlay {
    /// Only those of the process's variables that `passes` lets through.
    pub fn only(passes: fn(&str) -> bool) -> Self {
        Self {
            passes: Some(passes),
            ..Self::default()
        }
    }

    /// Fills up from this file, which must be there, instead of from `.env`.
    pub fn fill_up_from(&mut self, file: Option<PathBuf>) {
        self.file = file;
    }

    /// Sets `name` when `value` is there.
    pub fn set(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            self.set.push((name.to_owned(), value));
        }
    }
}

impl EnvSource for Overlay {
    fn variables(&self) -> Vec<(String, String)> {
        let mut variables = ProcessEnvironment.variables();
        if let Some(passes) = self.passes {
            variables.retain(|(name, _)| passes(name));
        }
        for (name, value) in &self.set {
            variables.retain(|(known, _)| known != name);
            variables.push((name.clone(), value.clone()));
        }
        variables
    }

    fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

/// A configuration source that can be read again for a reload.
#[derive(Debug, Clone)]
pub struct Source {
    /// Which file.
    pub file: FileChoice,
    /// Flags.
    pub overlay: Overlay,
    /// Whether a missing management token is a fault.
    pub needs_management_token: bool,
    /// The working directory.
    pub cwd: PathBuf,
}

impl Source {
    /// The source that the global flags name.
    pub fn of(global: &Global) -> Result<Self, Failure> {
        let mut overlay = Overlay::default();
        overlay.set("MANAGEMENT_TOKEN", global.management_token.clone());
        Ok(Self {
            file: global.config.clone().map_or(FileChoice::Search, FileChoice::Path),
            overlay,
            needs_management_token: false,
            cwd: std::env::current_dir()?,
        })
    }

    /// The file that is read, also when it cannot be used.
    pub fn chosen_file(&self) -> Option<PathBuf> {
        chosen_file(&self.request())
    }

    /// Reads and checks the configuration.
    pub fn load(&self) -> Result<Loaded, crate::config::ConfigErrors> {
        load(&self.request())
    }

    fn request(&self) -> LoadRequest<'_> {
        LoadRequest {
            file: self.file.clone(),
            env: &self.overlay,
            cwd: self.cwd.clone(),
            needs_management_token: self.needs_management_token,
        }
    }

    /// Reads and checks the configuration; faults are printed.
    pub fn load_or_report(&self, json: bool) -> Result<Loaded, Failure> {
        self.load().map_err(|errors| {
            output::error(&format!("the configuration cannot be used:\n{errors}"), json);
            Failure::Reported
        })
    }
}
