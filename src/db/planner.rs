//! Settings of PostgreSQL's planner, each for those statements that need it. A
//! test shows the plan that each of them avoids (`tests/it/database/planner.rs`).

/// For sessions with few statements that run often: planning them anew takes
/// longer than running them, and their plans do not depend on their values.
pub const PLAN_ONCE: &str = "SET plan_cache_mode = force_generic_plan";

/// For statements that find rows by their keys, and join them: a plan made while a
/// table was small must not read all of it later.
pub const JOIN_BY_KEY: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; \
                               SET enable_mergejoin = off";

/// For taking the head of a queue: the planner takes the queue's conditions for
/// selective and would read and sort the whole backlog for each batch, where the
/// index has its head. For one transaction.
pub const HEAD_OF_QUEUE: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off";

/// For every session: no statement of ours runs for as long as compiling it
/// takes, but a plan with a step that was switched off looks that expensive.
pub const NO_COMPILING: &str = "SET jit = off";
