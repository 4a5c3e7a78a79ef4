//! Training and watching.

use super::{Checked, Checker, expression, limits, positive};
use crate::model::{Metric, Spec, Task};

pub(in crate::check) fn training(spec: &Spec, checker: &Checker<'_>) -> Checked {
    let Some(train) = &spec.train else {
        return Ok(());
    };
    if train.run.is_some() && train.auto.is_some() {
        let hint = "keep `run` for your own program, or `auto` for the built-in trainer";
        checker.fail(
            &["train", "auto"],
            "`run` and `auto` exclude each other",
            Some(hint),
        )?;
    }
    if train.run.is_none() && train.auto.is_none() {
        checker.fail(
            &["train"],
            "needs `run` or `auto`",
            Some("add `run: python train.py` or `auto: <target column>`"),
        )?;
    }
    if train.on.data.is_none() {
        let hint = "add `on: <dataset>`, one of those under `data`";
        checker.fail(
            &["train", "on"],
            "does not say which data starts training",
            Some(hint),
        )?;
    }
    limits(checker, &["train", "limits"], &train.limits)?;
    if let Some(gate) = &train.accept {
        expression(checker, &["train", "accept"], gate.check_gate_names())?;
    }
    let Some(auto) = &train.auto else {
        return Ok(());
    };
    if auto.target.is_empty() {
        checker.fail(&["train", "auto", "target"], "names no column", None)?;
    }
    if auto.features.contains(&auto.target) {
        checker.fail(
            &["train", "auto", "features"],
            format!("`{}` is the target", auto.target),
            Some("remove it"),
        )?;
    }
    if auto.exclude.contains(&auto.target) {
        checker.fail(
            &["train", "auto", "exclude"],
            format!("`{}` is the target", auto.target),
            Some("remove it"),
        )?;
    }
    if !(2..=20).contains(&auto.folds) {
        checker.fail(&["train", "auto", "folds"], "must be from 2 to 20", None)?;
    }
    positive(checker, &["train", "auto", "time_budget"], auto.time_budget)?;
    let regression = matches!(auto.metric, Metric::Rmse | Metric::Mae | Metric::R2);
    let clash = match auto.task {
        Task::Classification => regression,
        Task::Regression => !regression && auto.metric != Metric::Auto,
        Task::Auto => false,
    };
    if clash {
        checker.fail(
            &["train", "auto", "metric"],
            "does not go with the task",
            None,
        )?;
    }
    Ok(())
}

pub(in crate::check) fn monitor(spec: &Spec, checker: &Checker<'_>) -> Checked {
    positive(
        checker,
        &["monitor", "slo", "window"],
        spec.monitor.slo.window,
    )?;
    let Some(drift) = &spec.monitor.drift else {
        return Ok(());
    };
    if !(drift.threshold.is_finite() && drift.threshold > 0.0) {
        checker.fail(
            &["monitor", "drift", "threshold"],
            "must be greater than 0",
            None,
        )?;
    }
    if spec.train.is_none() {
        checker.fail(
            &["monitor", "drift"],
            "there is no model to compare with: the project has no `train`",
            Some("remove `drift`"),
        )?;
    }
    Ok(())
}
