//! The pure rules of billing.
