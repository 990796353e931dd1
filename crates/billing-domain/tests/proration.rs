//! The proration engine against the recorded vectors, and for all inputs.

mod proration {
    mod properties;
    mod vectors;
}
