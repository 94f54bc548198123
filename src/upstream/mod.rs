//! Where a request goes: models, targets, health.
