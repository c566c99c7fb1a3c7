//! Files that are added must reach the macros that embed whole directories, which can't see new ones by
//! themselves.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
    // Builds for development read these where they are when they are asked for.
    if std::env::var("PROFILE").as_deref() == Ok("release") {
        println!("cargo:rerun-if-changed=console/dist");
        println!("cargo:rerun-if-changed=site");
    }
}
