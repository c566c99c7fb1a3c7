//! A migration that is added must reach `sqlx::migrate!`, which can't see new files by itself.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
