//! `ringd`: see the library for everything.

fn main() {
    std::process::exit(ringd::run::run());
}
