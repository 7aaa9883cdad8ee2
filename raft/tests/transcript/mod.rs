//! The driver of the scenario transcripts.

mod host;
mod pure;
mod show;
mod world;

pub use world::World;
