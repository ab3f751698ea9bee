//! The checker against made-up stories: a good one passes, and each bad one is caught for what it is.

use std::collections::{BTreeSet, HashMap};

use verbatim_chaos::check::{Begun, Kind, StoredJob, Stores, check_clients, check_stores};
use verbatim_chaos::history::{Expected, History, Manner, Seen, Status};

use verbatim_chaos::blame::{Account, Deaths, Fate, Hands, check_blame};

const ID: &str = "job_1";

fn accepted() -> Seen {
    Seen::Accepted { id: ID.to_owned(), shared: false }
}

fn job(status: Status) -> Seen {
    let code = (status == Status::Failed).then(|| "bad_audio".to_owned());
    Seen::Job { status, attempt: 1, code }
}

fn text(text: &str) -> Seen {
    Seen::Text(text.to_owned())
}

fn history(manner: Manner, seen: Vec<Seen>) -> History {
    let expected = Expected::Text { text: "right".to_owned(), attempts: 1 };
    History { number: 1, manner, expected, seen }
}

fn good() -> History {
    history(
        Manner::Poll,
        vec![accepted(), job(Status::Queued), job(Status::Processing), job(Status::Completed), text("right")],
    )
}

/// What the checker finds in one client's story.
fn found(history: History) -> BTreeSet<Kind> {
    check_clients(&[history]).1.into_iter().map(|violation| violation.kind).collect()
}

#[test]
fn good_stories_pass() {
    let bad_audio = History {
        expected: Expected::Failure("bad_audio"),
        ..history(Manner::Poll, vec![accepted(), job(Status::Failed)])
    };
    let event = |number, end| Seen::Event { number, end };
    for good in [
        good(),
        bad_audio,
        history(Manner::Cancel, vec![accepted(), Seen::CancelAccepted, job(Status::Cancelled)]),
        // Its answer to the first DELETE was lost.
        history(Manner::Cancel, vec![accepted(), Seen::Removed, Seen::Gone]),
        history(
            Manner::Remove,
            vec![accepted(), job(Status::Completed), text("right"), Seen::Removed, Seen::Gone],
        ),
        history(
            Manner::Watch,
            vec![
                accepted(),
                event(1, None),
                event(4, Some(Status::Completed)),
                job(Status::Completed),
                text("right"),
            ],
        ),
    ] {
        assert_eq!(check_clients(std::slice::from_ref(&good)).1, [], "{good:?}");
    }
}

#[test]
fn what_was_acknowledged_and_never_ended_is_lost() {
    for seen in [
        vec![accepted(), job(Status::Processing)],
        vec![accepted(), job(Status::Processing), Seen::GaveUp("its end")],
        vec![accepted(), Seen::Gone],
        vec![accepted(), job(Status::Completed)],
        vec![accepted(), job(Status::Cancelled)],
        vec![],
    ] {
        assert!(found(history(Manner::Poll, seen.clone())).contains(&Kind::Lost), "{seen:?}");
    }
}

#[test]
fn the_books_have_to_add_up() {
    let (tally, violations) = check_clients(&[good(), history(Manner::Poll, vec![accepted()])]);
    assert_eq!((tally.acknowledged, tally.completed), (2, 1));
    assert!(violations.iter().any(|violation| violation.kind == Kind::Unaccounted), "{violations:?}");
}

#[test]
fn another_text_is_wrong() {
    let seen = vec![accepted(), job(Status::Completed), text("left")];
    assert_eq!(found(history(Manner::Poll, seen)), [Kind::Wrong].into());
    let refused = History { expected: Expected::Failure("bad_audio"), ..good() };
    assert_eq!(found(refused), [Kind::Wrong].into());
}

#[test]
fn nothing_follows_the_end() {
    let mut moved = good();
    moved.seen.push(job(Status::Processing));
    assert_eq!(found(moved), [Kind::Stale].into());
    let mut event = good();
    event.seen.push(Seen::Event { number: 9, end: Some(Status::Failed) });
    assert_eq!(found(event), [Kind::Stale].into());
    let published = vec![accepted(), Seen::CancelAccepted, job(Status::Completed), text("right")];
    assert_eq!(found(history(Manner::Cancel, published)), [Kind::Stale].into());
}

#[test]
fn innocents_are_not_blamed() {
    let twice = Seen::Job { status: Status::Completed, attempt: 2, code: None };
    assert_eq!(found(history(Manner::Poll, vec![accepted(), twice, text("right")])), [Kind::Blamed].into());
    let lost = Seen::Job { status: Status::Failed, attempt: 0, code: Some("worker_lost".to_owned()) };
    assert_eq!(found(history(Manner::Poll, vec![accepted(), lost])), [Kind::Blamed].into());
}

#[test]
fn answers_keep_to_the_contract() {
    let mut twice = good();
    twice.seen.insert(1, Seen::Accepted { id: "job_2".to_owned(), shared: false });
    assert_eq!(found(twice), [Kind::Contract].into());
    let mut odd = good();
    odd.seen.insert(1, Seen::Unexpected("500".to_owned()));
    assert_eq!(found(odd), [Kind::Contract].into());
    let mut backwards = good();
    backwards.seen.extend([5, 5].map(|number| Seen::Event { number, end: None }));
    assert_eq!(found(backwards), [Kind::Contract].into());
}

