//! Aliases: other names of the account's keys.
//!
//! Place on the map: the part of [`Account`] that creates, moves, lists and deletes them.

use super::super::key::KeyOperation;
use super::super::parameters as check;
use super::super::{KmsException, KmsFailure};
use super::{Account, Page, page};
use std::time::Duration;

/// Aliases of one account, at the most; a limit of this model, not of AWS.
const ALIASES_MAX: usize = 10_000;

/// An alias and the key that it names now.
pub(super) struct Alias {
    /// `TargetKeyId`.
    pub(super) key: String,
    created_at: Duration,
    updated_at: Duration,
}

/// One entry of ListAliases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasEntry {
    /// `AliasName`.
    pub name: String,
    /// `AliasArn`.
    pub arn: String,
    /// `TargetKeyId`.
    pub key: String,
    /// `CreationDate`, in simulated time.
    pub created_at: Duration,
    /// `LastUpdatedDate`, in simulated time.
    pub updated_at: Duration,
}

impl Account {
    /// CreateAlias.
    ///
    /// # Errors
    /// `InvalidAliasNameException`, `AlreadyExistsException`, `LimitExceededException`, and what the key's state says.
    pub fn create_alias(&self, alias: &str, key_id: &str) -> Result<(), KmsFailure> {
        self.admit("CreateAlias")?;
        check::alias_name(alias)?;
        let key = self.alias_target(key_id)?;
        let mut aliases = self.aliases.borrow_mut();
        if aliases.contains_key(alias) {
            let text = format!("An alias with the name {} already exists", self.alias_arn(alias));
            return Err(KmsFailure::new(KmsException::AlreadyExists, text));
        }
        if aliases.len() >= ALIASES_MAX {
            let text = format!("The account has {ALIASES_MAX} aliases and may have no more.");
            return Err(KmsFailure::new(KmsException::LimitExceeded, text));
        }
        let now = self.doors.recorder.now();
        aliases.insert(alias.to_owned(), Alias { key, created_at: now, updated_at: now });
        Ok(())
    }

    /// UpdateAlias: from now on it names another key.
    ///
    /// # Errors
    /// `NotFoundException` when there is no such alias, and what the key's state says.
    pub fn update_alias(&self, alias: &str, key_id: &str) -> Result<(), KmsFailure> {
        self.admit("UpdateAlias")?;
        check::alias_name(alias)?;
        let key = self.alias_target(key_id)?;
        let mut aliases = self.aliases.borrow_mut();
        let known = aliases.get_mut(alias).ok_or_else(|| self.no_such_alias(alias))?;
        (known.key, known.updated_at) = (key, self.doors.recorder.now());
        Ok(())
    }

    /// DeleteAlias. The key stays.
    ///
    /// # Errors
    /// `NotFoundException` when there is no such alias.
    pub fn delete_alias(&self, alias: &str) -> Result<(), KmsFailure> {
        self.admit("DeleteAlias")?;
        check::alias_name(alias)?;
        self.aliases.borrow_mut().remove(alias).map(|_| ()).ok_or_else(|| self.no_such_alias(alias))
    }

    /// ListAliases, all or those of one key: at most `limit`, 1 to 100, from `marker` on, and the marker of the next.
    ///
    /// # Errors
    /// `NotFoundException` for a key that there is not, `InvalidMarkerException`, `ValidationException`.
    pub fn list_aliases(
        &self,
        key_id: Option<&str>,
        limit: usize,
        marker: Option<&str>,
    ) -> Result<Page<AliasEntry>, KmsFailure> {
        self.admit("ListAliases")?;
        let wanted = match key_id {
            Some(key_id) => {
                let id = self.key_id(key_id)?;
                self.resolve(&id)?;
                Some(id)
            }
            None => None,
        };
        let aliases = self.aliases.borrow();
        let matching =
            aliases.iter().filter(|(_, alias)| wanted.as_ref().is_none_or(|wanted| alias.key == *wanted));
        let entries = matching.map(|(name, alias)| AliasEntry {
            name: name.clone(),
            arn: self.alias_arn(name),
            key: alias.key.clone(),
            created_at: alias.created_at,
            updated_at: alias.updated_at,
        });
        page(entries, (limit, 100), marker)
    }

    /// The id of a key whose state lets it have an alias.
    fn alias_target(&self, key_id: &str) -> Result<String, KmsFailure> {
        let id = self.key_id(key_id)?;
        let (model, number) = self.resolve(&id)?;
        model.admit_key(number, KeyOperation::CreateAlias)?;
        Ok(id)
    }

    fn alias_arn(&self, alias: &str) -> String {
        format!("arn:aws:kms:{}:{}:{alias}", self.region, self.number)
    }

    fn no_such_alias(&self, alias: &str) -> KmsFailure {
        KmsFailure::new(KmsException::NotFound, format!("Alias {} is not found.", self.alias_arn(alias)))
    }
}
