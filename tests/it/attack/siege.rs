//! One attack after the other, and what the service is like afterwards.

use std::any::Any;
use std::io::Write as _;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;

use super::beside::{Beside, PREFIX, Seen};
use super::elsewhere;
use super::hands::Attack;
use super::locks::everything;
use super::sizes::Sizes;
use super::table::{Row, Table};
use super::target::{Target, binary, raise_descriptors};
use super::world::{Others, Tenant, World, hostile_client};
use crate::metering::gateway::{PLANS, Upstream};
use crate::resilience::caller::Caller;
use crate::subscriptions::world::Stripe;
use crate::support::TestDatabase;

/// How long memory has to come back, and the backlog to be worked off.
const REST: Duration = Duration::from_secs(60);
/// Connections that use everything before the first attack.
const WARM_UP: usize = 16;

struct Siege {
    sizes: Sizes,
    db: Arc<TestDatabase>,
    target: Option<Target>,
    world: Arc<World>,
    control: Tenant,
    caller: Caller,
    upstream: Upstream,
    /// Where something is bought.
    stripe: Option<Stripe>,
    plans: NamedTempFile,
    /// Where the attackers run.
    hostile: Option<Runtime>,
    /// What was counted before the first.
    warm_up: Seen,
    table: Table,
}

/// Attacks a service of its own in every way there is in `attacks`; panics when
/// a bar was missed, after the table.
pub async fn besiege(group: &str, attacks: &[&[Attack]]) {
    let attacks: Vec<Attack> = attacks.concat();
    let chosen: Vec<Attack> = attacks
        .into_iter()
        .filter(|attack| Sizes::wants(attack.name))
        .collect();
    if chosen.is_empty() {
        return;
    }
    let mut siege = Siege::begin(group).await;
    let sizes = siege.sizes;
    if sizes.quiet.is_zero() {
        siege.quiet(sizes.lasts).await;
    }
    for attack in &chosen {
        if !sizes.quiet.is_zero() {
            siege.quiet(sizes.quiet).await;
        }
        siege.attack(attack).await;
    }
    siege.end().await;
}

/// Attackers have a processor's rest only: they would have their own.
fn hostile_runtime() -> Runtime {
    let mut building = tokio::runtime::Builder::new_multi_thread();
    building
        .worker_threads(2)
        .enable_all()
        .on_thread_start(|| {
            let _ = rustix::process::nice(10);
        })
        .build()
        .unwrap()
}

impl Siege {
    async fn begin(group: &str) -> Self {
        raise_descriptors();
        let sizes = Sizes::read();
        let db = Arc::new(TestDatabase::new().await);
        let hostile = hostile_runtime();
        let upstream = hostile.spawn(Upstream::start()).await.unwrap();
        let plans = plans_before(&upstream.url);
        let stripe = match group {
            "product" => Some(Stripe::start().await),
            _ => None,
        };
        let at = stripe.as_ref().map(|stripe| stripe.sandbox.url());
        let target = Target::start(&db, plans.path(), &upstream.url, at.as_deref());
        let control = Tenant::make(&db, "control", 1, None).await;
        let beside = Some(control.organization);
        let attacker = Tenant::make(&db, "attacker", 24, beside).await;
        let caller = Caller::new(
            &target.serving.base,
            &db.url("billing_service"),
            db.options("postgres"),
        );
        let world = Arc::new(World {
            db: db.clone(),
            address: address_of(&target),
            client: hostile_client(),
            tenant: attacker,
            others: Arc::new(Others::make(&db).await),
            sizes,
            hits: AtomicUsize::new(0),
        });
        let build = binary().map_or("the build of the tests".into(), |path| {
            Path::new(&path).display().to_string()
        });
        let setting = format!("{build} in {}", target.cage.name());
        let mut siege = Self {
            sizes,
            db,
            target: Some(target),
            world,
            control,
            caller,
            upstream,
            stripe,
            plans,
            hostile: Some(hostile),
            warm_up: Seen::default(),
            table: Table {
                group: group.to_owned(),
                setting,
                start_mib: 0,
                quiet: Seen::default(),
                rows: Vec::new(),
            },
        };
        siege.warm_up().await;
        if sizes.elsewhere {
            siege.attack_elsewhere();
        }
        siege
    }

    fn attack_elsewhere(&mut self) {
        self.world = self.world_at(elsewhere::listen());
        self.table.setting += "; the attacks go to a server of nothing beside it";
    }

    fn world_at(&self, address: SocketAddr) -> Arc<World> {
        Arc::new(World {
            db: self.db.clone(),
            address,
            client: self.world.client.clone(),
            tenant: self.world.tenant.clone(),
            others: self.world.others.clone(),
            sizes: self.sizes,
            hits: AtomicUsize::new(self.world.hits.load(Ordering::Relaxed)),
        })
    }

