//! What somebody probably meant.

/// The candidate nearest to `text`, if it is near enough to be worth a suggestion.
pub(crate) fn nearest<'a>(
    text: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let text = text.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&text, &candidate.to_ascii_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| {
            let longer = text.chars().count().max(candidate.chars().count());
            let prefix =
                text.len() >= 3 && (candidate.starts_with(&text) || text.starts_with(candidate));
            *distance <= longer.div_ceil(3).min(3) || prefix
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
