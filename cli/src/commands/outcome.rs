//! Interim
