//! Principals, actions, and the one permission function.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ondol_types::{
    Classified, Clock, ErrorKind, ProjectName, RequestId, Timestamp, TokenId, WorkloadId,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a principal may do with a resource, weakest first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads everything but secrets.
    Viewer,
    /// Also pushes code, data, images, and starts and cancels runs.
    Developer,
    /// Also deploys, rolls back, and sets secrets, volumes and settings.
    Maintainer,
    /// Also creates tokens and deletes the project; on the installation, everything.
    Admin,
}

impl Role {
    /// Every role, weakest first.
    pub const ALL: &[Role] = &[Role::Viewer, Role::Developer, Role::Maintainer, Role::Admin];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Viewer => "viewer",
            Role::Developer => "developer",
            Role::Maintainer => "maintainer",
            Role::Admin => "admin",
        })
    }
}

/// A text is not a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: expected viewer, developer, maintainer or admin")]
pub struct RoleError(String);

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Role::ALL
            .iter()
            .find(|role| role.to_string() == text)
            .copied()
            .ok_or_else(|| RoleError(text.chars().take(40).collect()))
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Read projects, runs, releases, logs, data, models, images, events.
    Read,
    /// Push code, data, images; start, cancel and retry runs.
    Push,
    /// Log experiments, runs, metrics and their files.
    Track,
    /// Roll out, roll back, scale, restart, promote a model.
    Deploy,
    /// List the names of secrets and set or remove them. Values are never read back.
    Secrets,
    /// Change a project's settings and volumes.
    Configure,
    /// Create a project.
    CreateProject,
    /// Delete a project.
    DeleteProject,
    /// Issue and revoke tokens.
    Tokens,
    /// Read the installation's own state: events without a project, background status.
    Operate,
}

impl Action {
    /// Every action.
    pub const ALL: &[Action] = &[
        Action::Read,
        Action::Push,
        Action::Track,
        Action::Deploy,
        Action::Secrets,
        Action::Configure,
        Action::CreateProject,
        Action::DeleteProject,
        Action::Tokens,
        Action::Operate,
    ];

    /// The words between "may not" and the resource.
    const fn verb(self) -> &'static str {
        match self {
            Action::Read => "read",
            Action::Push => "push to",
            Action::Track => "log runs of",
            Action::Deploy => "deploy to",
            Action::Secrets => "manage the secrets of",
            Action::Configure => "configure",
            Action::CreateProject => "create",
            Action::DeleteProject => "delete",
            Action::Tokens => "manage the tokens of",
            Action::Operate => "operate",
        }
    }

    /// The weakest role that may do it.
    pub const fn needs(self) -> Role {
        match self {
            Action::Read => Role::Viewer,
            Action::Push | Action::Track | Action::CreateProject => Role::Developer,
            Action::Deploy | Action::Secrets | Action::Configure => Role::Maintainer,
            Action::DeleteProject | Action::Tokens | Action::Operate => Role::Admin,
        }
    }
}

/// What it is asked of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// The installation as a whole.
    Installation,
    /// One project and everything in it.
    Project(ProjectName),
}

/// The kind of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrincipalKind {
    /// Nobody showed a token.
    Anonymous,
    /// Whoever holds this token.
    Token(TokenId),
    /// A workload with an identity of its own.
    Workload(WorkloadId),
    /// Ondol itself: reconcilers and follow-ups of events.
    System,
}

/// What somebody was granted.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grant {
    /// The role on the installation and so on every project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub everywhere: Option<Role>,
    /// Roles on single projects.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, Role>)]
    pub projects: BTreeMap<ProjectName, Role>,
}

impl Grant {
    /// A role on the installation and so on every project.
    pub fn everywhere(role: Role) -> Self {
        Self {
            everywhere: Some(role),
            projects: BTreeMap::new(),
        }
    }

    /// A role on one project alone.
    pub fn on(project: &ProjectName, role: Role) -> Self {
        Self {
            everywhere: None,
            projects: BTreeMap::from([(project.clone(), role)]),
        }
    }

