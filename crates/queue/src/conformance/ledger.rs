//! What [`Ledger`] promises: budgets hold, nothing is charged twice, and the books add up.

use std::time::Duration;

use futures::future::try_join_all;
use verbatim_core::ids::{Fence, JobId, TenantId};
use verbatim_core::money::Money;
use verbatim_core::ports::Ledger;
use verbatim_core::ports::ledger::{Budgets, Charge, Day, DayTotal, EntryId, Reservation, Reserved};
use verbatim_core::time::Timestamp;

use super::virtual_world::tenant;
use super::{Harness, MOMENT, Verdict, Violation, World, ensure, ensure_eq};

const TTL: Duration = Duration::from_secs(600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn money(amount: f64) -> Verdict<Money> {
    Money::parse(amount).ok_or_else(|| Violation::new(format!("the check is wrong: {amount} is no amount")))
}

/// Books in which one piece of work after the other is written.
struct Books<'a, H: Harness>(World<'a, H>);

impl<'a, H: Harness> Books<'a, H> {
    async fn open(harness: &'a H) -> Verdict<Self> {
        Ok(Self(World::open(harness).await?))
    }

    fn ledger(&self) -> &H::Store {
        &self.0.store
    }

    /// Work that was never seen.
    fn entry(&self, provider: &str) -> EntryId {
        let job_id = JobId::generate(&*self.0.ids);
        EntryId { job_id, fence: Fence::new(1), provider: provider.to_owned() }
    }

    /// Puts money aside under a budget of the provider.
    async fn reserve(&self, entry: &EntryId, cost: f64, budget: f64) -> Verdict<Reserved> {
        let budgets = Budgets { provider: Some(money(budget)?), tenant: None };
        self.reserve_for("ann", entry, cost, budgets).await
    }

    async fn reserve_for(
        &self,
        name: &str,
        entry: &EntryId,
        cost: f64,
        budgets: Budgets,
    ) -> Verdict<Reserved> {
        let reservation = Reservation {
            entry: entry.clone(),
            tenant: tenant(name)?,
            cost: money(cost)?,
            budgets,
            ttl: TTL,
        };
        Ok(self.ledger().reserve(reservation).await?)
    }

    /// Charges a second of audio for each unit of money.
    async fn charge(&self, entry: &EntryId, cost: f64) -> Verdict {
        self.charge_to("ann", entry, 1000 * cost as u64, Some(cost)).await
    }

    async fn charge_to(&self, name: &str, entry: &EntryId, billed_ms: u64, cost: Option<f64>) -> Verdict {
        let cost = cost.map(money).transpose()?;
        let charge = Charge { entry: entry.clone(), tenant: tenant(name)?, billed_ms, cost };
        Ok(self.ledger().charge(charge).await?)
    }

    /// What is in the books of the last `days` days and today's.
    async fn totals(&self, days: u32) -> Verdict<Vec<DayTotal>> {
        let today = Day::of(self.0.now());
        Ok(self.ledger().totals(today.earlier(days), today).await?)
    }

    /// What was spent and what it was spent for.
    async fn sums(&self) -> Verdict<(u64, f64)> {
        let totals = self.totals(1000).await?;
        let cost: Money = totals.iter().map(|total| total.cost).sum();
        Ok((totals.iter().map(|total| total.jobs).sum(), cost.as_f64()))
    }

    /// Whether exactly `left` of a provider's budget of 10 can still be put aside.
    async fn expect_left(&self, provider: &str, left: f64) -> Verdict {
        let entry = self.entry(provider);
        let beyond = self.reserve(&entry, left + 0.000_001, 10.0).await?;
        ensure_eq!(beyond, Reserved::OverProviderBudget, "a millionth more than {left}");
        ensure_eq!(self.reserve(&entry, left, 10.0).await?, Reserved::Granted, "all of {left}");
        Ok(self.ledger().cancel(&entry).await?)
    }

    async fn close(&self) -> Verdict {
        self.0.audit().await
    }
}

