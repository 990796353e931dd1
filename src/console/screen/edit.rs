//! Forms with fields to fill in.

use super::{Field, Form};

/// A form, and what is filled in. What was typed is shown again where it is refused.
pub struct Edit {
    pub form: Form,
    pub fields: Vec<Field>,
}
