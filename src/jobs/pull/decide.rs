//! Which version an archive gets. One pure function over what was asked for and what the image
//! turned out to be; it reads nothing and does nothing.

use std::fmt;

use crate::archive::{ClipVersion, Fallback, LayerPolicy};
use crate::clip::MAX_INDEX_BYTES;
use crate::clip::node::NodePath;
use crate::digest::Digest;

/// What a job is allowed to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The version wanted.
    pub wanted: ClipVersion,
    /// What to do with layers that workers can't read.
    pub layers: LayerPolicy,
    /// What to do when the image can't be served as v2.
    pub fallback: Fallback,
}

/// Something about an image that keeps beta9's workers from using a v2 archive of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A layer that they can't read: they take gzip alone.
    UnreadableLayer {
        /// Digest of the layer as it is stored.
        layer: Digest,
        /// What it is, such as `compressed with zstd`.
        kind: String,
    },
    /// A file of which the layer's tar leaves out the holes: its content is no range of the layer.
    SparseFile {
        /// Digest of the layer as it is stored.
        layer: Digest,
        /// Where it is.
        path: String,
    },
    /// They refuse v2 archives without layers (CONTRACT B.3).
    NoLayers,
    /// A top-level name that they take for a part of a v1 archive (CONTRACT A.12).
    MisreadName {
        /// Such as `/rootfs`.
        path: NodePath,
    },
    /// The archive is larger than they accept, though it has no seek table.
    TooLarge {
        /// Its size in bytes.
        size: u64,
    },
}

/// What becomes of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A v2 archive. Layers that workers can't read are in it all the same, if that was asked for.
    V2,
    /// A v2 archive of the image as it is re-published, with all layers in gzip.
    Republish,
    /// A v1 archive.
    V1 {
        /// Why it is not v2; `None`: because it was asked for.
        because: Option<Finding>,
    },
    /// None at all.
    Refuse(Finding),
}

impl Policy {
    /// Decides. More findings never make a v2 archive of what was none without them.
    pub fn decide(&self, findings: &[Finding]) -> Decision {
        if self.wanted == ClipVersion::V1 {
            return Decision::V1 { because: None };
        }
        let is_layer = |finding: &Finding| matches!(finding, Finding::UnreadableLayer { .. });
        let obstacle = findings
            .iter()
            .find(|finding| self.layers == LayerPolicy::Refuse || !is_layer(finding));
        match (obstacle, self.fallback) {
            (Some(obstacle), Fallback::V1) => Decision::V1 { because: Some(obstacle.clone()) },
            (Some(obstacle), Fallback::None) => Decision::Refuse(obstacle.clone()),
            (None, _) if findings.is_empty() || self.layers == LayerPolicy::AsIs => Decision::V2,
            (None, _) => Decision::Republish,
        }
    }
}

impl Finding {
    /// All codes there are: a job that ends with one of them has failed for being v2.
    pub const CODES: [&str; 5] =
        ["layer_unsupported", "layer_sparse", "no_layers", "misread_name", "archive_too_large"];

    /// Stable, in `snake_case`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnreadableLayer { .. } => "layer_unsupported",
            Self::SparseFile { .. } => "layer_sparse",
            Self::NoLayers => "no_layers",
            Self::MisreadName { .. } => "misread_name",
            Self::TooLarge { .. } => "archive_too_large",
        }
    }

    /// What a job could ask for instead.
    pub fn ways_out(&self) -> &'static str {
        match self {
            Self::UnreadableLayer { .. } => {
                "ask for `layers: gzip` to have it re-published, or for `fallback: v1`"
            }
            _ => "ask for `fallback: v1`",
        }
    }
}

