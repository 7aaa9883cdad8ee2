//! Network layer.

pub mod driver;
