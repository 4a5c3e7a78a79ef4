//! Principals, actions, and the one permission function.

use std::collections::BTreeMap;
use std::sync::Arc;

use ondol_types::{
    Classified, Clock, ErrorKind, ProjectName, RequestId, Timestamp, TokenId, WorkloadId,
};

/// What a principal may do with a resource, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Read projects, runs, releases, logs, data, models, images, events.
    Read,
    /// Push code, data, images; start, cancel and retry runs.
    Push,
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
        Action::Deploy,
        Action::Secrets,
        Action::Configure,
        Action::CreateProject,
        Action::DeleteProject,
        Action::Tokens,
        Action::Operate,
    ];

    /// The weakest role that may do it.
    pub const fn needs(self) -> Role {
        match self {
            Action::Read => Role::Viewer,
            Action::Push | Action::CreateProject => Role::Developer,
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
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Grant {
    /// The role on the installation and so on every project.
    pub everywhere: Option<Role>,
    /// Roles on single projects.
    pub projects: BTreeMap<ProjectName, Role>,
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
    #[error("`{principal}` may not {action:?} on {resource}: it needs the role {needs:?}")]
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
        Resource::Project(project) => {
            let here = principal.grant.projects.get(project).copied();
            (
                principal.grant.everywhere.max(here),
                format!("project `{project}`"),
            )
        }
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
        Some(role) if role >= action.needs() => Ok(()),
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
