//! Discounts: coupons that a subscription or a customer has redeemed. What they
//! take off each line of an invoice is computed in [`amounts`].

pub mod amounts;
pub mod customer;
pub mod model;
pub mod redeem;
pub mod routes;
