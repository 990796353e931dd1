//! Many requests, one statement: commits that requests share, and reads that
//! they share. What a batch answers is as fresh as if each request had asked by
//! itself; nothing is cached here.

pub mod lookup;
pub mod writer;
