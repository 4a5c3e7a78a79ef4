//! Making, listing, revoking and verifying tokens.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ondol_store::Store;
use ondol_store::events::NewEvent;
use ondol_types::{Clock, ProjectName, Secret, Timestamp, TokenId, WorkloadId, event};
use serde_json::json;

use super::derived::{self, Claims, Subject};
use super::{NewToken, StoredToken, Token, TokenText};
use crate::error::AuthError;
use crate::keys::KeyRing;
use crate::model::{
    Action, Ctx, Denied, Grant, Principal, PrincipalKind, VisibleScope, visible_scope,
};
use crate::store;

/// How long a row is believed without asking the database again. Revoking through this process
/// takes effect at once; another process on the same database notices within this time.
const BELIEVED: Duration = Duration::from_secs(1);
const CACHE_ENTRIES: usize = 1_024;
const USE_NOTED_EVERY: Duration = Duration::from_secs(600);
const MAX_TOKENS: i64 = 10_000;
const MAX_PROJECTS: usize = 100;
/// The longest life of a derived token.
pub(crate) const MAX_DERIVED_LIFE: Duration = Duration::from_secs(24 * 3600);

struct Believed {
    stored: Arc<StoredToken>,
    at: Instant,
}

struct Inner {
    store: Store,
    clock: Arc<dyn Clock>,
    keys: KeyRing,
    believed: Mutex<HashMap<TokenId, Believed>>,
}

/// Access tokens. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

impl Tokens {
    /// Opens the tokens of a database; `keys` is the folder of key files, where the key of
    /// derived tokens is made when it is missing.
    ///
    /// # Errors
    /// [`AuthError::BadFile`] or [`AuthError::Store`] when the key cannot be read or made.
    pub fn open(store: Store, keys: &Path) -> Result<Self, AuthError> {
        Ok(Self(Arc::new(Inner {
            clock: store.clock().clone(),
            store,
            keys: KeyRing::open(keys.join("token.key"))?,
            believed: Mutex::default(),
        })))
    }

    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    pub(super) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Makes a token and returns it with its text, which is shown this once.
    ///
    /// Nobody can grant more than they may do themselves, nor for longer.
    ///
    /// # Errors
    /// [`AuthError::Denied`], or [`AuthError::InvalidToken`] that says what is wrong.
    pub async fn create(
        &self,
        ctx: &Ctx,
        wanted: NewToken,
    ) -> Result<(Token, Secret<String>), AuthError> {
        if wanted.grant.everywhere.is_some() {
            ctx.require_installation(Action::Tokens)?;
        }
        for project in wanted.grant.projects.keys() {
            ctx.require(Action::Tokens, project)?;
        }
        check(&wanted, &ctx.principal, self.now())?;
        let text = TokenText::generate(&*self.0.clock);
        let token = self.insert(ctx, &text, &wanted, false).await?;
        Ok((token, text.reveal()))
    }

    pub(super) async fn insert(
        &self,
        ctx: &Ctx,
        text: &TokenText,
        wanted: &NewToken,
        first: bool,
    ) -> Result<Token, AuthError> {
        let (id, hash, by) = (text.id(), text.hash(), ctx.principal.name.as_str());
        self.store()
            .write(|tx| {
                Box::pin(async move {
                    let token = Token {
                        id,
                        name: wanted.name.clone(),
                        grant: wanted.grant.clone(),
                        created_at: tx.now(),
                        created_by: by.to_owned(),
                        expires_at: wanted.expires_at,
                        revoked_at: None,
                        last_used_at: None,
                    };
                    if store::count_tokens(tx).await? >= MAX_TOKENS {
                        return Err(AuthError::InvalidToken(format!(
                            "there are {MAX_TOKENS} already; revoke some first"
                        )));
                    }
                    store::insert_token(tx, &token, &hash, first).await?;
                    let content = json!({ "name": token.name, "grant": token.grant, "expiresAt": token.expires_at });
                    tx.append(NewEvent::new(event::TOKEN_CREATED, id).content(content).actor(by))
                        .await?;
                    Ok(token)
                })
            })
            .await
    }

