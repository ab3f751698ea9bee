//! What is submitted: drawn from a seed, with the answer that has to come.

use anyhow::Result;

use crate::client::Order;
use crate::cluster::Settings;
use crate::engine::known_answer;
use crate::history::{Expected, Manner};
use crate::random::Random;
use crate::sound::{Mark, Sound};

/// One submission of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What is submitted.
    pub sound: Sound,
    /// For whom and with what.
    pub order: Order,
    /// What its client does.
    pub manner: Manner,
    /// What must come of it.
    pub expected: Expected,
}

/// Draws submissions, of which one in ten repeats the sound of an earlier one.
#[derive(Debug)]
pub struct Load {
    random: Random,
    past: Vec<Sound>,
    tenants: usize,
    models: Vec<&'static str>,
}

impl Load {
    /// The load of this seed for such a cluster.
    pub fn new(seed: u64, settings: &Settings) -> Self {
        let (tenants, models) = (settings.tenants.len().max(1), settings.models.clone());
        Self { random: Random::new(seed), past: Vec::new(), tenants, models }
    }

    /// The next submission.
    ///
    /// # Errors
    /// When the answer cannot be computed.
    pub async fn next(&mut self, number: u64) -> Result<Plan> {
        let random = &mut self.random;
        let mark = match random.between(0, 999) {
            0..=29 => Mark::Refuse,
            30..=79 => Mark::FailTimes { times: random.between(1, 2) as u16 },
            80..=82 => Mark::Abort { millis: random.between(20, 300) as u16 },
            // From less than a lease to three of them.
            83..=102 => Mark::Long { windows: random.between(5, 30) as u16 },
            _ => Mark::Plain { millis: random.between(20, 200) as u16 },
        };
        let manner = match random.between(0, 99) {
            0..=59 => Manner::Poll,
            60..=74 => Manner::Watch,
            75..=84 => Manner::Repeat,
            85..=92 => Manner::Cancel,
            _ => Manner::Remove,
        };
        let order = Order {
            // The first has no cap, and most of the load.
            tenant: random.place(2 * self.tenants).saturating_sub(self.tenants),
            priority: [None, Some("high"), Some("low")][random.place(3)],
            model: (self.models.len() > 1).then(|| self.models[random.place(self.models.len())]),
        };
        let fresh = Sound { mark, serial: random.number() ^ number };
        let again = !self.past.is_empty() && random.in_hundred(10);
        let sound = if again { self.past[random.place(self.past.len())] } else { fresh };
        self.past.push(sound);
        let text = async |attempts| {
            let text = known_answer(sound).await?;
            anyhow::Ok(Expected::Text { text, attempts })
        };
        let expected = match sound.mark {
            Mark::Refuse => Expected::Failure("bad_audio"),
            Mark::Abort { .. } => Expected::Failure("worker_lost"),
            Mark::FailTimes { times } => text(u32::from(times) + 1).await?,
            Mark::Plain { .. } | Mark::Long { .. } => text(1).await?,
        };
        Ok(Plan { sound, order, manner, expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_load_has_everything_that_there_is() -> Result<()> {
        let mut load = Load::new(1, &Settings::mixed("chaos"));
        let mut plans = Vec::new();
        for number in 0..2_000 {
            plans.push(load.next(number).await?);
        }
        let some = |such: fn(&Plan) -> bool| plans.iter().any(such);
        assert!(some(|plan| matches!(plan.sound.mark, Mark::Abort { .. })));
        assert!(some(|plan| matches!(plan.sound.mark, Mark::Long { windows } if windows > 20)));
        assert!((0..3).all(|tenant| plans.iter().any(|plan| plan.order.tenant == tenant)));
        assert!(some(|plan| plan.order.priority == Some("low") && plan.order.model == Some("chaos-b")));
        let mut same = Load::new(1, &Settings::mixed("chaos"));
        assert_eq!(same.next(0).await?, plans[0], "a seed is a load");
        Ok(())
    }
}
