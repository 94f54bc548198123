//! What every store of projects does.

use super::{ALL, at, full_project};
use crate::domain::ProjectId;
use crate::domain::Secret;
use crate::domain::patch::{Change, ProjectPatch};
use crate::domain::project::ProviderKey;
use crate::store::{Page, Store, StoreError};

pub(crate) async fn a_project_reads_back_as_it_was_written(store: &Store) {
    let project = full_project("edge");
    store.projects.create(&project).await.unwrap();
    assert_eq!(store.projects.get(project.id).await.unwrap(), Some(project));
    assert_eq!(store.projects.get(ProjectId::random()).await.unwrap(), None);
}

pub(crate) async fn a_taken_name_is_a_conflict_on_create_and_patch(store: &Store) {
    let (one, two) = (full_project("one"), full_project("two"));
    store.projects.create(&one).await.unwrap();
    store.projects.create(&two).await.unwrap();
    assert_eq!(
        store.projects.create(&full_project("one")).await,
        Err(StoreError::Conflict("one".to_owned()))
    );
    let rename = ProjectPatch {
        name: Some("one".to_owned()),
        ..ProjectPatch::default()
    };
    assert_eq!(
        store.projects.patch(two.id, &rename, at(5)).await,
        Err(StoreError::Conflict("one".to_owned()))
    );
    let same = store
        .projects
        .patch(one.id, &rename, at(5))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(same.name, "one");
}

pub(crate) async fn a_patch_sets_and_removes_provider_keys(store: &Store) {
    let project = full_project("edge");
    store.projects.create(&project).await.unwrap();
    let key = ProviderKey {
        sealed: Secret::new("enc:v1:new"),
        obfuscated: "ne***".to_owned(),
    };
    let patch = ProjectPatch {
        is_active: Some(false),
        provider_keys: [
            ("openai".to_owned(), Change::Set(key.clone())),
            ("anthropic".to_owned(), Change::Remove),
        ]
        .into(),
        budget: Change::Remove,
        ..ProjectPatch::default()
    };
    let patched = store
        .projects
        .patch(project.id, &patch, at(7))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(patched.provider_keys, [("openai".to_owned(), key)].into());
    assert_eq!((patched.updated_at, patched.deactivated_at), (at(7), Some(at(7))));
    assert_eq!(store.projects.get(project.id).await.unwrap(), Some(patched));
    let absent = store.projects.patch(ProjectId::random(), &patch, at(7)).await;
    assert_eq!(absent.unwrap(), None);
}

pub(crate) async fn projects_are_listed_by_name(store: &Store) {
    for name in ["c", "a", "b"] {
        store.projects.create(&full_project(name)).await.unwrap();
    }
    let names = |page| async move {
        let list = store.projects.list(page).await.unwrap();
        let names: Vec<String> = list.rows.iter().map(|project| project.name.clone()).collect();
        assert!(list.rows.iter().all(|project| project.provider_keys.len() == 2));
        (names.join(""), list.total)
    };
    assert_eq!(names(ALL).await, ("abc".to_owned(), 3));
    assert_eq!(names(Page { number: 2, size: 2 }).await, ("c".to_owned(), 3));
}

pub(crate) async fn names_with_odd_characters_survive(store: &Store) {
    for name in ["o'brien; DROP TABLE projects", "日本語 🦀", "%_\\", "tab\there"] {
        let project = full_project(name);
        store.projects.create(&project).await.unwrap();
        assert_eq!(store.projects.get(project.id).await.unwrap().unwrap().name, name);
    }
    // PostgreSQL keeps no NUL in text; what it does with one must be no failure of the store.
    let project = full_project("nul\0nul");
    store.projects.create(&project).await.unwrap();
    assert!(store.projects.get(project.id).await.unwrap().is_some());
}