    /// Both organizations have a plan, and everything was used once.
    async fn warm_up(&mut self) {
        for (number, tenant) in [&self.control, &self.world.tenant].into_iter().enumerate() {
            let (body, signature) = tenant.delivery(&format!("evt_warm_{number}"), "standard");
            let answer = self.world.deliver(body, &signature).send().await.unwrap();
            assert_eq!(answer.status(), 200);
        }
        self.caller.requests_work().await;
        self.caller
            .until_none("webhook_events WHERE NOT processed")
            .await;
        let (lasts, world) = (self.sizes.lasts, self.world.clone());
        let using = async move {
            let _ = tokio::time::timeout(lasts, everything(&world, WARM_UP)).await;
        };
        let hostile = self.hostile.as_ref().expect("it runs until the end");
        hostile.spawn(using).await.unwrap();
        let beside = self.beside(false);
        tokio::time::sleep(lasts).await;
        let seen = beside.stop().await;
        for series in [&seen.checks, &seen.reads, &seen.deliveries] {
            assert_eq!(series.failures, Vec::<String>::new());
        }
        self.warm_up = seen;
        self.table.start_mib = self.target().rss_mib().expect("it runs");
    }

    fn target(&self) -> &Target {
        self.target.as_ref().expect("it runs until the end")
    }

    fn beside(&self, sent_again: bool) -> Beside {
        let base = &self.target().serving.base;
        Beside::start(base, &self.control, self.sizes.pace, sent_again)
    }

    async fn quiet(&mut self, lasts: Duration) {
        let beside = self.beside(false);
        tokio::time::sleep(lasts).await;
        let seen = beside.stop().await;
        self.table.quiet.extend(&seen);
    }

    async fn attack(&mut self, attack: &Attack) {
        if let Some(before) = attack.before {
            // Where the attackers run: what it leaves running lasts as long as they do.
            let hostile = self.hostile.as_ref().expect("it runs until the end");
            hostile.spawn(before(self.world.clone())).await.unwrap();
        }
        self.target().forget_peak();
        self.world.hits.store(0, Ordering::Relaxed);
        let logged = self.target().serving.logged();
        let beside = self.beside(attack.sent_again);
        let (lasts, run, world) = (self.sizes.lasts, attack.run, self.world.clone());
        let hostile = self.hostile.as_ref().expect("it runs until the end");
        let attacking = hostile.spawn(async move {
            let hits = world.clone();
            tokio::select! {
                () = run(world) => Ok(()),
                () = lasting(&hits, lasts) => Err(()),
            }
        });
        let mut faults = Vec::new();
        match attacking.await {
            Ok(Err(())) => {}
            Ok(Ok(())) => faults.push("the attack ended early".to_owned()),
            Err(error) => faults.push(format!("the attack failed: {}", said(error.into_panic()))),
        }
        let seen = beside.stop().await;
        let peak_mib = self.target().peak_mib();
        let ended = self.target.as_mut().expect("it runs").serving.ended_with();
        let mut after_mib = None;
        if let Some(status) = ended {
            let log = self.target().serving.log();
            let last: Vec<&str> = log.lines().rev().take(3).collect();
            faults.push(format!("it ended: {status} {last:?}"));
            self.start_again();
        } else {
            if self.sizes.holds_all {
                faults.extend(self.parts(false).await);
                after_mib = self.memory_afterwards().await;
            } else {
                after_mib = self.target().rss_mib();
            }
            faults.extend(self.wrong_totals().await);
        }
        self.table.rows.push(Row {
            name: attack.name,
            promise: attack.promise,
            seen,
            hits: self.world.hits.load(Ordering::Relaxed),
            peak_mib,
            after_mib,
            log_kib: self.target().serving.logged().saturating_sub(logged) / 1024,
            faults,
        });
    }

    /// After it was killed: the other attacks are to be seen as well.
    fn start_again(&mut self) {
        self.target = None;
        let at = self.stripe.as_ref().map(|stripe| stripe.sandbox.url());
        let (plans, upstream) = (self.plans.path(), &self.upstream.url);
        let target = Target::start(&self.db, plans, upstream, at.as_deref());
        self.caller.base = target.serving.base.clone();
        self.world = self.world_at(address_of(&target));
        self.target = Some(target);
    }

