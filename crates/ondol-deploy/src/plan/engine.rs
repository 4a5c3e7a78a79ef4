//! Which engine runs a release: a pure decision over what the specification asks for, what the
//! image is, and what this installation offers.

use ondol_spec::model::Engine as Asked;

/// What runs a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// Processes of the host.
    #[default]
    Process,
    /// Docker or Podman.
    Container,
}

/// What this installation offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Whether there is a container engine to ask.
    pub container: bool,
    /// What runs a service that does not say.
    pub preferred: EngineKind,
}

/// Why no engine can run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The key of the specification.
    pub(crate) key: &'static str,
    /// In words.
    pub(crate) problem: String,
}

/// Decides. `own_root` says in words why a root filesystem of its own is needed, and by which
/// key; `None` is an image that expects the host's.
pub(crate) fn choose(
    asked: Asked,
    own_root: Option<(&'static str, &str)>,
    offer: Offer,
) -> Result<EngineKind, Refusal> {
    let wanted = match asked {
        Asked::Kubernetes => {
            return Err(Refusal {
                key: "service.engine",
                problem: "the engine `kubernetes` is not set up here".to_owned(),
            });
        }
        Asked::Process => EngineKind::Process,
        Asked::Container => EngineKind::Container,
        Asked::Auto if own_root.is_some() => EngineKind::Container,
        Asked::Auto => offer.preferred,
    };
    match (wanted, own_root) {
        (EngineKind::Process, Some((key, why))) => Err(Refusal {
            key,
            problem: format!(
                "{why}, which the engine `process` does not have; the engine `container` has"
            ),
        }),
        (EngineKind::Container, _) if !offer.container => {
            let (key, why) = own_root.unwrap_or(("service.engine", "the engine `container` is asked for"));
            Err(Refusal {
                key,
                problem: format!(
                    "{why}, and this installation runs with `--engine process`; start it with `--engine auto` where Podman (package `podman`) or Docker is installed"
                ),
            })
        }
        (EngineKind::Container, None) => Err(Refusal {
            key: "service.engine",
            problem: "the engine `container` needs an image with a root filesystem of its own; set `build.base`, such as `docker.io/library/python:3.13-slim`, or write a Dockerfile".to_owned(),
        }),
        (wanted, _) => Ok(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Option<(&str, &str)> = Some(("build.base", "it has a root of its own"));
    const AUTO: Offer = Offer {
        container: true,
        preferred: EngineKind::Process,
    };
    const CONTAINERS: Offer = Offer {
        container: true,
        preferred: EngineKind::Container,
    };

    #[test]
    fn an_image_goes_where_it_can_run() {
        assert_eq!(choose(Asked::Auto, None, AUTO), Ok(EngineKind::Process));
        assert_eq!(choose(Asked::Auto, ROOT, AUTO), Ok(EngineKind::Container));
        assert_eq!(
            choose(Asked::Auto, ROOT, CONTAINERS),
            Ok(EngineKind::Container)
        );
        assert_eq!(
            choose(Asked::Container, ROOT, AUTO),
            Ok(EngineKind::Container)
        );
        assert_eq!(
            choose(Asked::Process, None, CONTAINERS),
            Ok(EngineKind::Process)
        );
    }

    #[test]
    fn what_cannot_run_names_the_key_and_the_remedy() {
        let refused = |asked, root, offer| choose(asked, root, offer).unwrap_err();
        let on_host = refused(Asked::Process, ROOT, AUTO);
        assert_eq!(on_host.key, "build.base");
        assert!(on_host.problem.contains("`container` has"));
        let nowhere = refused(Asked::Auto, ROOT, Offer::default());
        assert!(nowhere.problem.contains("package `podman`"), "{nowhere:?}");
        // An installation that isolates its projects does not quietly run one on the host.
        let unrooted = refused(Asked::Auto, None, CONTAINERS);
        assert_eq!(unrooted.key, "service.engine");
        assert!(unrooted.problem.contains("build.base"), "{unrooted:?}");
        assert!(
            refused(Asked::Kubernetes, None, AUTO)
                .problem
                .contains("kubernetes")
        );
    }
}
