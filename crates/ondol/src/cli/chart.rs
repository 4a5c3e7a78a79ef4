//! Numbers over time, drawn with Braille dots: two columns and four rows of dots in a letter.

/// Letters of a line.
const COLUMNS: usize = 60;
/// Lines of a chart.
const LINES: usize = 4;
/// Dots of a line: more values than that cannot be told apart.
pub(super) const POINTS: usize = COLUMNS * 2;
/// The bit of each dot, by row and column.
const DOTS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

/// The lines of a chart of times and values between two times, with its highest and lowest value.
/// What is no number is a gap.
pub(super) fn draw(points: &[(f64, f64)], start: f64, end: f64) -> Vec<String> {
    let finite = || points.iter().filter(|(_, value)| value.is_finite());
    let low = finite().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = finite()
        .map(|point| point.1)
        .fold(f64::NEG_INFINITY, f64::max);
    if low > high {
        return vec!["  nothing that is a number".to_owned()];
    }
    let share = |value: f64, from: f64, to: f64| {
        if to > from {
            (value / (to - from) - from / (to - from)).clamp(0.0, 1.0)
        } else {
            0.0
        }
    };
    let rows = LINES * 4;
    let mut cells = [[0u8; COLUMNS]; LINES];
    for &(time, value) in finite() {
        let column = (share(time, start, end) * (POINTS - 1) as f64).round() as usize;
        let height = (share(value, low, high) * (rows - 1) as f64).round() as usize;
        let row = rows - 1 - height;
        cells[row / 4][column / 2] |= DOTS[row % 4][column % 2];
    }
    cells
        .iter()
        .enumerate()
        .map(|(at, cells)| {
            let letters: String = cells
                .iter()
                .map(|&dots| char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' '))
                .collect();
            let edge = match at {
                0 if low < high => number(high),
                at if at + 1 == LINES => number(low),
                _ => String::new(),
            };
            format!("  {letters} {edge}").trim_end().to_owned()
        })
        .collect()
}

/// A number short enough for the edge of a chart.
fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e9).contains(&size) {
        format!("{value:.3e}")
    } else if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rise_goes_from_the_lower_left_to_the_upper_right() {
        let points: Vec<(f64, f64)> = (0..POINTS).map(|at| (at as f64, at as f64)).collect();
        let lines = draw(&points, 0.0, (POINTS - 1) as f64);
        assert_eq!(lines.len(), LINES);
        let letters = |line: &str| -> Vec<char> { line.chars().skip(2).take(COLUMNS).collect() };
        let (first, last) = (letters(&lines[0]), letters(&lines[LINES - 1]));
        assert_eq!((first[0], first[COLUMNS - 1]), ('\u{2800}', '\u{2809}'));
        assert_eq!((last[0], last[COLUMNS - 1]), ('\u{28c0}', '\u{2800}'));
        assert!(lines[0].ends_with(" 119") && lines[LINES - 1].ends_with(" 0"));
    }

    #[test]
    fn whatever_the_values_are_there_is_a_chart() {
        for values in [
            vec![1.0; 5],
            vec![f64::NAN, f64::INFINITY, 2.0, f64::NEG_INFINITY],
            vec![f64::MAX, f64::MIN, 0.0],
            vec![5e-324, 0.0],
        ] {
            let points: Vec<(f64, f64)> = values
                .into_iter()
                .enumerate()
                .map(|(at, value)| (at as f64, value))
                .collect();
            assert_eq!(draw(&points, 0.0, 4.0).len(), LINES, "{points:?}");
        }
        assert_eq!(draw(&[(0.0, f64::NAN)], 0.0, 0.0).len(), 1);
        assert_eq!(draw(&[], f64::INFINITY, f64::NEG_INFINITY).len(), 1);
    }
}
