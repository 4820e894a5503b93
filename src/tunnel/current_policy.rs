//! The policy that holds now. A reload may change it while a tunnel opens, so whoever opens one asks
//! here each time.

use std::net::IpAddr;
use std::sync::Arc;

use smartrest::Target;
use tokio::sync::watch;

use super::policy::{Denied, Policy};

/// The policy that holds now; all clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct CurrentPolicy(Arc<watch::Sender<Policy>>);

impl CurrentPolicy {
    /// Lets another hold from now on, for all who have a clone.
    pub(crate) fn set(&self, policy: Policy) {
        self.0.send_replace(policy);
    }

    pub(crate) fn get(&self) -> Policy {
        self.0.borrow().clone()
    }

    /// [`Policy::check`] of the one that holds.
    pub(crate) fn check(&self, target: &Target, address: IpAddr) -> Result<(), Denied> {
        self.0.borrow().check(target, address)
    }

    /// [`Policy::check_name`] of the one that holds.
    pub(crate) fn check_name(&self, target: &Target) -> Result<(), Denied> {
        self.0.borrow().check_name(target)
    }

    /// Waits until one holds that denies this, and returns why.
    pub(crate) async fn denies(&self, target: &Target, address: IpAddr) -> Denied {
        let mut policies = self.0.subscribe();
        loop {
            let checked = policies.borrow_and_update().check(target, address);
            if let Err(denied) = checked {
                return denied;
            }
            // The sender lives as long as this.
            let _ = policies.changed().await;
        }
    }
}

impl From<Policy> for CurrentPolicy {
    fn from(policy: Policy) -> Self {
        Self(Arc::new(watch::Sender::new(policy)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(deny: &[&str]) -> Policy {
        let parse = |pattern: &&str| pattern.parse().unwrap();
        Policy::new(vec![parse(&"private")], deny.iter().map(parse).collect())
    }

    #[test]
    fn holds_names_and_addresses_to_the_policy_that_was_set_last() {
        let target = Target::parse("plc.lan", "22").unwrap();
        let address = IpAddr::from([10, 0, 0, 5]);
        let current = CurrentPolicy::from(policy(&[]));
        let clone = current.clone();
        assert!(clone.check_name(&target).is_ok());
        assert!(clone.check(&target, address).is_ok());
        current.set(policy(&["plc.lan", "10.0.0.5"]));
        assert!(clone.check_name(&target).is_err());
        assert!(clone.check(&target, address).is_err());
    }
}
