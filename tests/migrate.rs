//! Migration from one archive version to the other: nothing is lost, whatever breaks in between.

/// What breaks in between.
mod faults;
/// Many images, through the command line.
mod many;
/// Runs of a migration, and what it leaves.
mod runs;
/// Whole images, through upstream's eyes too.
mod whole;
