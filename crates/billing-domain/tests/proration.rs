//! The proration engine, checked against recorded vectors and random input.

mod proration {
    mod properties;
    mod vectors;
}