    /// The tokens that the caller may manage, newest first, revoked ones included for as long as
    /// they are kept.
    ///
    /// # Errors
    /// [`AuthError::Denied`] when nobody is logged in, [`AuthError::Store`].
    pub async fn list(&self, ctx: &Ctx) -> Result<Vec<Token>, AuthError> {
        if !ctx.principal.is_authenticated() {
            return Err(Denied::Unauthenticated.into());
        }
        let scope = visible_scope(&ctx.principal, Action::Tokens, self.now());
        let mut tokens = self
            .store()
            .read(|tx| Box::pin(async move { Ok::<_, AuthError>(store::tokens(tx).await?) }))
            .await?;
        tokens.retain(|token| manages(&scope, &ctx.principal, token));
        Ok(tokens)
    }

    /// Ends a token. Its owner may always do that; repeating it changes nothing.
    ///
    /// # Errors
    /// [`AuthError::NoToken`] when there is none that the caller may manage.
    pub async fn revoke(&self, ctx: &Ctx, id: TokenId) -> Result<Token, AuthError> {
        if !ctx.principal.is_authenticated() {
            return Err(Denied::Unauthenticated.into());
        }
        let scope = &visible_scope(&ctx.principal, Action::Tokens, self.now());
        let principal = &ctx.principal;
        let token = self
            .store()
            .write(|tx| {
                Box::pin(async move {
                    let stored = store::token(tx, id).await?.ok_or(AuthError::NoToken(id))?;
                    let mut token = stored.token;
                    if !manages(scope, principal, &token) {
                        return Err(AuthError::NoToken(id));
                    }
                    if token.revoked_at.is_none() {
                        token.revoked_at = Some(tx.now());
                        store::revoke_token(tx, id).await?;
                        tx.append(
                            NewEvent::new(event::TOKEN_REVOKED, id)
                                .content(json!({ "name": token.name }))
                                .actor(&principal.name),
                        )
                        .await?;
                    }
                    Ok(token)
                })
            })
            .await?;
        self.forget(id);
        Ok(token)
    }

    /// Forgets what is believed of a token, so that the next use asks the database.
    pub(crate) fn forget(&self, id: TokenId) {
        self.cache().remove(&id);
    }

    /// Forgets everything that is believed.
    pub(crate) fn forget_all(&self) {
        self.cache().clear();
    }

    /// The principal behind a token's text, derived or not.
    ///
    /// # Errors
    /// [`AuthError::BadCredentials`], which never says whether the id exists, or
    /// [`AuthError::Expired`] to somebody who has the right secret.
    pub async fn verify(&self, text: &str) -> Result<Principal, AuthError> {
        if text.starts_with(derived::PREFIX) {
            return self.verify_derived(text).await;
        }
        let shown: TokenText = text.parse().map_err(|_| {
            AuthError::BadCredentials("it is not an Ondol token, or it was mistyped")
        })?;
        let stored = self
            .believed(shown.id())
            .await?
            .ok_or(AuthError::BadCredentials("no such token"))?;
        // The same words as for an unknown id; `blake3::Hash` compares in constant time.
        if stored.hash != shown.hash() {
            return Err(AuthError::BadCredentials("no such token"));
        }
        self.admit(&stored.token).await
    }

