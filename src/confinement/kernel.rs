//! A confinement in the terms of Landlock, as much of it as the kernel knows.

use std::error::Error;
use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, NetPort, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
    make_bitflags,
};

use super::{Confined, Confinement};

/// What is taken away is what this version knows. Later ones can also forbid to connect to sockets
/// that stand in the file system, which modules of the resolver do, and to use UDP, which it does
/// itself.
const TAKEN: ABI = ABI::V7;

/// What a kernel lets pass that knows an earlier version than the one that stands beside it.
const GAPS: [(ABI, &str); 4] = [
    (ABI::V3, "cutting files short (from Linux 6.2)"),
    (ABI::V4, "listening at TCP ports (from Linux 6.7)"),
    (ABI::V5, "commands to devices (from Linux 6.10)"),
    (
        ABI::V6,
        "signals to other processes and abstract sockets (from Linux 6.12)",
    ),
];

const NOT_BUILT_IN: &str = "this kernel has no Landlock, or a sandbox around adit hides it; it \
                            comes with Linux 5.13 (CONFIG_SECURITY_LANDLOCK)";
const NOT_ENABLED: &str = "this kernel has Landlock, but it was not enabled at boot: add landlock \
                           to the parameter lsm=";

pub(super) fn restrict(confinement: &Confinement) -> Confined {
    let status = match enforce(confinement) {
        Ok(status) => status.landlock,
        Err(error) if is_full(&error) => return Confined::Inherited,
        Err(error) => return Confined::Failed(error.to_string()),
    };
    match status {
        LandlockStatus::NotImplemented => Confined::Unsupported(NOT_BUILT_IN),
        LandlockStatus::NotEnabled => Confined::Unsupported(NOT_ENABLED),
        LandlockStatus::Available {
            effective_abi,
            kernel_abi,
        } => Confined::Yes {
            abi: kernel_abi.unwrap_or(effective_abi as i32),
            what: confinement.to_string(),
            gaps: gaps(effective_abi),
            unseen: confinement.unseen.iter().cloned().collect(),
        },
    }
}

fn gaps(abi: ABI) -> Vec<&'static str> {
    let gaps = GAPS.iter().filter(|(since, _)| abi < *since);
    gaps.map(|&(_, what)| what).collect()
}

fn enforce(confinement: &Confinement) -> Result<RestrictionStatus, RulesetError> {
    let read = AccessFs::ReadFile.into();
    // The directory is opened too, to have a new name of a file on the disk.
    let write = make_bitflags!(AccessFs::{
        ReadFile | ReadDir | WriteFile | Truncate | MakeReg | RemoveFile
    });
    let reads = confinement.reads.iter().map(|path| (path, read));
    let list = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let lists = confinement.lists.iter().map(|path| (path, list));
    let writes = confinement.writes.iter().map(|path| (path, write));
    let socket = make_bitflags!(AccessFs::{MakeSock | RemoveFile});
    let sockets = confinement.sockets.iter().map(|path| (path, socket));
    let execute = make_bitflags!(AccessFs::{Execute | ReadFile});
    let executes = confinement.executes.iter().map(|path| (path, execute));
    let rules = reads
        .chain(lists)
        .chain(writes)
        .chain(sockets)
        .chain(executes)
        .filter_map(|(path, access)| {
            // What is not there now can only be opened once it is there, and by then it is too late.
            let file = PathFd::new(path).ok()?;
            Some(Ok::<_, RulesetError>(PathBeneath::new(file, access)))
        });
    let mut scope = Scope::from_all(TAKEN);
    if confinement.abstract_sockets {
        scope.remove(Scope::AbstractUnixSocket);
    }
    let ports = confinement.ports.iter();
    let ports = ports.map(|port| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::BindTcp)));
    Ruleset::default()
        .handle_access(AccessFs::from_all(TAKEN))?
        .handle_access(AccessNet::BindTcp)?
        .scope(scope)?
        .create()?
        .add_rules(rules)?
        .add_rules(ports)?
        .restrict_self()
}

/// Whether the kernel takes no further confinement: sixteen hold already.
fn is_full(error: &RulesetError) -> bool {
    let error: &(dyn Error + 'static) = error;
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    causes.any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::ArgumentListTooLong)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_an_older_kernel_lets_pass() {
        for (abi, first) in [
            (ABI::V1, Some("cutting files short (from Linux 6.2)")),
            (ABI::V2, Some("cutting files short (from Linux 6.2)")),
            (ABI::V3, Some("listening at TCP ports (from Linux 6.7)")),
            (ABI::V4, Some("commands to devices (from Linux 6.10)")),
            (
                ABI::V5,
                Some("signals to other processes and abstract sockets (from Linux 6.12)"),
            ),
            (ABI::V6, None),
            (ABI::V10, None),
        ] {
            assert_eq!(gaps(abi).first().copied(), first, "{abi:?}");
        }
    }
}