/// One completed job as it should be, and who began it.
fn stores() -> (Stores, Begun) {
    let job = StoredJob {
        end: Some(Status::Completed),
        fence: 2,
        nonce: "N".to_owned(),
        result: Some("results/work_W/2-N".to_owned()),
        audio: "audio/W".to_owned(),
    };
    let stores = Stores {
        jobs: [("W".to_owned(), job)].into(),
        submissions: [(ID.to_owned(), "W".to_owned())].into(),
        blobs: ["results/work_W/2-N".to_owned()].into(),
    };
    (stores, HashMap::from([("W".to_owned(), [1, 2].into())]))
}

/// What the checker finds in the stores once they were changed so.
fn found_in_stores(change: impl FnOnce(&mut Stores, &mut Begun)) -> BTreeSet<Kind> {
    let (mut stores, mut begun) = stores();
    change(&mut stores, &mut begun);
    check_stores(&[good()], &stores, &begun).into_iter().map(|violation| violation.kind).collect()
}

fn change_job(change: impl FnOnce(&mut StoredJob)) -> BTreeSet<Kind> {
    found_in_stores(|stores, _| change(stores.jobs.get_mut("W").expect("it is there")))
}

#[test]
fn stores_in_order_pass() {
    assert_eq!(found_in_stores(|_, _| {}), [].into());
}

#[test]
fn a_result_of_an_older_lease_is_stale() {
    let zombie = |stores: &mut Stores, _: &mut Begun| {
        let old = "results/work_W/1-M".to_owned();
        stores.blobs = [old.clone()].into();
        stores.jobs.get_mut("W").expect("it is there").result = Some(old);
    };
    assert_eq!(found_in_stores(zombie), [Kind::Stale].into());
    // The store forgot a lease that a worker had begun on.
    let forgotten = |_: &mut Stores, begun: &mut Begun| {
        begun.insert("W".to_owned(), [3].into());
    };
    assert_eq!(found_in_stores(forgotten), [Kind::Stale].into());
    assert!(change_job(|job| job.end = Some(Status::Cancelled)).contains(&Kind::Stale));
}

#[test]
fn what_is_not_there_is_lost() {
    assert!(found_in_stores(|stores, _| stores.blobs.clear()).contains(&Kind::Lost));
    assert!(found_in_stores(|stores, _| stores.submissions.clear()).contains(&Kind::Lost));
    assert!(found_in_stores(|stores, _| stores.jobs.clear()).contains(&Kind::Lost));
    assert!(change_job(|job| job.end = None).contains(&Kind::Lost));
    assert!(change_job(|job| job.result = None).contains(&Kind::Lost));
}

#[test]
fn what_is_left_over_is_found() {
    let blob = |stores: &mut Stores, _: &mut Begun| {
        stores.blobs.insert("audio/W".to_owned());
    };
    assert_eq!(found_in_stores(blob), [Kind::Unaccounted].into());
    let invented = |stores: &mut Stores, _: &mut Begun| {
        stores.submissions.insert("job_2".to_owned(), "W".to_owned());
    };
    assert_eq!(found_in_stores(invented), [Kind::Unaccounted].into());
}

/// What is found when job `W`, with this account, was held by processes with these fates.
fn blamed(account: Account, fates: &[Fate]) -> bool {
    let hands = Hands { held: ["W".to_owned()].into(), lost: BTreeSet::new() };
    let deaths = Deaths::of(fates.iter().map(|fate| (*fate, &hands)));
    let (stores, begun) = stores();
    let accounts = [("W".to_owned(), account)].into();
    let found = check_blame(&accounts, &stores, &begun, &deaths);
    assert!(found.iter().all(|violation| violation.kind == Kind::Blamed));
    !found.is_empty()
}

#[test]
fn a_crash_is_explained_by_the_death_of_a_worker_that_held_the_job_and_by_nothing_else() {
    let crashes = |crashes| Account { crashes, ..Account::default() };
    assert!(!blamed(crashes(0), &[]));
    assert!(blamed(crashes(1), &[]), "nobody died");
    assert!(blamed(crashes(1), &[Fate::Lived]), "its worker lives: the store was away");
    assert!(!blamed(crashes(1), &[Fate::Died]));
    assert!(!blamed(crashes(1), &[Fate::Frozen]));
    assert!(blamed(crashes(2), &[Fate::Died, Fate::Lived]));
    assert!(!blamed(crashes(2), &[Fate::Died, Fate::Frozen]));
}

#[test]
fn a_job_is_isolated_after_two_deaths() {
    let isolated = Account { isolated: true, ..Account::default() };
    assert!(blamed(isolated, &[]));
    assert!(blamed(isolated, &[Fate::Died, Fate::Lived]));
    assert!(!blamed(isolated, &[Fate::Died, Fate::Died]));
}

#[test]
fn a_zombie_explains_what_it_lost_and_a_lease_that_no_log_tells_of_is_a_death_only_where_somebody_died() {
    let hands = Hands { held: BTreeSet::new(), lost: ["W".to_owned()].into() };
    let found = |fate, fence| {
        let (mut stores, begun) = stores();
        stores.jobs.get_mut("W").unwrap().fence = fence;
        let accounts = [("W".to_owned(), Account { deaths: 1, ..Account::default() })].into();
        !check_blame(&accounts, &stores, &begun, &Deaths::of([(fate, &hands)])).is_empty()
    };
    let fence = stores().0.jobs["W"].fence;
    assert!(!found(Fate::Frozen, fence));
    assert!(found(Fate::Died, fence), "it held nothing when it died");
    assert!(!found(Fate::Died, fence + 1));
    assert!(found(Fate::Lived, fence + 1));
}