    async fn verify_derived(&self, text: &str) -> Result<Principal, AuthError> {
        let claims = derived::open(self.0.keys.current(), text)
            .ok_or(AuthError::BadCredentials("no such token"))?;
        if claims.expires_at <= self.now() {
            return Err(AuthError::Expired(claims.expires_at));
        }
        let mut principal = match claims.subject {
            Subject::Token(id) => {
                let stored = self
                    .believed(id)
                    .await?
                    .ok_or(AuthError::BadCredentials("no such token"))?;
                self.admit(&stored.token).await?
            }
            Subject::Workload(id, name) => Principal {
                kind: PrincipalKind::Workload(id),
                name,
                grant: self
                    .still_granted(claims.grant.clone().unwrap_or_default(), claims.issued_at)
                    .await?,
                expires_at: None,
            },
        };
        if let Some(grant) = &claims.grant {
            principal.grant = principal.grant.intersect(grant);
        }
        principal.expires_at = Some(
            principal
                .expires_at
                .map_or(claims.expires_at, |end| end.min(claims.expires_at)),
        );
        Ok(principal)
    }

    /// What is left of a grant that no row stands behind: projects that ended since it was made
    /// are not those that bear their names now.
    async fn still_granted(&self, grant: Grant, issued_at: Timestamp) -> Result<Grant, AuthError> {
        let mut grant = grant;
        let named: &Vec<ProjectName> = &grant.projects.keys().cloned().collect();
        if named.is_empty() {
            return Ok(grant);
        }
        let ended = self
            .store()
            .read::<_, AuthError, _>(|tx| {
                Box::pin(async move {
                    let mut ended = Vec::new();
                    for project in named {
                        if store::ended_at(tx, project)
                            .await?
                            .is_some_and(|ended| ended >= issued_at)
                        {
                            ended.push(project.clone());
                        }
                    }
                    Ok(ended)
                })
            })
            .await?;
        for project in &ended {
            grant.projects.remove(project);
        }
        Ok(grant)
    }

    async fn admit(&self, token: &Token) -> Result<Principal, AuthError> {
        let now = self.now();
        if token.revoked_at.is_some() {
            return Err(AuthError::BadCredentials("the token was revoked"));
        }
        if let Some(end) = token.expires_at.filter(|end| *end <= now) {
            return Err(AuthError::Expired(end));
        }
        if token
            .last_used_at
            .is_none_or(|last| now.since(last) >= USE_NOTED_EVERY)
        {
            self.note_use(token.id).await;
        }
        Ok(Principal {
            kind: PrincipalKind::Token(token.id),
            name: token.name.clone(),
            grant: token.grant.clone(),
            expires_at: token.expires_at,
        })
    }

    /// Notes that a token was used. Failing to is no reason to turn its owner away.
    async fn note_use(&self, id: TokenId) {
        let noted = self
            .store()
            .write(|tx| Box::pin(async move { Ok::<_, AuthError>(store::note_use(tx, id).await?) }))
            .await;
        match noted {
            Ok(()) => {
                let now = self.now();
                if let Some(entry) = self.cache().get_mut(&id) {
                    Arc::make_mut(&mut entry.stored).token.last_used_at = Some(now);
                }
            }
            Err(error) => {
                tracing::warn!(token.id = %id, error = %error, "cannot note the use of a token");
            }
        }
    }

    pub(super) async fn stored(&self, id: TokenId) -> Result<Option<StoredToken>, AuthError> {
        self.store()
            .read(|tx| Box::pin(async move { Ok(store::token(tx, id).await?) }))
            .await
    }

