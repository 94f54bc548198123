//! Changes of tokens and projects as RFC 7396 merge patches that are already checked for form.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};

use serde_json::{Map, Value};

use super::project::ProviderKey;
use super::{Budget, BudgetPeriod, Glob, Limits, Project, Timestamp, Token};

/// A member of a merge patch: absent, `null`, or a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// Not mentioned: stays as it is.
    #[default]
    Keep,
    /// `null`: removed.
    Remove,
    /// Replaced (or merged, where `T` is itself a patch).
    Set(T),
}

impl<T: Clone> Change<T> {
    /// Applies to an optional field.
    pub fn apply_to(&self, field: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Remove => *field = None,
            Self::Set(value) => *field = Some(value.clone()),
        }
    }

    /// Applies to a field whose absence is its default value.
    pub fn apply_or_default(&self, field: &mut T)
    where
        T: Default,
    {
        match self {
            Self::Keep => {}
            Self::Remove => *field = T::default(),
            Self::Set(value) => *field = value.clone(),
        }
    }

    /// Whether the member was absent.
    pub fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }
}

/// A patch of limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitsPatch {
    /// Requests a minute.
    pub rpm: Change<NonZeroU32>,
    /// Model tokens a minute.
    pub tpm: Change<NonZeroU64>,
    /// Requests under way at once.
    pub concurrency: Change<NonZeroU32>,
}

impl LimitsPatch {
    fn apply_to(&self, limits: &mut Limits) {
        self.rpm.apply_to(&mut limits.rpm);
        self.tpm.apply_to(&mut limits.tpm);
        self.concurrency.apply_to(&mut limits.concurrency);
    }
}

fn apply_limits(change: &Change<LimitsPatch>, limits: &mut Limits) {
    match change {
        Change::Keep => {}
        Change::Remove => *limits = Limits::default(),
        Change::Set(patch) => patch.apply_to(limits),
    }
}

/// A patch of a budget.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BudgetPatch {
    /// The new cap in billionths of a US dollar.
    pub nano_usd: Option<i64>,
    /// The new period.
    pub period: Option<BudgetPeriod>,
}

fn apply_budget(change: &Change<BudgetPatch>, budget: &mut Option<Budget>) {
    match change {
        Change::Keep => {}
        Change::Remove => *budget = None,
        Change::Set(patch) => {
            let old = budget.unwrap_or(Budget {
                nano_usd: 0,
                period: BudgetPeriod::Total,
            });
            *budget = Some(Budget {
                nano_usd: patch.nano_usd.unwrap_or(old.nano_usd),
                period: patch.period.unwrap_or(old.period),
            });
        }
    }
}

/// Merges a JSON object into another as RFC 7396 says: `null` removes, objects merge, the rest replaces.
pub fn merge_object(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(inner) => {
                let slot = target
                    .entry(key.clone())
                    .or_insert_with(|| Value::Object(Map::new()));
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                if let Value::Object(object) = slot {
                    merge_object(object, inner);
                }
            }
            other => {
                target.insert(key.clone(), other.clone());
            }
        }
    }
}

fn apply_metadata(change: &Change<Map<String, Value>>, metadata: &mut Map<String, Value>) {
    match change {
        Change::Keep => {}
        Change::Remove => metadata.clear(),
        Change::Set(patch) => merge_object(metadata, patch),
    }
}

/// Why a well-formed patch cannot be applied to what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatchRefused {
    /// The expiry may be shortened, never extended.
    #[error("expiry cannot be extended")]
    ExpiryExtended,
}

/// A patch of a token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenPatch {
    /// Revoke or reactivate.
    pub is_active: Option<bool>,
    /// A name for people.
    pub name: Change<String>,
    /// An earlier expiry.
    pub expires_at: Option<Timestamp>,
    /// How many client requests it may make in all.
    pub max_requests: Change<NonZeroU64>,
    /// Models it may ask for.
    pub allowed_models: Change<Vec<Glob>>,
    /// Paths it may call.
    pub allowed_endpoints: Change<Vec<String>>,
    /// Addresses it may come from.
    pub allowed_ips: Change<Vec<ipnet::IpNet>>,
    /// Rates and concurrency.
    pub limits: Change<LimitsPatch>,
    /// Money.
    pub budget: Change<BudgetPatch>,
    /// The owner's notes.
    pub metadata: Change<Map<String, Value>>,
}

