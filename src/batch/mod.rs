//! Many requests, one statement. What one batch answers is as fresh as if each
//! had asked by itself; nothing is cached here.

pub mod lookup;
