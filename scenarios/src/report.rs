//! Renders a result.