/// One sentence without its full stop.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnreadableLayer { layer, kind } => {
                write!(f, "layer {layer} is {kind}, and beta9's workers read gzip layers only")
            }
            Self::SparseFile { layer, path } => {
                write!(f, "layer {layer} holds {path} as a sparse file, which v2 can't express")
            }
            Self::NoLayers => {
                f.write_str("the image has no layers, and beta9's workers refuse v2 without any")
            }
            Self::MisreadName { path } => {
                write!(f, "the image has {path} at its top, for which workers misread v2 as v1")
            }
            Self::TooLarge { size } => write!(
                f,
                "the v2 archive would be {size} bytes, and beta9's workers refuse more than \
                 {MAX_INDEX_BYTES}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layer() -> Finding {
        Finding::UnreadableLayer { layer: Digest::of(b"l"), kind: "not compressed".into() }
    }

    fn policy(layers: LayerPolicy, fallback: Fallback) -> Policy {
        Policy { wanted: ClipVersion::V2, layers, fallback }
    }

    #[test]
    fn each_policy_over_an_unreadable_layer() {
        let because = || Some(layer());
        for (layers, fallback, decision) in [
            (LayerPolicy::Refuse, Fallback::V1, Decision::V1 { because: because() }),
            (LayerPolicy::Refuse, Fallback::None, Decision::Refuse(layer())),
            (LayerPolicy::Gzip, Fallback::None, Decision::Republish),
            (LayerPolicy::AsIs, Fallback::V1, Decision::V2),
        ] {
            assert_eq!(policy(layers, fallback).decide(&[layer()]), decision);
        }
    }

    fn findings() -> impl Strategy<Value = Vec<Finding>> {
        let name = Finding::MisreadName { path: NodePath::new(b"/rootfs").unwrap() };
        let one = prop_oneof![
            Just(layer()),
            Just(Finding::NoLayers),
            Just(Finding::TooLarge { size: 1 << 30 }),
            Just(Finding::SparseFile { layer: Digest::of(b"s"), path: "/holes".into() }),
            Just(name),
        ];
        proptest::collection::vec(one, 0..4)
    }

    fn policies() -> impl Strategy<Value = Policy> {
        let wanted = prop_oneof![Just(ClipVersion::V1), Just(ClipVersion::V2)];
        let layers = prop_oneof![
            Just(LayerPolicy::Refuse),
            Just(LayerPolicy::AsIs),
            Just(LayerPolicy::Gzip)
        ];
        let fallback = prop_oneof![Just(Fallback::V1), Just(Fallback::None)];
        (wanted, layers, fallback).prop_map(|(wanted, layers, fallback)| Policy {
            wanted,
            layers,
            fallback,
        })
    }

    fn is_v2(decision: &Decision) -> bool {
        matches!(decision, Decision::V2 | Decision::Republish)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn what_holds_of_every_decision(policy in policies(), found in findings(), more in findings()) {
            let decision = policy.decide(&found);
            match &decision {
                Decision::V1 { because: None } => prop_assert_eq!(policy.wanted, ClipVersion::V1),
                Decision::V1 { because: Some(finding) } => {
                    prop_assert_eq!(policy.fallback, Fallback::V1);
                    prop_assert!(found.contains(finding));
                }
                Decision::Refuse(finding) => {
                    prop_assert_eq!(policy.fallback, Fallback::None);
                    prop_assert!(found.contains(finding));
                }
                Decision::Republish => {
                    prop_assert_eq!(policy.layers, LayerPolicy::Gzip);
                    prop_assert!(!found.is_empty());
                }
                Decision::V2 => {
                    prop_assert!(found.is_empty() || policy.layers == LayerPolicy::AsIs);
                    prop_assert!(found.iter().all(|finding| *finding == layer()));
                }
            }
            if policy.wanted == ClipVersion::V2 && found.is_empty() {
                prop_assert!(is_v2(&decision));
            }
            let all = [found, more].concat();
            prop_assert!(is_v2(&decision) || !is_v2(&policy.decide(&all)));
            prop_assert!(all.iter().all(|finding| Finding::CODES.contains(&finding.code())));
        }
    }
}
