//! Who talks to the edge: an operator, and somebody with a token.

use std::ops::Deref;

use serde_json::Value;

use crate::http::{Answer, Client};

/// A project as its creation answered it.
#[derive(Clone, Debug)]
pub struct Project {
    /// Its id.
    pub id: String,
}

/// Somebody with a token; sends it as `Authorization: Bearer`.
#[derive(Clone, Debug)]
pub struct TokenUser {
    client: Client,
    /// The token's id.
    pub id: String,
    /// The project of the token.
    pub project_id: String,
    /// The secret.
    pub secret: String,
}

impl TokenUser {
    /// Somebody who holds this secret.
    pub fn new(proxy: &Client, id: &str, project_id: &str, secret: &str) -> Self {
        let client = proxy.with("Authorization", &format!("Bearer {secret}"));
        Self {
            client,
            id: id.into(),
            project_id: project_id.into(),
            secret: secret.into(),
        }
    }

    /// The same person at another instance.
    pub fn at(&self, proxy: &Client) -> Self {
        Self::new(proxy, &self.id, &self.project_id, &self.secret)
    }

    /// The same token in `x-api-key`, with the version field of the Anthropic dialect.
    pub fn as_anthropic(&self) -> Client {
        Client::new(self.client.address)
            .with("x-api-key", &self.secret)
            .with("anthropic-version", "2023-06-01")
    }
}

impl Deref for TokenUser {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// The operator, at the management listener.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
}

impl Admin {
    /// An operator with this bearer.
    pub fn new(management: &Client, token: &str) -> Self {
        Self {
            client: management.with("Authorization", &format!("Bearer {token}")),
        }
    }

    /// Creates a project.
    #[track_caller]
    pub fn create_project(&self, fields: Value) -> Project {
        let project = self.post("/manage/projects", fields).expect(201).json();
        Project {
            id: text(&project, "id"),
        }
    }

    /// Creates a token; the fields need a `project_id`. Without a life time it lives an hour.
    #[track_caller]
    pub fn create_token(&self, mut fields: Value) -> Value {
        if fields.get("duration_minutes").is_none() && fields.get("expires_at").is_none() {
            fields["duration_minutes"] = Value::from(60);
        }
        self.post("/manage/tokens", fields).expect(200).json()
    }

    /// Reads a token.
    #[track_caller]
    pub fn read_token(&self, id: &str) -> Value {
        self.get(&format!("/manage/tokens/{id}")).expect(200).json()
    }

    /// Revokes a token.
    #[track_caller]
    pub fn revoke(&self, id: &str) {
        self.delete(&format!("/manage/tokens/{id}")).expect(204);
    }

    /// Changes a token.
    #[track_caller]
    pub fn change_token(&self, id: &str, fields: Value) -> Answer {
        self.patch(&format!("/manage/tokens/{id}"), fields)
    }

    /// Changes a project.
    #[track_caller]
    pub fn change_project(&self, id: &str, fields: Value) -> Answer {
        self.patch(&format!("/manage/projects/{id}"), fields)
    }
}

impl Deref for Admin {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// A text field that must be there.
#[track_caller]
pub fn text(value: &Value, field: &str) -> String {
    match value[field].as_str() {
        Some(text) => text.to_owned(),
        None => panic!("no text `{field}` in {value}"),
    }
}
