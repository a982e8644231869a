//! Passes the linker script to the linker when the hypervisor is built for the machine. On the host (tests) the
//! default link is right and nothing is passed.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=link.ld");
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let directory = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let arguments = [
        format!("-T{directory}/link.ld"),
        // The target's default is a position-independent executable; the image runs at one fixed address.
        "--no-pie".into(),
        "--no-dynamic-linker".into(),
        "-znorelro".into(),
        "-znostart-stop-gc".into(),
        "-zmax-page-size=0x1000".into(),
        "--build-id=none".into(),
    ];
    for argument in arguments {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
