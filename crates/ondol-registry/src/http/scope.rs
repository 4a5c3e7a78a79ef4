//! What a client asks a token for: `repository:web/api:pull,push`.
//!
//! A scope narrows, it never grants: the token opens what its owner may do *and* the scope names.
//! Permission is decided by project here, so a token for one repository opens its project's
//! others as well; it never opens another project.

use ondol_auth::{Grant, Role};

use crate::model::Repository;

/// Scopes that one token may have.
const MAX_SCOPES: usize = 100;

/// The grant that a list of scopes asks for. What is not understood asks for nothing.
pub(super) fn asked<'s>(scopes: impl IntoIterator<Item = &'s str>) -> Grant {
    let mut grant = Grant::default();
    let scopes = scopes.into_iter().flat_map(str::split_whitespace);
    for scope in scopes.take(MAX_SCOPES) {
        let Some((kind, rest)) = scope.split_once(':') else {
            continue;
        };
        // A name may have a port in front, so the actions are behind the last colon.
        let Some((name, actions)) = rest.rsplit_once(':') else {
            continue;
        };
        let role = actions.split(',').filter_map(role).max();
        match kind {
            "registry" if name == "catalog" && role.is_some() => {
                grant.everywhere = Some(Role::Viewer);
            }
            "repository" | "repository(plugin)" => {
                let Ok(repository) = name.parse::<Repository>() else {
                    continue;
                };
                if let (Some(project), Some(role)) = (repository.project(), role) {
                    let known = grant.projects.entry(project.clone()).or_insert(role);
                    *known = role.max(*known);
                }
            }
            _ => {}
        }
    }
    grant
}

fn role(action: &str) -> Option<Role> {
    match action {
        "pull" => Some(Role::Viewer),
        "push" => Some(Role::Developer),
        "delete" | "*" => Some(Role::Maintainer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn on(grant: &Grant, project: &str) -> Option<Role> {
        grant.role_on(&project.parse().unwrap())
    }

    #[test]
    fn scopes_ask_for_roles_on_projects() {
        let grant = asked(["repository:web/api:pull,push repository:other:pull"]);
        assert_eq!(on(&grant, "web"), Some(Role::Developer));
        assert_eq!(on(&grant, "other"), Some(Role::Viewer));
        assert_eq!(on(&grant, "third"), None);
        let grant = asked([
            "repository:web:push",
            "repository:web/b:pull",
            "repository:web/c:*",
        ]);
        assert_eq!(on(&grant, "web"), Some(Role::Maintainer));
        assert_eq!(asked(["registry:catalog:*"]).everywhere, Some(Role::Viewer));
        for nothing in [
            "",
            "repository",
            "repository:web",
            "repository:web:admin",
            "repository:../x:pull",
            "repository:docker.io/library/python:pull",
            "registry:other:*",
            "x:web:pull",
        ] {
            assert!(asked([nothing]).is_empty(), "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn any_text_asks_for_no_administration(text in ".{0,80}") {
            let grant = asked([text.as_str()]);
            prop_assert!(grant.everywhere.is_none_or(|role| role == Role::Viewer));
            prop_assert!(grant.projects.values().all(|role| *role <= Role::Maintainer));
        }
    }
}
