//! Lists in pages: `?limit=&cursor=`, answered with `{"data":[…],"nextCursor":…}`.

pub mod cursor;
pub mod page;
