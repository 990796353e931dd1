//! Every table, every role, by the catalog.

use super::attempts::{PROBERS, Probe, Rig};
use super::world::World;
use super::{probes, statements};
use crate::support::dice::Dice;

#[tokio::test]
async fn nothing_is_learnt_or_changed_by_statements_of_any_kind() {
    let world = World::new().await;
    let mut rig = Rig::new(&world).await;
    let mut failed = Vec::new();
    for table in &world.tables {
        for probe in statements::all_plain(table) {
            for prober in PROBERS {
                failed.extend(rig.attempt(prober, &probe).await.err());
            }
        }
    }
    rig.tally.clear();
    let mut dice = Dice::new(5);
    for n in 0..probes() {
        let probe = statements::any(&mut dice, &world.tables);
        let prober = PROBERS[n % PROBERS.len()];
        failed.extend(rig.attempt(prober, &probe).await.err());
    }
    assert_eq!(failed, [""; 0]);
    // A refusal shows little: most of what the worker may try must have run.
    let (made, ran) = rig.tally["billing_worker"];
    assert!(ran * 2 > made, "{:?}", rig.tally);
    let (made, ran) = rig.tally["billing_app"];
    assert!(ran * 8 > made, "{:?}", rig.tally);
}

/// Credentials, and what the service knows of itself, are of nobody.
#[tokio::test]
async fn a_request_sees_nothing_of_the_tables_that_are_nobodys() {
    let world = World::new().await;
    world
        .db
        .execute("INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'somebody@example.com')")
        .await;
    let mut rig = Rig::new(&world).await;
    let names = "SELECT string_agg(relname, ' ') FROM pg_class
                  WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
                    AND relname <> 'organizations'
                    AND (relname IN ('outbound_endpoints', 'trial_cards') OR NOT EXISTS (
                      SELECT FROM pg_attribute
                       WHERE attrelid = pg_class.oid AND attname = 'organization_id'))";
    let names = world.db.value(names).await;
    assert!(
        names.contains("users") && names.contains("service_keys"),
        "{names}"
    );
    for name in names
        .split(' ')
        .filter(|name| *name != "billing_schema_migrations")
    {
        for prober in PROBERS.into_iter().filter(|p| p.role != "billing_worker") {
            let all = Probe::to_be_refused(format!("SELECT t::text FROM {name} t"));
            let none = Probe::to_be_refused(format!("DELETE FROM {name}"));
            for probe in [all, none] {
                rig.attempt(prober, &probe).await.unwrap();
            }
        }
    }
}
