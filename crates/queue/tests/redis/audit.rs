//! Looks into Redis beside the store: every job in exactly the index that its state names, counters equal to what there is,
//! nothing that points nowhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, ensure};
use redis::{Commands, Connection};

type Hash = HashMap<String, String>;

/// Everything of one queue, read at a moment when nobody writes.
struct Picture<'c> {
    redis: &'c mut Connection,
    prefix: String,
    keys: BTreeSet<String>,
    jobs: BTreeMap<String, Hash>,
    submissions: BTreeMap<String, Hash>,
}

/// Checks all of it.
pub(crate) fn audit(redis: &mut Connection, prefix: &str) -> Result<()> {
    let prefix = format!("{{{prefix}}}:");
    let found: Vec<String> = redis::cmd("KEYS").arg(format!("{prefix}*")).query(redis)?;
    let keys: BTreeSet<String> =
        found.iter().filter_map(|key| key.strip_prefix(&prefix)).map(str::to_owned).collect();
    let mut picture = Picture { redis, prefix, keys, jobs: BTreeMap::new(), submissions: BTreeMap::new() };
    picture.jobs = picture.hashes("j:")?;
    picture.submissions = picture.hashes("s:")?;
    picture.each_job_is_in_one_index()?;
    picture.counters_are_true()?;
    picture.submissions_and_jobs_agree()?;
    picture.work_points_somewhere()?;
    picture.tenants_stand_where_they_can_be_served()?;
    picture.deadlines_are_looked_after()?;
    picture.idempotency_keys_name_submissions()?;
    picture.workers_are_known()?;
    picture.money_put_aside_adds_up()?;
    picture.nothing_is_left_over()?;
    picture.no_blob_is_needed_and_listed()
}

/// The lane in which a job is queued.
fn lane_of(job: &Hash) -> String {
    let isolated = if job.contains_key("u") { "!" } else { "" };
    format!("{isolated}{}", job.get("K").map_or("*", String::as_str))
}

fn field<'h>(hash: &'h Hash, name: &str) -> &'h str {
    hash.get(name).map_or("", String::as_str)
}

