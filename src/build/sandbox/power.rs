//! What root may do in a sandbox: what a builder needs, and nothing that would reach the machine through the
//! kernel or change the network's rules (capabilities(7)).

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
    set_capabilities,
};

use crate::build::SandboxError;

/// What neither a builder nor anything that it runs needs.
const DROPPED: [CapabilitySet; 19] = [
    CapabilitySet::NET_ADMIN,
    CapabilitySet::NET_RAW,
    CapabilitySet::NET_BROADCAST,
    CapabilitySet::SYS_MODULE,
    CapabilitySet::SYS_RAWIO,
    CapabilitySet::SYS_BOOT,
    CapabilitySet::SYS_TIME,
    CapabilitySet::SYS_TTY_CONFIG,
    CapabilitySet::SYS_PACCT,
    CapabilitySet::SYSLOG,
    CapabilitySet::WAKE_ALARM,
    CapabilitySet::BLOCK_SUSPEND,
    CapabilitySet::AUDIT_CONTROL,
    CapabilitySet::AUDIT_READ,
    CapabilitySet::MAC_ADMIN,
    CapabilitySet::MAC_OVERRIDE,
    CapabilitySet::PERFMON,
    CapabilitySet::BPF,
    CapabilitySet::LINUX_IMMUTABLE,
];

/// Gives them up, for this thread and all that it starts from here on.
pub(super) fn give_up() -> Result<(), SandboxError> {
    let failed = || SandboxError::of("give up capabilities");
    for capability in DROPPED {
        match remove_capability_from_bounding_set(capability) {
            // Older kernels don't know it.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(failed()(error)),
        }
    }
    let dropped = DROPPED.into_iter().fold(CapabilitySet::empty(), |all, one| all | one);
    let held = capabilities(None).map_err(failed())?;
    let kept = CapabilitySets {
        effective: held.effective - dropped,
        permitted: held.permitted - dropped,
        inheritable: held.inheritable - dropped,
    };
    set_capabilities(None, kept).map_err(failed())
}