    /// Whether each part works; with `all`, also those that wait for their time.
    async fn parts(&self, all: bool) -> Option<String> {
        let asking = async {
            self.caller.requests_work().await;
            self.caller
                .until_none(&format!(
                    "webhook_events WHERE NOT processed AND stripe_event_id LIKE '{PREFIX}%'"
                ))
                .await;
            if all {
                self.caller.every_part_works(true).await;
            }
        };
        let failed = AssertUnwindSafe(asking).catch_unwind().await.err()?;
        Some(format!("a part is out: {}", said(failed)))
    }

    /// The memory it comes back to, or has after a while.
    async fn memory_afterwards(&self) -> Option<u64> {
        let deadline = Instant::now() + REST / 4;
        loop {
            let mib = self.target().rss_mib()?;
            if mib <= self.table.start_mib + 20 || Instant::now() > deadline {
                return Some(mib);
            }
            // As whoever watches it does.
            let _ = self.caller.get("/healthz").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn wrong_totals(&self) -> Option<String> {
        // Levels are no sums.
        let wrong = "SELECT count(*) FROM usage_totals t
                      WHERE metric NOT IN ('storage_gb', 'user_seats')
                        AND ROW(total, events) <> (SELECT coalesce(sum(quantity), 0), count(*)
                              FROM usage_events e
                             WHERE e.organization_id = t.organization_id AND e.metric = t.metric
                               AND e.period_start = t.period_start)";
        let wrong = self.db.value(wrong).await;
        (wrong != "0").then(|| format!("{wrong} totals are not what their events add up to"))
    }

    /// What was acknowledged is there, once; nothing else is.
    async fn miscounted(&self) -> Vec<String> {
        let seen = || {
            let rows = self.table.rows.iter().map(|row| &row.seen);
            rows.chain([&self.table.quiet, &self.warm_up])
        };
        let bounds = |series: fn(&Seen) -> &super::beside::Series| {
            let acknowledged: usize = seen().map(|seen| series(seen).took.len()).sum();
            let sent: usize = seen().map(|seen| series(seen).sent()).sum();
            (acknowledged, sent)
        };
        let control = self.control.organization;
        let counted = [
            (
                "checks",
                bounds(|seen| &seen.checks),
                format!("usage_events WHERE organization_id = '{control}'"),
            ),
            (
                "deliveries",
                bounds(|seen| &seen.deliveries),
                format!("webhook_events WHERE stripe_event_id LIKE '{PREFIX}%'"),
            ),
        ];
        let mut wrong = Vec::new();
        for (what, (acknowledged, sent), rows) in counted {
            let there = usize::try_from(self.db.count(&rows).await).unwrap();
            if !(acknowledged..=sent).contains(&there) {
                wrong.push(format!(
                    "{there} {what} are there, {acknowledged} of {sent} were acknowledged"
                ));
            }
        }
        wrong
    }

    async fn end(mut self) {
        let sizes = self.sizes;
        let mut missed: Vec<String> = self.parts(sizes.holds_all).await.into_iter().collect();
        missed.extend(self.miscounted().await);
        let (text, of_rows) = self.table.print(&sizes);
        let _ = std::io::stderr().write_all(text.as_bytes());
        let file = format!("attack-{}.txt", self.table.group);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
        std::fs::write(path, &text).unwrap();
        missed.extend(of_rows);
        if sizes.holds_all
            && let Some(target) = self.target.take()
        {
            let ran = target.serving.terminated().await;
            if ran.status != 0 {
                missed.push(format!("it ended with {}", ran.status));
            }
        }
        assert!(
            missed.is_empty(),
            "bars were missed:\n{}",
            missed.join("\n")
        );
    }
}

impl Drop for Siege {
    fn drop(&mut self) {
        // A runtime must not wait within another.
        if let Some(hostile) = self.hostile.take() {
            hostile.shutdown_background();
        }
    }
}

/// As long as it is to last, from its first hit on.
async fn lasting(world: &World, lasts: Duration) {
    let began = Instant::now();
    while world.hits.load(Ordering::Relaxed) == 0 && began.elapsed() < REST {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(lasts).await;
}

fn address_of(target: &Target) -> std::net::SocketAddr {
    let base = target.serving.base.strip_prefix("http://");
    base.expect("a plain URL").parse().expect("an address")
}

/// The catalogue, and routes that are forwarded to `upstream`.
pub fn plans_before(upstream: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    write!(
        file,
        "{PLANS}\n[[enforcement.routes]]\npath = \"/tools/{{*rest}}\"\nmetric = \"api_calls\"\n\
         amount = \"1\"\nupstream = \"{upstream}/base\"\n"
    )
    .unwrap();
    file
}

/// What a panic said.
fn said(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => match other.downcast::<&str>() {
            Ok(text) => (*text).to_owned(),
            Err(_) => "a panic".to_owned(),
        },
    }
}
