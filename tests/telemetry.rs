//! What the service tells of itself: metrics and traces.

mod collector;
mod documents;
mod scrape;
mod traces;
