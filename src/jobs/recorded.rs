//! `Recorded`: what a row holds in JSON, as it was written. Another version of the service may have
//! written it: it is shown as it is, whether or not this version understands it.

use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A `T` in JSON, and whatever else a later version wrote beside it.
pub struct Recorded<T> {
    json: Value,
    read_as: PhantomData<fn() -> T>,
}

impl<T> Recorded<T> {
    /// What lies in a row.
    pub fn from_json(json: Value) -> Self {
        Self { json, read_as: PhantomData }
    }

    /// All of it.
    pub fn json(&self) -> &Value {
        &self.json
    }
}

impl<T: DeserializeOwned> Recorded<T> {
    /// What this version understands of it.
    pub fn read(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.json)
    }

    /// The same, where it doesn't matter why it is not understood.
    pub fn known(&self) -> Option<T> {
        self.read().ok()
    }
}

impl<T: Serialize> Recorded<T> {
    /// What this version writes.
    pub fn of(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_value(value).map(Self::from_json)
    }
}

impl<T> Clone for Recorded<T> {
    fn clone(&self) -> Self {
        Self::from_json(self.json.clone())
    }
}

impl<T> fmt::Debug for Recorded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.json.fmt(f)
    }
}

impl<T> PartialEq for Recorded<T> {
    fn eq(&self, other: &Self) -> bool {
        self.json == other.json
    }
}

impl<T> Serialize for Recorded<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Recorded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from_json)
    }
}