    async fn believed(&self, id: TokenId) -> Result<Option<Arc<StoredToken>>, AuthError> {
        if let Some(entry) = self.cache().get(&id)
            && entry.at.elapsed() < BELIEVED
        {
            return Ok(Some(entry.stored.clone()));
        }
        let at = Instant::now();
        let Some(stored) = self.stored(id).await?.map(Arc::new) else {
            self.forget(id);
            return Ok(None);
        };
        let mut cache = self.cache();
        if cache.len() >= CACHE_ENTRIES && !cache.contains_key(&id) {
            let oldest = cache.iter().min_by_key(|(_, entry)| entry.at);
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                cache.remove(&oldest);
            }
        }
        cache.insert(
            id,
            Believed {
                stored: stored.clone(),
                at,
            },
        );
        Ok(Some(stored))
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, HashMap<TokenId, Believed>> {
        self.0
            .believed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A short-lived token for somebody who is logged in, opening what they may open, or less
    /// when `narrowed` says so. It lives at most a day, and not beyond the token it comes from.
    ///
    /// # Errors
    /// [`Denied::Unauthenticated`] for nobody; Ondol itself gets none either.
    pub fn mint_scoped(
        &self,
        principal: &Principal,
        narrowed: Option<Grant>,
        life: Duration,
    ) -> Result<(Secret<String>, Timestamp), AuthError> {
        let (subject, grant) = match &principal.kind {
            // A principal that was narrowed before stays so: its own grant is the widest.
            PrincipalKind::Token(id) => {
                let narrowed = narrowed.map_or_else(
                    || principal.grant.clone(),
                    |grant| principal.grant.intersect(&grant),
                );
                (Subject::Token(*id), narrowed)
            }
            PrincipalKind::Workload(id) => {
                let narrowed = narrowed.map_or_else(
                    || principal.grant.clone(),
                    |grant| principal.grant.intersect(&grant),
                );
                (Subject::Workload(*id, principal.name.clone()), narrowed)
            }
            PrincipalKind::Anonymous | PrincipalKind::System => {
                return Err(Denied::Unauthenticated.into());
            }
        };
        let end = self.now().plus(life.min(MAX_DERIVED_LIFE));
        let expires_at = principal.expires_at.map_or(end, |limit| limit.min(end));
        let claims = Claims {
            subject,
            grant: Some(grant),
            issued_at: self.now(),
            expires_at,
        };
        Ok((
            Secret::new(derived::seal(self.0.keys.current(), &claims)),
            expires_at,
        ))
    }

    /// An identity for a workload: a derived token that opens `grant` for at most a day.
    pub fn mint_workload(
        &self,
        workload: WorkloadId,
        name: &str,
        grant: Grant,
        life: Duration,
    ) -> Secret<String> {
        let claims = Claims {
            subject: Subject::Workload(workload, name.to_owned()),
            grant: Some(grant),
            issued_at: self.now(),
            expires_at: self.now().plus(life.min(MAX_DERIVED_LIFE)),
        };
        Secret::new(derived::seal(self.0.keys.current(), &claims))
    }
}

fn manages(scope: &VisibleScope, principal: &Principal, token: &Token) -> bool {
    if principal.kind == PrincipalKind::Token(token.id) {
        return true;
    }
    match scope {
        VisibleScope::Everything => true,
        VisibleScope::Projects(_) => {
            token.grant.everywhere.is_none()
                && !token.grant.projects.is_empty()
                && token
                    .grant
                    .projects
                    .keys()
                    .all(|project| scope.contains(project))
        }
    }
}

fn check(wanted: &NewToken, maker: &Principal, now: Timestamp) -> Result<(), AuthError> {
    let invalid = |problem: &str| Err(AuthError::InvalidToken(problem.to_owned()));
    let name_length = wanted.name.chars().count();
    if name_length == 0 || name_length > 100 || wanted.name.chars().any(char::is_control) {
        return invalid("its name must have 1 to 100 printable characters");
    }
    if wanted.grant.is_empty() {
        return invalid("it would open nothing: give it a role, everywhere or on a project");
    }
    if wanted.grant.projects.len() > MAX_PROJECTS {
        return invalid("it names more than 100 projects");
    }
    if wanted.expires_at.is_some_and(|end| end <= now) {
        return invalid("its end lies in the past");
    }
    match (maker.expires_at, wanted.expires_at) {
        (Some(limit), Some(end)) if end > limit => {
            invalid("it would outlive the token that makes it")
        }
        (Some(_), None) => {
            invalid("the token that makes it expires, so it needs an end that is not later")
        }
        _ => Ok(()),
    }
}
