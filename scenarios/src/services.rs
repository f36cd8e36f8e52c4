//! Downstream AWS services, each a small model with its data-key cache.