/// However many ask at once, of however many tenants and providers.
pub async fn budgets_hold_under_concurrent_reservations<H: Harness>(harness: &H) -> Verdict {
    let books = Books::open(harness).await?;
    let of_provider = Budgets { provider: Some(money(10.0)?), tenant: Some(money(100.0)?) };
    let of_tenant = Budgets { provider: Some(money(100.0)?), tenant: Some(money(5.0)?) };
    let ask = |number: usize| {
        let books = &books;
        async move {
            let entry = books.entry("azure");
            let first = books.reserve_for(["ann", "bob"][number % 2], &entry, 0.3, of_provider).await?;
            let entry = books.entry(["one", "two", "three"][number % 3]);
            let second = books.reserve_for("cat", &entry, 0.3, of_tenant).await?;
            Ok::<_, Violation>((first, second))
        }
    };
    let answers = try_join_all((0..50).map(ask)).await?;
    let count = |wanted: (Option<Reserved>, Option<Reserved>)| {
        answers
            .iter()
            .filter(|(first, second)| {
                wanted.0.is_none_or(|w| w == *first) && wanted.1.is_none_or(|w| w == *second)
            })
            .count()
    };
    ensure_eq!(count((Some(Reserved::Granted), None)), 33, "reservations within 10.0 of a provider");
    ensure_eq!(count((Some(Reserved::OverProviderBudget), None)), 17, "those beyond");
    ensure_eq!(count((None, Some(Reserved::Granted))), 16, "reservations within 5.0 of a tenant");
    ensure_eq!(count((None, Some(Reserved::OverTenantBudget))), 34, "those beyond");
    books.expect_left("azure", 0.1).await?;
    ensure_eq!(books.sums().await?, (0, 0.0), "what is put aside is not spent");
    books.close().await
}

/// A job begins only when all of it fits, and without a budget always.
pub async fn a_whole_job_must_fit<H: Harness>(harness: &H) -> Verdict {
    let books = Books::open(harness).await?;
    ensure_eq!(
        books.reserve(&books.entry("azure"), 10.000_001, 10.0).await?,
        Reserved::OverProviderBudget,
        "one"
    );
    ensure_eq!(books.reserve(&books.entry("azure"), 10.0, 10.0).await?, Reserved::Granted, "all of it");
    ensure_eq!(
        books.reserve(&books.entry("azure"), 0.000_001, 10.0).await?,
        Reserved::OverProviderBudget,
        "more"
    );
    ensure_eq!(
        books.reserve(&books.entry("azure"), 0.0, 10.0).await?,
        Reserved::Granted,
        "what costs nothing"
    );
    ensure_eq!(
        books.reserve(&books.entry("other"), 10.0, 10.0).await?,
        Reserved::Granted,
        "another provider"
    );
    let none = books.reserve_for("ann", &books.entry("azure"), 1e6, Budgets::default()).await?;
    ensure_eq!(none, Reserved::Granted, "without a budget");
    // The provider's comes first where both are used up.
    let both = Budgets { provider: Some(Money::ZERO), tenant: Some(Money::ZERO) };
    let refused = books.reserve_for("ann", &books.entry("azure"), 1.0, both).await?;
    ensure_eq!(refused, Reserved::OverProviderBudget, "over both");
    books.close().await
}

/// What was done counts once, in place of what was put aside for it.
pub async fn a_charge_counts_once_and_ends_its_reservation<H: Harness>(harness: &H) -> Verdict {
    let books = Books::open(harness).await?;
    let entry = books.entry("azure");
    ensure_eq!(books.reserve(&entry, 5.0, 10.0).await?, Reserved::Granted, "a reservation");
    books.expect_left("azure", 5.0).await?;
    for _ in 0..3 {
        books.charge(&entry, 3.0).await?;
        books.0.clock.advance(Duration::from_secs(1));
    }
    // Also with another figure, or put aside once more: the answer to the first was lost.
    books.charge(&entry, 9.0).await?;
    ensure_eq!(books.reserve(&entry, 5.0, 10.0).await?, Reserved::Granted, "a reservation after the charge");
    books.ledger().cancel(&entry).await?;
    ensure_eq!(books.sums().await?, (1, 3.0), "charges");
    books.expect_left("azure", 7.0).await?;
    let again = EntryId { fence: Fence::new(2), ..entry };
    books.charge(&again, 1.0).await?;
    ensure_eq!(books.sums().await?, (2, 4.0), "charges with that of another lease");
    books.close().await
}

