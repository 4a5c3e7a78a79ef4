//! The first token: a file and a row that agree, whatever instant the process died at.
//!
//! The file is written before the row. So: file and row, all is well; file alone, the row is made
//! from it; row alone, somebody took the file away, and only an operator makes a new one; neither,
//! this is a first start.

use std::io::ErrorKind;
use std::path::Path;

use ondol_store::StoreError;
use ondol_types::{Secret, TokenId};

use super::service::Tokens;
use super::{NewToken, TokenText};
use crate::error::AuthError;
use crate::keys::write_private;
use crate::model::{Ctx, Grant, Role};
use crate::store;

/// What [`Tokens::ensure_admin`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstToken {
    /// It was made now.
    Made(TokenId),
    /// File and row agree.
    Present(TokenId),
    /// The file was there and the row was not; it is now.
    RowRestored(TokenId),
    /// It was revoked or has ended, on purpose.
    Ended(TokenId),
    /// The file is gone. [`Tokens::reissue_admin`] makes a new one for a local operator.
    FileMissing,
}

impl Tokens {
    /// Makes sure that the first token exists: `path` holds its text (mode 0600), a row its hash.
    ///
    /// # Errors
    /// [`AuthError::BadFile`] when the file holds something else, [`AuthError::Store`] from the
    /// disk or the database.
    pub async fn ensure_admin(&self, path: &Path) -> Result<FirstToken, AuthError> {
        match read_token(path)? {
            Some(token) => match self.stored(token.id()).await? {
                Some(stored) if stored.hash != token.hash() => Err(bad_file(
                    path,
                    "it has the id of a token and another secret",
                )),
                Some(stored) if stored.token.is_live(self.now()) => {
                    Ok(FirstToken::Present(token.id()))
                }
                Some(_) => Ok(FirstToken::Ended(token.id())),
                None => {
                    self.insert_first(&token).await?;
                    Ok(FirstToken::RowRestored(token.id()))
                }
            },
            None if self.has_first().await? => Ok(FirstToken::FileMissing),
            None => {
                let token = self.write_first(path).await?;
                Ok(FirstToken::Made(token))
            }
        }
    }

    /// Makes a new administrator's token in `path`, for an operator who can write the data
    /// directory. Tokens that exist already stay as they are.
    ///
    /// # Errors
    /// [`AuthError::Store`] from the disk or the database.
    pub async fn reissue_admin(&self, path: &Path) -> Result<TokenId, AuthError> {
        self.write_first(path).await
    }

    async fn write_first(&self, path: &Path) -> Result<TokenId, AuthError> {
        let token = TokenText::generate(&**self.clock());
        let text = Secret::new(format!("{}\n", token.reveal().expose()));
        write_private(path, text.expose().as_bytes())?;
        self.insert_first(&token).await?;
        Ok(token.id())
    }

    async fn insert_first(&self, token: &TokenText) -> Result<(), AuthError> {
        let wanted = NewToken {
            name: "admin".to_owned(),
            grant: Grant::everywhere(Role::Admin),
            expires_at: None,
        };
        let ctx = Ctx::system(self.clock().clone());
        self.insert(&ctx, token, &wanted, true).await?;
        Ok(())
    }

    async fn has_first(&self) -> Result<bool, AuthError> {
        self.store()
            .read(|tx| Box::pin(async move { Ok(store::has_first_token(tx).await?) }))
            .await
    }
}

fn bad_file(path: &Path, problem: &str) -> AuthError {
    AuthError::BadFile {
        path: path.to_owned(),
        what: "token file",
        problem: problem.to_owned(),
    }
}

fn read_token(path: &Path) -> Result<Option<TokenText>, AuthError> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let text = Secret::new(text);
            let token = text.expose().trim().parse();
            token
                .map(Some)
                .map_err(|_| bad_file(path, "it does not hold an Ondol token"))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", path)(error).into()),
    }
}
