//! The way through a run that took longest.

use ondol_types::StepName;

use crate::model::Step;

/// The steps of which each began when the one before it had ended, from the first to the one that
/// ended last: making anything else faster would not have ended the run earlier.
pub(crate) fn critical_path(steps: &[Step]) -> Vec<StepName> {
    let ran = |step: &&Step| step.started_at.is_some() && step.finished_at.is_some();
    let last = |found: Vec<&Step>| -> Option<Step> {
        let latest = found.into_iter().filter(ran);
        latest
            .max_by_key(|step| (step.finished_at, std::cmp::Reverse(step.ordinal)))
            .cloned()
    };
    let mut path = Vec::new();
    let mut here = last(steps.iter().collect());
    // No longer than there are steps, whatever the rows say.
    while let Some(step) = here.filter(|_| path.len() < steps.len()) {
        let needed = steps
            .iter()
            .filter(|other| step.needs.iter().any(|need| need.step == other.name));
        here = last(needed.collect());
        path.push(step.name);
    }
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use ondol_types::Timestamp;

    use super::*;
    use crate::model::Join;
    use crate::plan::simulation::command;

    fn ran(name: &str, needs: &[&str], from: i64, to: i64) -> Step {
        let needs: Vec<(&str, Join)> = needs.iter().map(|need| (*need, Join::Passed)).collect();
        let mut step = command(name, &needs, 0);
        step.started_at = Some(Timestamp::from_micros(from));
        step.finished_at = Some(Timestamp::from_micros(to));
        step
    }

    #[test]
    fn it_follows_what_was_waited_for() {
        let mut skipped = command("deploy", &[("image", Join::Passed)], 0);
        skipped.finished_at = Some(Timestamp::from_micros(99));
        let steps = [
            ran("checkout", &[], 0, 10),
            ran("lint", &["checkout"], 10, 20),
            ran("test", &["checkout"], 10, 50),
            ran("image", &["lint", "test"], 50, 60),
            ran("aside", &["checkout"], 10, 55),
            skipped,
        ];
        let path: Vec<String> = critical_path(&steps)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(path, ["checkout", "test", "image"]);
        assert!(critical_path(&[]).is_empty());
    }
}