/// The provider has done it, whatever the budget says; then nothing more begins.
pub async fn a_charge_counts_beyond_the_budget<H: Harness>(harness: &H) -> Verdict {
    let books = Books::open(harness).await?;
    let entry = books.entry("azure");
    ensure_eq!(books.reserve(&entry, 5.0, 10.0).await?, Reserved::Granted, "a reservation");
    books.charge(&entry, 12.0).await?;
    books.charge(&books.entry("azure"), 4.0).await?;
    ensure_eq!(books.sums().await?, (2, 16.0), "charges");
    ensure_eq!(
        books.reserve(&books.entry("azure"), 0.1, 10.0).await?,
        Reserved::OverProviderBudget,
        "more of it"
    );
    let tenant = Budgets { provider: None, tenant: Some(money(16.0)?) };
    let other = books.reserve_for("ann", &books.entry("other"), 0.1, tenant).await?;
    ensure_eq!(other, Reserved::OverTenantBudget, "the tenant elsewhere");
    books.close().await
}

/// By whoever gives it back, or by time when nobody does.
pub async fn a_reservation_is_given_back_or_lapses<H: Harness>(harness: &H) -> Verdict {
    let books = Books::open(harness).await?;
    let (kept, lapsing) = (books.entry("azure"), books.entry("azure"));
    books.ledger().cancel(&kept).await?;
    ensure_eq!(books.reserve(&lapsing, 4.0, 10.0).await?, Reserved::Granted, "the first");
    books.0.clock.advance(TTL / 2);
    ensure_eq!(books.reserve(&kept, 3.0, 10.0).await?, Reserved::Granted, "the second");
    books.expect_left("azure", 3.0).await?;
    // In the place of the one before, which is given back even when there is no room for the other.
    ensure_eq!(books.reserve(&kept, 6.0, 10.0).await?, Reserved::Granted, "a greater one for the same work");
    books.expect_left("azure", 0.0).await?;
    ensure_eq!(books.reserve(&kept, 6.5, 10.0).await?, Reserved::OverProviderBudget, "one that is too great");
    books.expect_left("azure", 6.0).await?;
    ensure_eq!(books.reserve(&kept, 1.0, 10.0).await?, Reserved::Granted, "a smaller one");
    for _ in 0..2 {
        books.expect_left("azure", 5.0).await?;
        books.ledger().cancel(&books.entry("azure")).await?;
    }
    books.0.clock.advance(TTL / 2 - MOMENT);
    books.expect_left("azure", 5.0).await?;
    books.0.clock.advance(MOMENT);
    books.expect_left("azure", 9.0).await?;
    books.ledger().cancel(&kept).await?;
    books.expect_left("azure", 10.0).await?;
    // The work of a lapsed one can still be charged.
    books.charge(&lapsing, 4.0).await?;
    books.expect_left("azure", 6.0).await?;
    books.close().await
}

/// A worker that dies gives nothing back: the next one does, whichever provider it turns to.
pub async fn a_new_lease_gives_back_what_older_ones_put_aside<H: Harness>(harness: &H) -> Verdict {
    let books = Books::open(harness).await?;
    let first = books.entry("azure");
    let of = |fence, provider: &str| EntryId {
        job_id: first.job_id.clone(),
        fence: Fence::new(fence),
        provider: provider.to_owned(),
    };
    let (second, bystander) = (of(2, "azure"), books.entry("azure"));
    ensure_eq!(books.reserve(&bystander, 1.0, 10.0).await?, Reserved::Granted, "another job");
    ensure_eq!(books.reserve(&first, 9.0, 10.0).await?, Reserved::Granted, "the first lease");
    ensure_eq!(books.reserve(&of(1, "other"), 9.0, 10.0).await?, Reserved::Granted, "the first elsewhere");
    ensure_eq!(books.reserve(&second, 5.0, 10.0).await?, Reserved::Granted, "the second lease");
    books.expect_left("azure", 4.0).await?;
    books.expect_left("other", 10.0).await?;
    // The dead one's money is there again also when the living one gets none.
    ensure_eq!(books.reserve(&of(10, "azure"), 9.5, 10.0).await?, Reserved::OverProviderBudget, "too much");
    books.expect_left("azure", 9.0).await?;
    // Not the other way round.
    ensure_eq!(books.reserve(&of(11, "azure"), 5.0, 10.0).await?, Reserved::Granted, "the newest lease");
    ensure_eq!(books.reserve(&of(9, "other"), 5.0, 10.0).await?, Reserved::Granted, "a lease that is lost");
    books.expect_left("azure", 4.0).await?;
    // A lease that needs no money gives it back when it is done.
    books.charge_to("ann", &of(12, "whisper"), 1000, None).await?;
    books.expect_left("azure", 9.0).await?;
    // Whoever did something before it lost its lease still says so.
    books.charge(&first, 2.0).await?;
    books.expect_left("azure", 7.0).await?;
    books.close().await
}

