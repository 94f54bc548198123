//! Who may do what on the control plane.

use http::{HeaderMap, Method, header};

use super::error::ApiError;
use super::settings::{Bearer, ManagementTokens, Role};

/// What kind of path a request is for, as far as roles are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// The metrics paths.
    Metrics,
    /// `/manage/audit…`.
    Audit,
    /// Everything else under `/manage`.
    Management,
}

impl Area {
    /// The area of a path under `/manage`.
    pub fn of_management_path(path: &str) -> Self {
        match path.strip_prefix("/manage/audit") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Self::Audit,
            _ => Self::Management,
        }
    }
}

/// Whose token the request shows.
pub fn identify(tokens: &ManagementTokens, headers: &HeaderMap) -> Result<Bearer, ApiError> {
    let presented = bearer_token(headers).ok_or(ApiError::NoCredential { hint: None })?;
    tokens.find(presented).ok_or(ApiError::UnknownCredential)
}

/// Whether the bearer's role allows this.
pub fn authorize(bearer: &Bearer, method: &Method, area: Area) -> Result<(), ApiError> {
    let reads = method == Method::GET || method == Method::HEAD;
    let allowed = match bearer.role {
        Role::Admin => true,
        Role::Viewer => area == Area::Metrics || (area == Area::Management && reads),
        Role::Metrics => area == Area::Metrics,
    };
    if allowed {
        Ok(())
    } else {
        Err(ApiError::Forbidden {
            role: bearer.role.as_str(),
        })
    }
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let line = lines.next()?.to_str().ok()?;
    if lines.next().is_some() {
        return None;
    }
    let (scheme, token) = line.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Secret;

    fn identified(authorization: Option<&str>) -> Result<Bearer, ApiError> {
        let mut headers = HeaderMap::new();
        if let Some(text) = authorization {
            headers.insert(header::AUTHORIZATION, text.parse().unwrap());
        }
        identify(&ManagementTokens::main(&Secret::new("s3cret")), &headers)
    }

    #[test]
    fn the_scheme_word_is_case_insensitive_and_the_token_exact() {
        for good in ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret "] {
            assert!(identified(Some(good)).is_ok(), "{good}");
        }
        for missing in [
            None,
            Some("Basic s3cret"),
            Some("Bearer"),
            Some("Bearer  "),
            Some("s3cret"),
        ] {
            assert_eq!(
                identified(missing),
                Err(ApiError::NoCredential { hint: None }),
                "{missing:?}"
            );
        }
        for wrong in ["Bearer S3cret", "Bearer s3cret x", "Bearer s3cre"] {
            assert_eq!(
                identified(Some(wrong)),
                Err(ApiError::UnknownCredential),
                "{wrong}"
            );
        }
    }

    #[test]
    fn roles_allow_what_the_contract_says() {
        let table = [
            (Role::Admin, Method::POST, Area::Management, true),
            (Role::Admin, Method::GET, Area::Audit, true),
            (Role::Viewer, Method::GET, Area::Management, true),
            (Role::Viewer, Method::HEAD, Area::Management, true),
            (Role::Viewer, Method::POST, Area::Management, false),
            (Role::Viewer, Method::GET, Area::Audit, false),
            (Role::Viewer, Method::GET, Area::Metrics, true),
            (Role::Metrics, Method::GET, Area::Metrics, true),
            (Role::Metrics, Method::GET, Area::Management, false),
        ];
        for (role, method, area, allowed) in table {
            let bearer = Bearer {
                actor: "x".to_owned(),
                role,
            };
            assert_eq!(
                authorize(&bearer, &method, area).is_ok(),
                allowed,
                "{role:?} {method} {area:?}"
            );
        }
        assert_eq!(Area::of_management_path("/manage/auditors"), Area::Management);
        assert_eq!(Area::of_management_path("/manage/audit/"), Area::Audit);
    }
}
