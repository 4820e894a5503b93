//! The policy that holds now. A reload may change it while a tunnel opens, so whoever opens one asks
//! here each time.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use smartrest::Target;

use super::{Denied, Policy};

/// The policy that holds now; all clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct CurrentPolicy(Arc<RwLock<Policy>>);

impl CurrentPolicy {
    /// Lets another hold from now on, for all who have a clone.
    pub(crate) fn set(&self, policy: Policy) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    pub(crate) fn get(&self) -> Policy {
        self.ask(Policy::clone)
    }

    /// [`Policy::check`] of the one that holds.
    pub(crate) fn check(&self, target: &Target, address: IpAddr) -> Result<(), Denied> {
        self.ask(|policy| policy.check(target, address))
    }

    /// [`Policy::check_name`] of the one that holds.
    pub(crate) fn check_name(&self, target: &Target) -> Result<(), Denied> {
        self.ask(|policy| policy.check_name(target))
    }

    fn ask<T>(&self, question: impl FnOnce(&Policy) -> T) -> T {
        question(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl From<Policy> for CurrentPolicy {
    fn from(policy: Policy) -> Self {
        Self(Arc::new(RwLock::new(policy)))
    }
}