/// At midnight UTC the budget is there again, less what is still put aside.
pub async fn budgets_begin_anew_each_day<H: Harness>(harness: &H) -> Verdict {
    let books = Books::open(harness).await?;
    let today = Day::of(books.0.now());
    let tomorrow = Day::from_number(today.number() + 1);
    books.0.clock.advance(tomorrow.start().since(books.0.now()) - MOMENT);
    ensure_eq!(Day::of(books.0.now()), today, "the last moment of the day");
    books.charge(&books.entry("azure"), 8.0).await?;
    let late = books.entry("azure");
    ensure_eq!(books.reserve(&late, 1.5, 10.0).await?, Reserved::Granted, "work begun in the evening");
    books.expect_left("azure", 0.5).await?;
    books.0.clock.advance(MOMENT);
    books.expect_left("azure", 8.5).await?;
    books.charge(&late, 1.0).await?;
    books.expect_left("azure", 9.0).await?;
    // And again, with yesterday's: it is charged already.
    books.0.clock.advance(DAY);
    books.charge(&late, 1.0).await?;
    books.expect_left("azure", 10.0).await?;
    let days: Vec<(Day, u64)> = books.totals(10).await?.iter().map(|total| (total.day, total.jobs)).collect();
    ensure_eq!(days, vec![(today, 1), (tomorrow, 1)], "the days on which it counts");
    books.close().await
}

/// By day, provider and tenant, in this order; audio without a known price is told apart.
pub async fn totals_add_up<H: Harness>(harness: &H) -> Verdict {
    let books = Books::open(harness).await?;
    let first = Day::of(books.0.now());
    let mut wanted: Vec<DayTotal> = Vec::new();
    for number in 0..60_u64 {
        let day = Day::of(books.0.now());
        let provider = ["west", "Azure: east|1", "whisper"][(number % 3) as usize];
        let name = ["ann", "bob.2"][(number % 2) as usize];
        let cost = (provider != "whisper").then_some(0.25);
        books.charge_to(name, &books.entry(provider), 1000 + number, cost).await?;
        let own = |total: &&mut DayTotal| {
            (total.day, total.provider.as_str(), total.tenant.as_str()) == (day, provider, name)
        };
        if wanted.iter_mut().find(own).is_none() {
            let (provider, tenant) = (provider.to_owned(), tenant(name)?);
            wanted.push(DayTotal {
                day,
                provider,
                tenant,
                jobs: 0,
                billed_ms: 0,
                unpriced_ms: 0,
                cost: Money::ZERO,
            });
        }
        let total = wanted.iter_mut().find(own).ok_or_else(|| Violation::new("the check is wrong"))?;
        total.jobs += 1;
        total.billed_ms += 1000 + number;
        total.unpriced_ms += if cost.is_none() { 1000 + number } else { 0 };
        total.cost += cost.map(money).transpose()?.unwrap_or(Money::ZERO);
        if number % 2 == 1 {
            books.0.clock.advance(DAY);
        }
    }
    wanted.sort_by(|a, b| (a.day, &a.provider, &a.tenant).cmp(&(b.day, &b.provider, &b.tenant)));
    ensure_eq!(books.totals(100).await?, wanted, "all totals");
    let (from, to) = (Day::from_number(first.number() + 3), Day::from_number(first.number() + 7));
    wanted.retain(|total| (from..=to).contains(&total.day));
    ensure!(!wanted.is_empty(), "the check is wrong");
    ensure_eq!(books.ledger().totals(from, to).await?, wanted, "those of some days");
    ensure_eq!(books.ledger().totals(to, from).await?, vec![], "those of no day");
    books.close().await
}

