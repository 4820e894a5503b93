//! Topics of the platform, with the prefix of a bridging broker.
