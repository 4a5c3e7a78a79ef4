//! What became of what somebody asked to be released: of that image and commit, not of whatever
//! rollout took the place of theirs. It never says that something is live which did not serve.

use ondol_types::{CommitId, Digest};

use crate::model::{AcceptedImage, Kind, ModelRef, Release, Rollout, RolloutState};

/// What whoever asked for a rollout wants to see served.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The image.
    pub image: Digest,
    /// Of which commit.
    pub commit: Option<CommitId>,
    /// The model version, when that is what it was asked for: the code may be newer then.
    pub model: Option<ModelRef>,
}

impl Wanted {
    fn is_code(&self, image: &Digest, commit: Option<&CommitId>) -> bool {
        self.image == *image && (self.commit.is_none() || self.commit.as_ref() == commit)
    }

    fn is_model(&self, model: Option<&ModelRef>) -> Option<bool> {
        let wanted = self.model.as_ref()?;
        Some(
            model.is_some_and(|model| model.name == wanted.name && model.version == wanted.version),
        )
    }

    fn is_of(&self, release: &Release) -> bool {
        self.is_model(release.model.as_ref())
            .unwrap_or_else(|| self.is_code(&release.image, release.commit.as_ref()))
    }
}

/// What became of it so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A rollout that carries it is on its way.
    Open,
    /// That rollout keeps its share of the traffic until a person says how to go on.
    Paused,
    /// It is parked: the environment is held.
    Held,
    /// It became the current release.
    Live {
        /// The number of that release.
        release: i64,
    },
    /// Something newer was accepted before it was live; it will not be.
    Overtaken {
        /// In words.
        reason: String,
    },
    /// It failed, was aborted, or was gone back from before it was live.
    NotLive {
        /// In words.
        reason: String,
    },
}

/// Judges by the rollout that was asked for, the last of those that took its place, the release
/// which that one brings, and what is accepted now.
pub(crate) fn standing(
    wanted: &Wanted,
    asked: &Rollout,
    last: &Rollout,
    brings: Option<&Release>,
    accepted: (Option<&AcceptedImage>, Option<&ModelRef>),
) -> Standing {
    if last.state == RolloutState::Done
        && let Some(release) = brings.filter(|release| wanted.is_of(release))
    {
        return Standing::Live {
            release: release.number,
        };
    }
    let superseded = asked.id != last.id || asked.superseded_by.is_some();
    let (image, model) = accepted;
    let kept = wanted.is_model(model).unwrap_or_else(|| {
        image.is_none_or(|image| wanted.is_code(&image.image, image.commit.as_ref()))
    });
    if superseded && !kept {
        let reason = if asked.id == last.id {
            asked.message.clone()
        } else {
            format!(
                "superseded by rollout {}, and what is newer was accepted before: not live",
                last.number
            )
        };
        return Standing::Overtaken { reason };
    }
    match last.state {
        RolloutState::Held => return Standing::Held,
        RolloutState::Paused => return Standing::Paused,
        state if !state.is_final() => return Standing::Open,
        _ => {}
    }
    let told = last
        .failure
        .as_ref()
        .map_or(&last.message, |failure| &failure.message);
    let reason = match (superseded, last.kind, last.state) {
        (false, _, RolloutState::Done) => match brings {
            Some(release) => format!("not live: release {} serves", release.number),
            None => "not live".to_owned(),
        },
        (false, ..) => told.clone(),
        (true, Kind::Rollback, _) => match last.target {
            Some(target) => format!("superseded by rollback to release {target}: not live"),
            None => "superseded by a rollback: not live".to_owned(),
        },
        (true, _, RolloutState::Done) => format!(
            "superseded by rollout {} (release {}): not live",
            last.number,
            brings.map_or_else(|| "gone".to_owned(), |release| release.number.to_string())
        ),
        (true, ..) => format!("superseded by rollout {}: not live: {told}", last.number),
    };
    Standing::NotLive { reason }
}
