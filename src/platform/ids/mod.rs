//! Where the ids of operations come from.

pub(crate) mod collection;
pub(crate) mod notifications;

use super::settings::OperationIds;
use collection::Collection;
use notifications::Notifications;

/// What is known of the source of ids that the configuration chooses.
#[derive(Debug)]
pub(crate) enum Ids {
    /// `devicecontrol/notifications`.
    Notifications(Notifications),
    /// A template collection of adit's own.
    Templates(Collection),
    /// No ids are asked for.
    None,
}

impl Ids {
    /// Begins with nothing heard.
    pub(crate) fn from(source: OperationIds) -> Self {
        match source {
            OperationIds::Notifications => Self::Notifications(Notifications::default()),
            OperationIds::Templates => Self::Templates(Collection::default()),
            OperationIds::None => Self::None,
        }
    }

    pub(crate) fn collection(&mut self) -> Option<&mut Collection> {
        match self {
            Self::Templates(collection) => Some(collection),
            Self::Notifications(_) | Self::None => None,
        }
    }
}
