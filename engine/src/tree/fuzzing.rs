//! What the fuzz targets call, and an ordinary test replays.
