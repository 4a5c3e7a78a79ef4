//! Checks of one section each.

mod build;
mod commands;
mod contained;
mod data;
mod model;
mod running;

use super::Checker;
use crate::error::SpecError;
use crate::expr::ExprError;
use crate::model::{Limits, Period};

pub(super) use build::build;
pub(super) use commands::commands;
pub(super) use contained::contained;
pub(super) use data::{data, names};
pub(super) use model::{monitor, training};
pub(super) use running::{release, service};

/// The least memory that any program starts in.
const LEAST_MEMORY: u64 = 4 << 20;

type Checked = Result<(), SpecError>;

fn positive(checker: &Checker<'_>, at: &[&str], period: Period) -> Checked {
    if period.is_zero() {
        checker.fail(at, "must be longer than nothing", None)
    } else {
        Ok(())
    }
}

fn limits(checker: &Checker<'_>, at: &[&str], limits: &Limits) -> Checked {
    let with = |key| [at, &[key]].concat();
    if limits
        .cpu
        .is_some_and(|cpu| !(0.01..=1024.0).contains(&cpu))
    {
        checker.fail(&with("cpu"), "must be from 0.01 to 1024 cores", None)?;
    }
    if limits
        .memory
        .is_some_and(|memory| memory.bytes() < LEAST_MEMORY)
    {
        checker.fail(&with("memory"), "no program starts in less than 4MiB", None)?;
    }
    if limits.pids.is_some_and(|pids| pids < 4) {
        checker.fail(&with("pids"), "a shell needs at least 4 processes", None)?;
    }
    Ok(())
}

fn expression(checker: &Checker<'_>, at: &[&str], result: Result<(), ExprError>) -> Checked {
    let Err(error) = result else { return Ok(()) };
    let hint = match &error {
        ExprError::Unknown {
            nearest: Some(nearest),
            ..
        } => Some(format!("did you mean `{nearest}`?")),
        _ => None,
    };
    checker.fail(at, error.to_string(), hint.as_deref())
}
