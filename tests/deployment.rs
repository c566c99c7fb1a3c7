//! What the service is deployed with: parsed by those who would run it, and its processes started as they
//! would start them.

mod image;
mod manifests;
mod packages;
mod rolling;
