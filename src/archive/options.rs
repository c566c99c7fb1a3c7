//! How an image is indexed.

use std::sync::Arc;

use crate::archive::LayerCache;
use crate::archive::policy::LayerPolicy;
use crate::fetch::Budget;
use crate::gzip::DEFAULT_SPAN;
use crate::layer::Limits;
use crate::memory::MemoryAccount;
use crate::oci::ReferenceForm;

/// How an image is indexed.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// How the archive names the image.
    pub reference_form: ReferenceForm,
    /// What becomes of layers that beta9's workers can't read.
    pub layers: LayerPolicy,
    /// What a layer may cost.
    pub limits: Limits,
    /// Plain bytes from one place to begin reading at to the next; `None` records no such places.
    pub span: Option<u64>,
    /// How many layers are read at a time, by all who share it.
    pub budget: Arc<Budget>,
    /// Layer indexes that were made before; `None` reads every layer.
    pub cache: Option<Arc<LayerCache>>,
    /// Pays for the memory that layers and tree take.
    pub account: MemoryAccount,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self {
            reference_form: ReferenceForm::default(),
            layers: LayerPolicy::default(),
            limits: Limits::default(),
            span: Some(DEFAULT_SPAN),
            budget: Arc::default(),
            cache: None,
            account: MemoryAccount::default(),
        }
    }
}
