//! Migration from one archive version to the other: nothing is lost, whatever breaks in between.

/// What breaks in between.
mod faults;
/// One service with everything that a migration needs.
mod harness;
/// Many images, through the command line.
mod many;
/// Whole images, through upstream's eyes too.
mod whole;
