//! The bodies of the fuzz targets, built for libFuzzer. They live in `tests/fuzz/bodies`, where `cargo test` runs them
//! without it.

#[path = "../../tests/fuzz/bodies/mod.rs"]
pub mod bodies;

/// Leaves panics to whoever catches them. libFuzzer's own hook ends the process at the first one, also when the
/// store is about to report it as damage; one that nobody catches still ends it.
pub fn let_panics_be_caught() {
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
}
