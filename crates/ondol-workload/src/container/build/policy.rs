//! What no Dockerfile may ask an engine for. Engines do two things for a Dockerfile outside of what
//! they are told about a build: they give a command the network of the host when its own flag asks
//! for it, and they fetch addresses that `ADD` names themselves, from the host.
//!
//! The file is looked at before it is sent, and every step again when the engine begins it: steps
//! come from base images too. It is read as broadly as any engine reads it; what hides behind a
//! variable is refused like what it may hide.

/// What is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The line, from one.
    pub(super) line: usize,
    pub(super) problem: &'static str,
}

const NETWORK: &str = "a command of a build may not be in the network of the host";
const SECURITY: &str = "a command of a build may not run without its confinement";
const FETCH: &str =
    "`ADD` of an address or a variable lets the engine read from the host's network";

/// Checks a whole Dockerfile.
pub(super) fn check(dockerfile: &str) -> Result<(), Refusal> {
    let mut whole = String::new();
    let mut begun = 0;
    for (index, line) in dockerfile.lines().enumerate() {
        let refused = |problem| Refusal {
            line: index + 1,
            problem,
        };
        // By itself too: what is part of another instruction differs between engines.
        step(line).map_err(refused)?;
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if whole.is_empty() {
            begun = index + 1;
        }
        match text.strip_suffix(['\\', '`']) {
            Some(part) => {
                whole.push_str(part);
                whole.push(' ');
            }
            None => {
                whole.push_str(text);
                let line = begun;
                step(&whole).map_err(|problem| Refusal { line, problem })?;
                whole.clear();
            }
        }
    }
    step(&whole).map_err(|problem| Refusal {
        line: begun,
        problem,
    })
}

/// Checks one instruction.
pub(super) fn step(instruction: &str) -> Result<(), &'static str> {
    let mut words = instruction.split_whitespace().peekable();
    while words
        .peek()
        .is_some_and(|word| word.eq_ignore_ascii_case("onbuild"))
    {
        words.next();
    }
    let name = words.next().unwrap_or_default().to_ascii_lowercase();
    match name.as_str() {
        "run" => {
            for word in words {
                // Engines take quotes out of flags.
                let flag: String = word
                    .chars()
                    .filter(|c| !['"', '\'', '\\', '`'].contains(c))
                    .collect();
                if !flag.starts_with("--") {
                    break;
                }
                if let Some(network) = flag.strip_prefix("--network")
                    && !["=none", "=default"].contains(&network)
                {
                    return Err(NETWORK);
                }
                if let Some(security) = flag.strip_prefix("--security")
                    && security != "=sandbox"
                {
                    return Err(SECURITY);
                }
                if flag.starts_with("--$") || flag.starts_with("--device") {
                    return Err(SECURITY);
                }
            }
            Ok(())
        }
        "add" => {
            let fetches = words
                .any(|word| word.contains("://") || word.contains('$') || word.contains("git@"));
            if fetches { Err(FETCH) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_out_of_a_build_is_refused_however_it_is_written() {
        for (text, line) in [
            ("FROM a\nRUN --network=host x", 2),
            (
                "FROM a\nrun --mount=type=cache,target=/x \\\n  --network=host x",
                2,
            ),
            ("FROM a\nRUN \\\n# comment\n\n--net\"work\"=host x", 2),
            ("ARG N=host\nRUN --network=$N x", 2),
            ("# escape=`\nRUN `\n--network=host x", 2),
            ("ONBUILD RUN --network=host x", 1),
            ("RUN --security=insecure x", 1),
            ("RUN --device=/dev/kvm x", 1),
            ("ADD http://127.0.0.1:7070/x /x", 1),
            ("ADD --chown=1:1 [\"https://x/y\", \"/z\"]", 1),
            ("ADD $WHERE /x", 1),
            ("ADD git@host:a/b /x", 1),
            ("RUN <<E\nx \\\nE\nRUN --network=host y", 4),
            ("RUN \\", 0),
        ] {
            let found = check(text).err().map_or(0, |refusal| refusal.line);
            assert_eq!(found, line, "{text}");
        }
    }

    #[test]
    fn what_is_usual_is_not() {
        let usual = "FROM --platform=linux/amd64 a AS b\nRUN --network=none make && curl http://x/ --network=host\n\
                     RUN echo --network=host\nRUN --mount=type=secret,id=A cat $B\nADD a.tar.gz ./dir /x/\nCOPY --from=b $X /y\n";
        assert_eq!(check(usual), Ok(()));
    }
}
