//! The whole module against servers that misbehave, and against layout directories.

mod auth;
mod detours;
mod egress;
mod faults;
mod layout;
mod push;
mod ranges;
mod support;