impl Picture<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn hashes(&mut self, kind: &str) -> Result<BTreeMap<String, Hash>> {
        let ids: Vec<String> =
            self.keys.iter().filter_map(|key| key.strip_prefix(kind)).map(str::to_owned).collect();
        ids.into_iter()
            .map(|id| {
                let hash = self.redis.hgetall(format!("{}{kind}{id}", self.prefix))?;
                Ok((id, hash))
            })
            .collect()
    }

    fn zset(&mut self, name: &str) -> Result<BTreeMap<String, f64>> {
        let entries: Vec<(String, f64)> = self.redis.zrange_withscores(self.key(name), 0, -1)?;
        Ok(entries.into_iter().collect())
    }

    fn set(&mut self, name: &str) -> Result<BTreeSet<String>> {
        Ok(self.redis.smembers(self.key(name))?)
    }

    fn hash(&mut self, name: &str) -> Result<Hash> {
        Ok(self.redis.hgetall(self.key(name))?)
    }

    fn in_state(&self, wanted: &str) -> BTreeSet<String> {
        let jobs = self.jobs.iter().filter(|(_, job)| wanted.contains(field(job, "s")));
        jobs.map(|(id, _)| id.clone()).collect()
    }

    /// Whether an index holds exactly these, each under the score that a field of its hash gives.
    fn index_is(&mut self, name: &str, wanted: &BTreeSet<String>, score: &str) -> Result<()> {
        let index = self.zset(name)?;
        let members: BTreeSet<String> = index.keys().cloned().collect();
        ensure!(members == *wanted, "index {name} holds {members:?}, not {wanted:?}");
        for (id, at) in index {
            let job = self.jobs.get(&id).context("a job")?;
            ensure!(field(job, score).parse() == Ok(at), "{id} is at {at} in {name}: {job:?}");
        }
        Ok(())
    }

    fn each_job_is_in_one_index(&mut self) -> Result<()> {
        let (delayed, running, failed) = (self.in_state("d"), self.in_state("r"), self.in_state("f"));
        self.index_is("delayed", &delayed, "R")?;
        self.index_is("run", &running, "L")?;
        self.index_is("dlq", &failed, "F")?;
        let mut queues: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut workers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut lanes: BTreeMap<String, usize> = BTreeMap::new();
        for (id, job) in &self.jobs {
            match field(job, "s") {
                "q" => {
                    let lane = lane_of(job);
                    let queue = format!("queue:{}:{}:{lane}", field(job, "p"), field(job, "t"));
                    queues.entry(queue).or_default().insert(id.clone());
                    *lanes.entry(lane).or_default() += 1;
                }
                "r" => {
                    workers.entry(format!("r:{}", field(job, "w"))).or_default().insert(id.clone());
                }
                _ => {}
            }
        }
        let kept = |kinds: &[&str]| -> BTreeSet<String> {
            self.keys.iter().filter(|key| kinds.iter().any(|kind| key.starts_with(kind))).cloned().collect()
        };
        let (kept_queues, kept_workers) = (kept(&["queue:", "q:", "u:"]), kept(&["r:"]));
        ensure!(kept_queues == queues.keys().cloned().collect(), "queues {kept_queues:?}, not {queues:?}");
        ensure!(
            kept_workers == workers.keys().cloned().collect(),
            "holders {kept_workers:?}, not {workers:?}"
        );
        for (queue, jobs) in &queues {
            self.index_is(queue, jobs, "o")?;
        }
        let counted = self.hash("lanes")?;
        let wanted: Hash = lanes.into_iter().map(|(lane, jobs)| (lane, jobs.to_string())).collect();
        ensure!(counted == wanted, "queued jobs by lane: {counted:?}, not {wanted:?}");
        for (worker, jobs) in workers {
            ensure!(self.set(&worker)? == jobs, "what {worker} holds is not {jobs:?}");
        }
        let ends = self.zset("z")?;
        for (id, job) in &self.jobs {
            let when = if "qdr".contains(field(job, "s")) { "z" } else { "X" };
            ensure!(ends.get(id).copied() == field(job, when).parse().ok(), "the end of {id}: {job:?}");
        }
        ensure!(ends.len() == self.jobs.len(), "{} ends of {} jobs", ends.len(), self.jobs.len());
        Ok(())
    }

    fn counters_are_true(&mut self) -> Result<()> {
        let counters = self.hash("n")?;
        let mut real: BTreeMap<String, i64> = BTreeMap::new();
        for job in self.jobs.values() {
            let tier = if field(job, "s") == "q" { field(job, "p") } else { "" };
            *real.entry(format!("{}{tier}", field(job, "s"))).or_default() += 1;
        }
        real.insert("subs".to_owned(), i64::try_from(self.submissions.len())?);
        for (name, count) in &counters {
            let wanted = real.remove(name).unwrap_or(0);
            ensure!(*count == wanted.to_string(), "counter {name} is {count}, there are {wanted}");
        }
        ensure!(real.values().all(|count| *count == 0), "uncounted: {real:?}");
        let mut tenants: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        for job in self.jobs.values() {
            let counts = tenants.entry(field(job, "t").to_owned()).or_default();
            counts.0 += i64::from(field(job, "s") == "r");
            counts.1 += i64::from("qd".contains(field(job, "s")));
        }
        for (name, (running, waiting)) in tenants {
            let kept = self.hash(&format!("t:{name}"))?;
            let count = |name: &str| kept.get(name).map_or(Ok(0), |count| count.parse::<i64>());
            ensure!((count("r")?, count("w")?) == (running, waiting), "tenant {name}: {kept:?}");
        }
        Ok(())
    }

    fn submissions_and_jobs_agree(&mut self) -> Result<()> {
        let mut listed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (id, sub) in &self.submissions {
            ensure!(self.jobs.contains_key(field(sub, "j")), "submission {id} points nowhere");
            listed.entry(format!("l:{}", field(sub, "t"))).or_default().insert(id.clone());
        }
        let holders: BTreeSet<String> =
            self.zset("holders")?.into_keys().map(|name| format!("l:{name}")).collect();
        let wanted: BTreeSet<String> = listed.keys().cloned().collect();
        ensure!(
            holders == wanted,
            "tenants of which submissions are remembered: {holders:?}, not {wanted:?}"
        );
        for (list, wanted) in listed {
            let members: BTreeSet<String> = self.zset(&list)?.into_keys().collect();
            ensure!(members == wanted, "list {list} is {members:?}, not {wanted:?}");
        }
        let jobs: Vec<(String, Hash)> = self.jobs.clone().into_iter().collect();
        for (id, job) in jobs {
            let mut known = self.set(&format!("m:{id}"))?;
            known.extend(job.get("s1").cloned());
            let real: BTreeSet<String> = self
                .submissions
                .iter()
                .filter(|(_, sub)| field(sub, "j") == id)
                .map(|(id, _)| id.clone())
                .collect();
            ensure!(known == real, "job {id} knows {known:?}, not {real:?}");
            let waiting = real.iter().filter(|sub| !self.submissions[*sub].contains_key("x")).count();
            ensure!(field(&job, "nt") == real.len().to_string(), "job {id} counts wrongly: {job:?}");
            ensure!(field(&job, "nl") == waiting.to_string(), "job {id} has {waiting} waiting: {job:?}");
            ensure!(waiting > 0 || !"qd".contains(field(&job, "s")), "nobody waits for live job {id}");
        }
        Ok(())
    }

    fn work_points_somewhere(&mut self) -> Result<()> {
        let work = self.hash("w")?;
        for (key, id) in &work {
            let job = self.jobs.get(id).with_context(|| format!("dedupe key {key} points nowhere"))?;
            let answers = "qdrc".contains(field(job, "s")) && !job.contains_key("x");
            ensure!(answers && field(job, "k") == key, "dedupe key {key} points at {job:?}");
        }
        for (id, job) in &self.jobs {
            let live = "qdr".contains(field(job, "s")) && !job.contains_key("x");
            let known = work.get(field(job, "k")) == Some(id);
            ensure!(!live || known, "live job {id} is not found by its dedupe key");
        }
        Ok(())
    }

    /// Each tenant that can be served stands under one tag in its tier and in each lane in which it has jobs, and nowhere
    /// else.
    fn tenants_stand_where_they_can_be_served(&mut self) -> Result<()> {
        let mut queued: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for job in self.jobs.values().filter(|job| field(job, "s") == "q") {
            let whose = (field(job, "p").to_owned(), field(job, "t").to_owned());
            queued.entry(whose).or_default().insert(lane_of(job));
        }
        let mut wanted: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
        for tier in ["0", "1", "2"] {
            let active = self.zset(&format!("turns:{tier}"))?;
            let idle = self.zset(&format!("f:{tier}"))?;
            for name in active.keys() {
                ensure!(!idle.contains_key(name), "{name} is active and idle in tier {tier}");
            }
            let mut standing = BTreeSet::new();
            for ((_, name), lanes) in queued.iter().filter(|((of, _), _)| of == tier) {
                ensure!(
                    self.set(&format!("lanes:{tier}:{name}"))? == *lanes,
                    "lanes of {name} are not {lanes:?}"
                );
                let tenant = self.hash(&format!("t:{name}"))?;
                let running: u64 = field(&tenant, "r").parse().unwrap_or(0);
                if field(&tenant, "mr").parse::<u64>().is_ok_and(|most| running >= most) {
                    continue;
                }
                standing.insert(name.clone());
                let tag = *active.get(name).with_context(|| format!("{name} is not active in {tier}"))?;
                for lane in lanes {
                    wanted.entry(format!("turns:{tier}:{lane}")).or_default().insert(name.clone(), tag);
                }
            }
            ensure!(active.keys().cloned().collect::<BTreeSet<_>>() == standing, "active: {active:?}");
        }
        let of_tenants: BTreeSet<String> =
            queued.keys().map(|(tier, name)| format!("lanes:{tier}:{name}")).collect();
        let kept_lanes: BTreeSet<String> = self
            .keys
            .iter()
            .filter(|key| key.matches(':').count() == 2 && key.starts_with("lanes:"))
            .cloned()
            .collect();
        ensure!(kept_lanes == of_tenants, "lanes {kept_lanes:?}, not {of_tenants:?}");
        let kept: BTreeSet<String> = self
            .keys
            .iter()
            .filter(|key| key.matches(':').count() == 2 && key.starts_with("turns:"))
            .cloned()
            .collect();
        ensure!(kept == wanted.keys().cloned().collect(), "turns {kept:?}, not {wanted:?}");
        for (turns, tenants) in &wanted {
            ensure!(self.zset(turns)? == *tenants, "{turns} is not {tenants:?}");
        }
        for tier in ["0", "1", "2"] {
            let prefix = format!("turns:{tier}:");
            let lanes =
                wanted.keys().filter_map(|key| key.strip_prefix(&prefix)).map(str::to_owned).collect();
            ensure!(self.set(&format!("lanes:{tier}"))? == lanes, "lanes of tier {tier} are not {lanes:?}");
        }
        Ok(())
    }

    fn deadlines_are_looked_after(&mut self) -> Result<()> {
        let due = self.zset("y")?;
        for (id, at) in &due {
            let sub = self.submissions.get(id).with_context(|| format!("{id} has a deadline and is gone"))?;
            let kept = field(sub, "d").parse() == Ok(*at) && !sub.contains_key("x");
            ensure!(kept, "{id} is due at {at}: {sub:?}");
        }
        for (id, sub) in &self.submissions {
            let job = self.jobs.get(field(sub, "j")).context("a job")?;
            let waits = !sub.contains_key("x") && "qdr".contains(field(job, "s"));
            let watched = !sub.contains_key("d") || due.contains_key(id);
            ensure!(!waits || watched, "nobody looks after the deadline of {id}: {sub:?}");
        }
        Ok(())
    }

    fn idempotency_keys_name_submissions(&mut self) -> Result<()> {
        let expiring = self.zset("ie")?;
        let kept: BTreeSet<String> =
            self.keys.iter().filter_map(|key| key.strip_prefix("i:")).map(str::to_owned).collect();
        let listed: BTreeSet<String> = expiring.keys().cloned().collect();
        ensure!(kept == listed, "idempotency keys {kept:?}, by their expiry {listed:?}");
        for (member, at) in expiring {
            let stored: String = self.redis.get(self.key(&format!("i:{member}")))?;
            let parts: Vec<&str> = stored.splitn(3, '|').collect();
            let [id, expires, _] = parts[..] else { anyhow::bail!("idempotency key {member} is {stored}") };
            ensure!(expires.parse() == Ok(at), "idempotency key {member} ends at {at}: {stored}");
            let sub =
                self.submissions.get(id).with_context(|| format!("{member} names {id}, which is gone"))?;
            let own = format!("{}:{}", field(sub, "t"), field(sub, "i"));
            ensure!(own == member, "{member} names {id}, whose key is {own}");
        }
        Ok(())
    }

    fn workers_are_known(&mut self) -> Result<()> {
        let known: BTreeSet<String> = self.zset("workers")?.into_keys().collect();
        for kind in ["k:", "r:"] {
            let unknown =
                self.keys.iter().filter_map(|key| key.strip_prefix(kind)).find(|id| !known.contains(*id));
            ensure!(unknown.is_none(), "{kind} of worker {unknown:?}, which is not among {known:?}");
        }
        Ok(())
    }

    fn money_put_aside_adds_up(&mut self) -> Result<()> {
        let reserved = self.hash("reserved")?;
        let entries: BTreeSet<String> = reserved.keys().cloned().collect();
        let ends: BTreeSet<String> = self.zset("reserved:end")?.into_keys().collect();
        ensure!(entries == ends, "entries {entries:?}, by their end {ends:?}");
        let of_jobs = self.hash("reserved:jobs")?;
        let lines: BTreeSet<String> =
            of_jobs.values().flat_map(|lines| lines.lines()).map(str::to_owned).collect();
        ensure!(entries == lines, "entries {entries:?}, by job {of_jobs:?}");
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (entry, kept) in &reserved {
            let parts: Vec<&str> = kept.splitn(3, '|').collect();
            let [cost, tenant, provider] = parts[..] else { anyhow::bail!("{entry} is {kept}") };
            for name in [format!("p{provider}"), format!("t{tenant}")] {
                *sums.entry(name).or_default() += cost.parse::<u64>()?;
            }
        }
        sums.retain(|_, sum| *sum > 0);
        let kept = self.hash("reserved:sums")?;
        let told: BTreeMap<String, u64> =
            kept.into_iter().map(|(name, sum)| Ok((name, sum.parse()?))).collect::<Result<_>>()?;
        ensure!(told == sums, "put aside {told:?}, not {sums:?}");
        Ok(())
    }

    fn nothing_is_left_over(&mut self) -> Result<()> {
        let calls: Vec<String> = self.keys.iter().filter(|key| key.starts_with("c:")).cloned().collect();
        for call in calls {
            let left: i64 = self.redis.pttl(self.key(&call))?;
            ensure!(left <= 60_000 && left != -1, "{call} would stay for {left} ms");
        }
        for key in &self.keys {
            let owner = ["d:", "e:", "m:", "h:", "hs:"].iter().find_map(|kind| key.strip_prefix(kind));
            ensure!(owner.is_none_or(|id| self.jobs.contains_key(id)), "{key} belongs to no job");
        }
        for (id, job) in &self.jobs {
            ensure!(self.keys.contains(&format!("d:{id}")), "job {id} lacks what does not move");
            for (kind, field) in [("h:", "cp"), ("hs:", "ck")] {
                let checkpoint = self.keys.contains(&format!("{kind}{id}"));
                ensure!(checkpoint == job.contains_key(field), "checkpoint of {id}: {job:?}");
            }
        }
        Ok(())
    }

    fn no_blob_is_needed_and_listed(&mut self) -> Result<()> {
        let garbage = self.zset("garbage")?;
        let taken = self.hash("garbage:takes")?;
        let unknown = taken.keys().find(|blob| !garbage.contains_key(*blob));
        ensure!(unknown.is_none(), "{unknown:?} was taken to be deleted, and is not listed");
        for (id, job) in &self.jobs {
            if "qdrf".contains(field(job, "s")) {
                let audio = job.get("b").cloned().unwrap_or_else(|| format!("audio/{id}"));
                ensure!(!garbage.contains_key(&audio), "the audio of {id} is to be deleted");
            }
            let result = field(job, "r").replacen('~', &format!("results/work_{id}/"), 1);
            ensure!(!garbage.contains_key(&result), "the result of {id} is to be deleted");
        }
        Ok(())
    }
}