/// Every charge of a job, in the order of its leases, and of no other job.
pub async fn a_job_tells_what_it_was_charged_for<H: Harness>(harness: &H) -> Verdict {
    let books = Books::open(harness).await?;
    let job = JobId::generate(&*books.0.ids);
    books.charge(&books.entry("azure"), 1.0).await?;
    let mut wanted = Vec::new();
    for (fence, provider) in [(10, "b|ü"), (2, "azure"), (10, "a"), (9, "whisper")] {
        let entry = EntryId { job_id: job.clone(), fence: Fence::new(fence), provider: provider.to_owned() };
        let cost = (fence != 9).then_some(0.5);
        books.charge_to("ann", &entry, 100 + fence, cost).await?;
        let cost = cost.map(money).transpose()?;
        wanted.push(Charge { entry, tenant: tenant("ann")?, billed_ms: 100 + fence, cost });
        books.0.clock.advance(DAY / 2);
    }
    wanted.sort_by(|a, b| (a.entry.fence, &a.entry.provider).cmp(&(b.entry.fence, &b.entry.provider)));
    ensure_eq!(books.ledger().of_job(&job).await?, wanted, "the charges of the job");
    let unknown = JobId::generate(&*books.0.ids);
    ensure_eq!(books.ledger().of_job(&unknown).await?, vec![], "those of a job that was never charged");
    books.close().await
}

/// 400 days of totals; single charges as long as the job may be charged again, a day being the least.
pub async fn old_books_are_thrown_away<H: Harness>(harness: &H) -> Verdict {
    let books = Books::open(harness).await?;
    let entry = books.entry("azure");
    books.charge(&entry, 1.0).await?;
    let day = Day::of(books.0.now());
    let all = |totals: Vec<DayTotal>| totals.iter().map(|total| total.day).collect::<Vec<_>>();
    // Two greatest ages and the retention between.
    books.0.pass(DAY * 3).await?;
    books.charge(&entry, 1.0).await?;
    ensure_eq!(books.ledger().of_job(&entry.job_id).await?.len(), 1, "charges after 3 days");
    ensure_eq!(books.totals(1).await?.len(), 0, "days on which one was charged again that was known");
    books.0.pass(DAY).await?;
    ensure_eq!(books.ledger().of_job(&entry.job_id).await?.len(), 0, "charges after 4 days");
    books.0.pass(DAY * 396).await?;
    ensure_eq!(all(books.totals(1000).await?), vec![day], "days after 400 days");
    books.0.pass(DAY).await?;
    ensure_eq!(all(books.totals(1000).await?), vec![], "days after 401 days");
    let far = Day::of(Timestamp::from_millis(0));
    ensure_eq!(all(books.ledger().totals(far, Day::of(books.0.now())).await?), vec![], "days of all times");
    books.close().await
}

/// The most that there may be does not break the books.
pub async fn absurd_amounts_do_not_overflow<H: Harness>(harness: &H) -> Verdict {
    let books = Books::open(harness).await?;
    let most = Money::from_micros(u64::MAX);
    let whose: TenantId = tenant("ann")?;
    for _ in 0..3 {
        let entry = books.entry("azure");
        let budgets = Budgets { provider: Some(most), tenant: None };
        let (tenant, cost) = (whose.clone(), most);
        books
            .ledger()
            .reserve(Reservation { entry: entry.clone(), tenant, cost, budgets, ttl: Duration::MAX })
            .await?;
        let charge = Charge { entry, tenant: whose.clone(), billed_ms: u64::MAX, cost: Some(most) };
        books.ledger().charge(charge).await?;
    }
    ensure_eq!(books.reserve(&books.entry("azure"), 0.1, 10.0).await?, Reserved::OverProviderBudget, "more");
    ensure_eq!(books.totals(1).await?.len(), 1, "totals");
    books.close().await
}