    /// Whether it grants nothing at all.
    pub fn is_empty(&self) -> bool {
        self.everywhere.is_none() && self.projects.is_empty()
    }

    /// The role on one project.
    pub fn role_on(&self, project: &ProjectName) -> Option<Role> {
        self.everywhere.max(self.projects.get(project).copied())
    }

    /// What both grants allow, and nothing more.
    pub fn intersect(&self, other: &Grant) -> Grant {
        let everywhere = self.everywhere.min(other.everywhere);
        let projects = self
            .projects
            .keys()
            .chain(other.projects.keys())
            .filter_map(|project| {
                let role = self.role_on(project).min(other.role_on(project))?;
                (Some(role) > everywhere).then(|| (project.clone(), role))
            })
            .collect();
        Grant {
            everywhere,
            projects,
        }
    }
}

/// Somebody who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Which kind.
    pub kind: PrincipalKind,
    /// The name that events and audit show.
    pub name: String,
    /// What they were granted.
    pub grant: Grant,
    /// When the grant ends.
    pub expires_at: Option<Timestamp>,
}

impl Principal {
    /// Ondol itself.
    pub fn system() -> Self {
        Self {
            kind: PrincipalKind::System,
            name: "ondol".to_owned(),
            grant: Grant {
                everywhere: Some(Role::Admin),
                projects: BTreeMap::new(),
            },
            expires_at: None,
        }
    }

    /// Nobody.
    pub fn anonymous() -> Self {
        Self {
            kind: PrincipalKind::Anonymous,
            name: "anonymous".to_owned(),
            grant: Grant::default(),
            expires_at: None,
        }
    }

    /// Whether somebody showed who they are.
    pub fn is_authenticated(&self) -> bool {
        self.kind != PrincipalKind::Anonymous
    }
}

/// A refusal. Whether it reads as 401, 403 or 404 is the surface's table, per protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nobody showed a token.
    #[error("this needs a token")]
    Unauthenticated,
    /// The principal may not even know that the resource exists.
    #[error("{0} does not exist, or is not visible to you")]
    Invisible(String),
    /// The principal sees the resource but may not do this.
    #[error("`{principal}` may not {} {resource}: it needs the role {needs}", action.verb())]
    Forbidden {
        /// Who asked.
        principal: String,
        /// What for.
        action: Action,
        /// On what.
        resource: String,
        /// The weakest role that may.
        needs: Role,
    },
}

impl Classified for Denied {
    fn kind(&self) -> ErrorKind {
        match self {
            Denied::Unauthenticated => ErrorKind::Unauthenticated,
            Denied::Invisible(_) => ErrorKind::NotFound,
            Denied::Forbidden { .. } => ErrorKind::Forbidden,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Denied::Unauthenticated => "auth.required",
            Denied::Invisible(_) => "auth.invisible",
            Denied::Forbidden { .. } => "auth.forbidden",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Denied::Unauthenticated => {
                Some("log in with `ondol login`, or set ONDOL_TOKEN".to_owned())
            }
            Denied::Invisible(_) => None,
            Denied::Forbidden { .. } => {
                Some("ask an administrator for a token with that role".to_owned())
            }
        }
    }
}

/// The one permission function: may `principal` do `action` on `resource` at `now`?
///
/// # Errors
/// The [`Denied`] that says why not.
pub fn decide(
    principal: &Principal,
    action: Action,
    resource: &Resource,
    now: Timestamp,
) -> Result<(), Denied> {
    if !principal.is_authenticated() || principal.expires_at.is_some_and(|end| end <= now) {
        return Err(Denied::Unauthenticated);
    }
    let (role, shown) = match resource {
        Resource::Installation => (principal.grant.everywhere, "the installation".to_owned()),
        Resource::Project(project) => (
            principal.grant.role_on(project),
            format!("project `{project}`"),
        ),
    };
    // A workload logs what it does to the projects that it may read, and changes nothing else.
    let needs = match (&principal.kind, action) {
        (PrincipalKind::Workload(_), Action::Track) => Role::Viewer,
        _ => action.needs(),
    };
    match role {
        None => Err(match resource {
            Resource::Project(_) => Denied::Invisible(shown),
            Resource::Installation => Denied::Forbidden {
                principal: principal.name.clone(),
                action,
                resource: shown,
                needs: action.needs(),
            },
        }),
        Some(role) if role >= needs => Ok(()),
        Some(_) => Err(Denied::Forbidden {
            principal: principal.name.clone(),
            action,
            resource: shown,
            needs: action.needs(),
        }),
    }
}

