//! Load generation and side-by-side comparison. The generator pre-encodes its requests and stays below 10 µs of CPU per
//! call, so that it measures servers and not itself; its own CPU per call is printed beside every result.

pub mod blocking;
pub mod cluster;
pub mod compare;
pub mod device;
pub mod load;
pub mod process;
pub mod run;
pub mod servers;
pub mod wire;