impl TokenPatch {
    /// Changes `token`, or refuses and leaves it as it was.
    pub fn apply(&self, token: &mut Token, now: Timestamp) -> Result<(), PatchRefused> {
        if let Some(expires_at) = self.expires_at {
            if expires_at > token.expires_at {
                return Err(PatchRefused::ExpiryExtended);
            }
            token.expires_at = expires_at;
        }
        if let Some(active) = self.is_active {
            set_active(active, &mut token.is_active, &mut token.deactivated_at, now);
        }
        self.name.apply_to(&mut token.name);
        self.max_requests.apply_to(&mut token.max_requests);
        self.allowed_models.apply_or_default(&mut token.allowed_models);
        self.allowed_endpoints
            .apply_or_default(&mut token.allowed_endpoints);
        self.allowed_ips.apply_or_default(&mut token.allowed_ips);
        apply_limits(&self.limits, &mut token.limits);
        apply_budget(&self.budget, &mut token.budget);
        apply_metadata(&self.metadata, &mut token.metadata);
        Ok(())
    }
}

/// A patch of a project.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProjectPatch {
    /// A new, unique name.
    pub name: Option<String>,
    /// Deactivate or reactivate.
    pub is_active: Option<bool>,
    /// Provider keys to set or remove, by provider name; sealed already.
    pub provider_keys: BTreeMap<String, Change<ProviderKey>>,
    /// Models its tokens may ask for.
    pub allowed_models: Change<Vec<Glob>>,
    /// Rates and concurrency.
    pub limits: Change<LimitsPatch>,
    /// Money.
    pub budget: Change<BudgetPatch>,
    /// The owner's notes.
    pub metadata: Change<Map<String, Value>>,
}

impl ProjectPatch {
    /// Changes `project`; always moves `updated_at`.
    pub fn apply(&self, project: &mut Project, now: Timestamp) {
        if let Some(name) = &self.name {
            project.name.clone_from(name);
        }
        if let Some(active) = self.is_active {
            set_active(active, &mut project.is_active, &mut project.deactivated_at, now);
        }
        for (provider, change) in &self.provider_keys {
            match change {
                Change::Keep => {}
                Change::Remove => {
                    project.provider_keys.remove(provider);
                }
                Change::Set(key) => {
                    project.provider_keys.insert(provider.clone(), key.clone());
                }
            }
        }
        self.allowed_models.apply_or_default(&mut project.allowed_models);
        apply_limits(&self.limits, &mut project.limits);
        apply_budget(&self.budget, &mut project.budget);
        apply_metadata(&self.metadata, &mut project.metadata);
        project.updated_at = now;
    }
}

fn set_active(active: bool, is_active: &mut bool, deactivated_at: &mut Option<Timestamp>, now: Timestamp) {
    if *is_active == active {
        return;
    }
    *is_active = active;
    *deactivated_at = (!active).then_some(now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_merges_as_rfc_7396_says() {
        let mut target: Map<String, Value> =
            serde_json::from_str(r#"{"a":"b","c":{"d":"e","f":"g"}}"#).unwrap();
        let patch = serde_json::from_str(r#"{"a":"z","c":{"f":null},"n":{"x":null,"y":1}}"#).unwrap();
        merge_object(&mut target, &patch);
        assert_eq!(
            Value::Object(target),
            serde_json::json!({"a":"z","c":{"d":"e"},"n":{"y":1}})
        );
    }

    #[test]
    fn limits_merge_and_null_removes() {
        let mut limits = Limits {
            rpm: NonZeroU32::new(5),
            tpm: None,
            concurrency: NonZeroU32::new(2),
        };
        let patch = LimitsPatch {
            rpm: Change::Remove,
            ..LimitsPatch::default()
        };
        apply_limits(&Change::Set(patch), &mut limits);
        assert_eq!(
            limits,
            Limits {
                rpm: None,
                tpm: None,
                concurrency: NonZeroU32::new(2)
            }
        );
        apply_limits(&Change::Remove, &mut limits);
        assert!(limits.is_unlimited());
    }
}