/// Which projects a list may show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VisibleScope {
    /// All of them.
    Everything,
    /// These alone.
    Projects(Vec<ProjectName>),
}

impl VisibleScope {
    /// Whether a project is in the scope.
    pub fn contains(&self, project: &ProjectName) -> bool {
        match self {
            Self::Everything => true,
            Self::Projects(projects) => projects.contains(project),
        }
    }
}

/// The projects on which `principal` may do `action`: equal to asking [`decide`] of each.
pub fn visible_scope(principal: &Principal, action: Action, now: Timestamp) -> VisibleScope {
    if decide(principal, action, &Resource::Installation, now).is_ok() {
        return VisibleScope::Everything;
    }
    let may = |project: &&ProjectName| {
        decide(
            principal,
            action,
            &Resource::Project((*project).clone()),
            now,
        )
        .is_ok()
    };
    VisibleScope::Projects(
        principal
            .grant
            .projects
            .keys()
            .filter(may)
            .cloned()
            .collect(),
    )
}

/// What every operation carries: who asks, which request it is, and the clock.
#[derive(Clone)]
pub struct Ctx {
    /// Who asks.
    pub principal: Principal,
    /// Which request this is.
    pub request: RequestId,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

impl Ctx {
    /// A context for somebody's request.
    pub fn new(principal: Principal, clock: Arc<dyn Clock>) -> Self {
        Self {
            principal,
            request: RequestId::generate(&*clock),
            clock,
        }
    }

    /// A context for Ondol's own work.
    pub fn system(clock: Arc<dyn Clock>) -> Self {
        Self::new(Principal::system(), clock)
    }

    /// Asks [`decide`] about a project.
    ///
    /// # Errors
    /// The [`Denied`] that says why not.
    pub fn require(&self, action: Action, project: &ProjectName) -> Result<(), Denied> {
        decide(
            &self.principal,
            action,
            &Resource::Project(project.clone()),
            self.clock.now(),
        )
    }

