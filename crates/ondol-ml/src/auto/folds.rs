//! Cross-validation folds, the same for every candidate.

use super::prepare::Target;
use crate::learn::Random;

/// The fold of each row, from 0. Classes are spread evenly; within a class, and for values, rows
/// are shuffled.
pub(crate) fn assign(target: &Target, folds: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed, 1);
    let groups: Vec<Vec<u32>> = match target {
        Target::Values(values) => vec![(0..values.len() as u32).collect()],
        Target::Classes { of, labels } => {
            let mut groups = vec![Vec::new(); labels.len()];
            for (row, &class) in of.iter().enumerate() {
                groups[class as usize].push(row as u32);
            }
            groups
        }
    };
    let rows = groups.iter().map(Vec::len).sum();
    let mut fold_of = vec![0u8; rows];
    let mut next = 0;
    for mut group in groups {
        random.shuffle(&mut group);
        for row in group {
            fold_of[row as usize] = (next % folds) as u8;
            next += 1;
        }
    }
    fold_of
}

/// How many folds there can be: as asked, but every class but the rarest should reach each.
pub(crate) fn count(target: &Target, asked: Option<usize>) -> usize {
    let rows = target.goal().rows();
    let wanted = asked.unwrap_or(if rows > 50_000 { 3 } else { 5 });
    wanted.clamp(2, 20).min(rows / 2).max(2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model_file::Labels;

    proptest! {
        #[test]
        fn folds_are_even_in_all_and_in_each_class(of in proptest::collection::vec(0u32..3, 10..200), folds in 2usize..8, seed: u64) {
            let labels = Labels::Text(vec!["a".into(), "b".into(), "c".into()]);
            let fold_of = assign(&Target::Classes { of: of.clone(), labels }, folds, seed);
            let even = |counts: &[usize]| counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1;
            let mut all = vec![0; folds];
            fold_of.iter().for_each(|&fold| all[fold as usize] += 1);
            prop_assert!(even(&all));
            for class in 0..3 {
                let mut counts = vec![0; folds];
                fold_of.iter().zip(&of).filter(|(_, c)| **c == class).for_each(|(&fold, _)| counts[fold as usize] += 1);
                prop_assert!(even(&counts));
            }
        }
    }
}
