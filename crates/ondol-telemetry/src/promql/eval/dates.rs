//! Parts of a date in UTC, from seconds since the Unix epoch.

/// A day of the proleptic Gregorian calendar.
struct Day {
    year: i64,
    month: i64,
    day: i64,
    /// Days since the Unix epoch.
    number: i64,
}

/// The day a number of days after the Unix epoch.
fn civil(number: i64) -> Day {
    // The year is taken to begin in March, so that the leap day is its last.
    let shifted = number + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Day {
        year,
        month,
        day,
        number,
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The part of a date that a function of this name is about.
pub(super) fn part(function: &str, seconds: f64) -> f64 {
    // Beyond this the calendar has no meaning, and the arithmetic no room.
    let seconds = (seconds as i64).clamp(-(1 << 52), 1 << 52);
    let of_day = seconds.rem_euclid(86_400);
    let day = civil(seconds.div_euclid(86_400));
    let value = match function {
        "minute" => of_day / 60 % 60,
        "hour" => of_day / 3600,
        "day_of_week" => (day.number + 4).rem_euclid(7),
        "day_of_month" => day.day,
        "day_of_year" => {
            (1..day.month)
                .map(|month| days_in_month(day.year, month))
                .sum::<i64>()
                + day.day
        }
        "days_in_month" => days_in_month(day.year, day.month),
        "month" => day.month,
        _ => day.year,
    };
    value as f64
}