    /// Asks [`decide`] about the installation.
    ///
    /// # Errors
    /// The [`Denied`] that says why not.
    pub fn require_installation(&self, action: Action) -> Result<(), Denied> {
        decide(
            &self.principal,
            action,
            &Resource::Installation,
            self.clock.now(),
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000);

    fn somebody(grant: Grant) -> Principal {
        Principal {
            kind: PrincipalKind::Token(TokenId::derived("t")),
            name: "somebody".to_owned(),
            grant,
            expires_at: None,
        }
    }

    fn project(index: usize) -> ProjectName {
        ["web", "iris", "billing", "docs"][index % 4]
            .parse()
            .unwrap()
    }

    fn roles() -> impl Strategy<Value = Option<Role>> {
        prop_oneof![
            Just(None),
            Just(Some(Role::Viewer)),
            Just(Some(Role::Developer)),
            Just(Some(Role::Maintainer)),
            Just(Some(Role::Admin)),
        ]
    }

    fn grants() -> impl Strategy<Value = Grant> {
        (roles(), proptest::collection::vec(roles(), 4)).prop_map(|(everywhere, each)| Grant {
            everywhere,
            projects: each
                .into_iter()
                .enumerate()
                .filter_map(|(index, role)| Some((project(index), role?)))
                .collect(),
        })
    }

    #[test]
    fn every_role_and_action_has_its_cell() {
        // Rows are actions in the order of `Action::ALL`, columns roles, weakest first.
        let table = [
            (Action::Read, [true, true, true, true]),
            (Action::Push, [false, true, true, true]),
            (Action::Track, [false, true, true, true]),
            (Action::Deploy, [false, false, true, true]),
            (Action::Secrets, [false, false, true, true]),
            (Action::Configure, [false, false, true, true]),
            (Action::CreateProject, [false, true, true, true]),
            (Action::DeleteProject, [false, false, false, true]),
            (Action::Tokens, [false, false, false, true]),
            (Action::Operate, [false, false, false, true]),
        ];
        assert_eq!(
            table.map(|(action, _)| action).as_slice(),
            Action::ALL,
            "the table names every action"
        );
        for (action, row) in table {
            for (role, expected) in Role::ALL.iter().zip(row) {
                let here = Resource::Project(project(0));
                let elsewhere = Resource::Project(project(1));
                let scoped = somebody(Grant::on(&project(0), *role));
                let wide = somebody(Grant::everywhere(*role));
                let may = |who: &Principal, what: &Resource| decide(who, action, what, NOW).is_ok();
                assert_eq!(may(&scoped, &here), expected, "{action:?} as {role}");
                assert_eq!(may(&wide, &here), expected, "{action:?} as {role}");
                assert_eq!(may(&wide, &Resource::Installation), expected);
                assert_eq!(
                    decide(&scoped, action, &elsewhere, NOW),
                    Err(Denied::Invisible("project `iris`".to_owned()))
                );
                assert!(!may(&scoped, &Resource::Installation));
                assert!(!may(&Principal::anonymous(), &here));
            }
        }
    }

    #[test]
    fn a_workload_that_reads_a_project_logs_to_it_and_no_more() {
        let mut who = somebody(Grant::on(&project(0), Role::Viewer));
        who.kind = PrincipalKind::Workload(WorkloadId::derived("w"));
        for action in Action::ALL {
            let allowed = matches!(action, Action::Read | Action::Track);
            let may = |at| decide(&who, *action, &Resource::Project(project(at)), NOW).is_ok();
            assert_eq!(may(0), allowed, "{action:?}");
            assert!(!may(1), "{action:?}");
            assert!(decide(&who, *action, &Resource::Installation, NOW).is_err());
        }
    }

    #[test]
    fn an_ended_grant_opens_nothing() {
        let mut who = somebody(Grant::everywhere(Role::Admin));
        who.expires_at = Some(NOW);
        assert_eq!(
            decide(&who, Action::Read, &Resource::Installation, NOW),
            Err(Denied::Unauthenticated)
        );
        assert_eq!(
            visible_scope(&who, Action::Read, NOW),
            VisibleScope::Projects(Vec::new())
        );
    }

    #[test]
    fn a_refusal_reads_as_a_sentence() {
        let who = somebody(Grant::on(&project(0), Role::Viewer));
        let denied = decide(&who, Action::Push, &Resource::Project(project(0)), NOW).unwrap_err();
        assert_eq!(
            denied.to_string(),
            "`somebody` may not push to project `web`: it needs the role developer"
        );
    }

    proptest! {
        #[test]
        fn visible_scope_equals_asking_decide_of_each(grant in grants(), action in 0..Action::ALL.len()) {
            let who = somebody(grant);
            let action = Action::ALL[action];
            let scope = visible_scope(&who, action, NOW);
            for index in 0..4 {
                let asked = decide(&who, action, &Resource::Project(project(index)), NOW).is_ok();
                prop_assert_eq!(scope.contains(&project(index)), asked);
            }
        }

        #[test]
        fn an_intersection_allows_what_both_allow(a in grants(), b in grants(), action in 0..Action::ALL.len()) {
            let action = Action::ALL[action];
            let both = somebody(a.intersect(&b));
            let (a, b) = (somebody(a), somebody(b));
            let resources = (0..4).map(|index| Resource::Project(project(index))).chain([Resource::Installation]);
            for resource in resources {
                let may = |who: &Principal| decide(who, action, &resource, NOW).is_ok();
                prop_assert_eq!(may(&both), may(&a) && may(&b));
            }
        }
    }
}
