//! Steps in containers, and the programs that run beside a step.
//!
//! A step with an image, its services and nothing else share a network. Services are workloads
//! whose ids follow from the step and whose incarnation is its attempt: starting them again after
//! a crash finds those that run. They are ended before the end of the step is recorded, once more
//! before its workspace is removed, and by their own timeout when there is no control plane.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use ondol_spec::model::{self, ServiceName, StepService};
use ondol_types::{Classified, ErrorKind, Problem, StepId, WorkloadId};
use ondol_workload::container::{Entrypoint, ImageRef};
use ondol_workload::{
    Command, ContainerSpec, EngineError, Exit, Limits, LogPosition, LogQuery, PortRequest,
    WorkloadKind, WorkloadSpec, WorkloadState,
};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use crate::Inner;
use crate::error::PipelineError;
use crate::model::{CommandWork, Run, Step, service_workloads};
use crate::workspace::{Caches, env};

/// The code of the problem that a start has which was told to stop.
pub(super) const CALLED_OFF: &str = "pipeline.step.called-off";

/// How long a service may outlive the timeout of its step.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a connection is watched for being closed at once, as it is by what only forwards it.
const SETTLE: Duration = Duration::from_millis(150);
const LAST_LINES: u64 = 8;

/// What usual images need to install packages and to give up root's rights. None of it reaches
/// beyond the container.
const CAPABILITIES: [&str; 9] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETUID",
    "SYS_CHROOT",
];

/// Where services are reached.
#[derive(Debug, Default)]
pub(super) struct Addresses(BTreeMap<ServiceName, (u16, Option<SocketAddr>)>);

impl Addresses {
    /// What a step is told of them.
    pub(super) fn variables(&self, inside: bool) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for (name, (port, outside)) in &self.0 {
            let (host, port) = match (inside, outside) {
                (true, _) => (name.to_string(), *port),
                (false, Some(address)) => (address.ip().to_string(), address.port()),
                (false, None) => continue,
            };
            all.push((format!("{}_HOST", name.variable()), host));
            all.push((format!("{}_PORT", name.variable()), port.to_string()));
        }
        all
    }
}

/// Limits as an engine takes them.
pub(super) fn limits(limits: &model::Limits) -> Limits {
    Limits {
        cpu_cores: limits.cpu,
        memory_bytes: limits.memory.map(|size| size.bytes()),
        pids: limits.pids.or(Limits::default().pids),
    }
}

/// The network of a step.
fn network(step: &StepId) -> String {
    step.to_string().to_ascii_lowercase().replace('_', "-")
}

fn container(step: &Step, image: &str) -> ContainerSpec {
    let mut container = ContainerSpec::new(ImageRef::Named(image.to_owned()));
    let network = network(&step.id);
    // A container finds itself under its own name, which must be none that a service may have.
    container.names = vec![format!("on-{network}")];
    container.network = Some(network);
    container.capabilities = CAPABILITIES.iter().map(|name| (*name).to_owned()).collect();
    container
}

/// What a service has come to.
enum Look {
    Ready,
    NotYet,
    Ended(Exit),
}

impl Inner {
    /// The container of a step that asks for one, when this installation has an engine for it.
    pub(super) async fn contained(
        &self,
        step: &Step,
        work: &CommandWork,
    ) -> Result<Option<ContainerSpec>, Problem> {
        if work.image.is_none() && work.services.is_empty() {
            return Ok(None);
        }
        let can = self.deps.engine.capabilities().await;
        let Some(engine) = can.container else {
            let what = match &work.image {
                Some(image) => format!("`{}` runs in the image `{image}`", step.title()),
                None => format!("`{}` has services beside it", step.title()),
            };
            return Err(Problem::new(
                ErrorKind::Unsupported,
                "pipeline.engine.missing",
                format!("{what}, and this installation has no container engine"),
            )
            .with_hint("install one on the server, such as Debian's package `podman` or `docker.io`, and start `ondol serve` again"));
        };
        let Some(image) = &work.image else {
            return Ok(None);
        };
        let mut container = container(step, image);
        container.work_dir = Some(env::INSIDE_WORK.to_owned());
        // Whoever the image names could not write the work directory, and what is written there
        // must be readable and removable afterwards.
        let (user, group) = (
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        );
        container.user = Some(if engine.rootless {
            "0:0".to_owned()
        } else {
            format!("{user}:{group}")
        });
        Ok(Some(container))
    }

    /// Makes the workload of a step one in a container.
    pub(super) fn put_inside(
        &self,
        run: &Run,
        step: &Step,
        container: ContainerSpec,
        spec: &mut WorkloadSpec,
    ) {
        let workspace = self.workspace(&run.id);
        let caches = Caches::of(&self.config.cache, &run.project);
        let places = [
            (workspace.reports(&step.name), "reports"),
            (caches.tools(), "cache"),
        ];
        let inside = places
            .into_iter()
            .filter_map(|(dir, name)| Some((dir, format!("{}/{name}", env::INSIDE).parse().ok()?)));
        spec.volumes.extend(inside);
        if container.user.as_deref() != Some("0:0") {
            // The image does not know this user, and so no home of it.
            spec.env
                .entry("HOME".to_owned())
                .or_insert("/tmp".to_owned());
        }
        spec.container = Some(Box::new(container));
    }

    /// Starts what runs beside a step and waits until all of it is ready.
    pub(super) async fn start_services(
        &self,
        run: &Run,
        step: &Step,
        work: &CommandWork,
        called_off: &CancellationToken,
    ) -> Result<Addresses, Problem> {
        let mut addresses = Addresses::default();
        for (name, service) in &work.services {
            let [id, _] = service_workloads(&step.id, name);
            let spec = self.service(run, step, id, name, service);
            let started = self.start_beside(spec).await?;
            if let Some(port) = service.port {
                addresses.0.insert(name.clone(), (port, started));
            }
        }
        self.reached("pipeline.step.services-started");
        let waits = work.services.iter().map(|(name, service)| {
            let address = addresses.0.get(name).and_then(|(_, address)| *address);
            self.wait_for(run, step, name, service, address)
        });
        let all = futures_util::future::try_join_all(waits);
        tokio::select! {
            ready = all => ready.map(|_| ())?,
            () = called_off.cancelled() => {
                let text = "it was called off while it waited for what runs beside it";
                return Err(Problem::new(ErrorKind::Cancelled, CALLED_OFF, text));
            }
        }
        Ok(addresses)
    }

    fn service(
        &self,
        run: &Run,
        step: &Step,
        id: WorkloadId,
        name: &ServiceName,
        service: &StepService,
    ) -> WorkloadSpec {
        let command = Command::Argv(service.args.clone());
        let mut spec = self.beside(run, step, id, WorkloadKind::KeepAlive, command, service);
        spec.labels.insert("service".to_owned(), name.to_string());
        spec.timeout = Some(step.definition.timeout() + PATIENCE);
        if let Some(port) = service.port {
            spec.port = PortRequest::Fixed(port);
        }
        let mut container = container(step, &service.image);
        container.entrypoint = Entrypoint::OfImage;
        container.names = vec![name.to_string()];
        spec.container = Some(Box::new(container));
        spec
    }

    /// What asks whether a service is ready, by a command of its own image.
    fn question(
        &self,
        run: &Run,
        step: &Step,
        name: &ServiceName,
        service: &StepService,
        health: &str,
    ) -> WorkloadSpec {
        let [_, id] = service_workloads(&step.id, name);
        let script = format!("until {{\n{health}\n}}; do sleep 1; done");
        let command = Command::Argv(vec!["/bin/sh".into(), "-c".into(), script]);
        let mut spec = self.beside(run, step, id, WorkloadKind::Once, command, service);
        spec.labels
            .insert("service".to_owned(), format!("{name}/health"));
        spec.timeout = Some(service.deadline.duration());
        spec.container = Some(Box::new(container(step, &service.image)));
        spec
    }

    fn beside(
        &self,
        run: &Run,
        step: &Step,
        id: WorkloadId,
        kind: WorkloadKind,
        command: Command,
        service: &StepService,
    ) -> WorkloadSpec {
        let attempt = u64::from(step.attempt);
        let mut spec = WorkloadSpec::new(id, attempt, run.project.clone(), kind, command);
        spec.env = service.env.clone();
        spec.limits = limits(&service.limits);
        spec.labels.insert("run".to_owned(), run.id.to_string());
        spec.labels.insert("step".to_owned(), step.name.to_string());
        spec
    }

    /// Starts a workload beside a step, after the one of an earlier attempt has ended.
    async fn start_beside(&self, spec: WorkloadSpec) -> Result<Option<SocketAddr>, Problem> {
        let id = spec.id;
        match self.deps.engine.start(spec.clone()).await {
            Ok(started) => Ok(started.address.or(started.observation.address)),
            Err(EngineError::Running { .. }) => {
                self.deps.engine.kill(&id).await?;
                let started = self.deps.engine.start(spec).await?;
                Ok(started.address.or(started.observation.address))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn wait_for(
        &self,
        run: &Run,
        step: &Step,
        name: &ServiceName,
        service: &StepService,
        address: Option<SocketAddr>,
    ) -> Result<(), Problem> {
        let [id, question] = service_workloads(&step.id, name);
        let waiting = async {
            loop {
                match self.look_at_service(&id, address).await? {
                    Look::Ready => break,
                    Look::NotYet => tokio::time::sleep(LOOK_EVERY).await,
                    Look::Ended(exit) => {
                        let what = format!("it {}", exit.describe());
                        return Err(self.not_ready(name, &what, &id).await);
                    }
                }
            }
            let Some(health) = &service.health else {
                return Ok(());
            };
            self.start_beside(self.question(run, step, name, service, health))
                .await?;
            loop {
                if let Look::Ended(exit) = self.look_at_service(&id, None).await? {
                    let what = format!("it {}", exit.describe());
                    return Err(self.not_ready(name, &what, &id).await);
                }
                match self.look_at_service(&question, None).await? {
                    Look::Ended(exit) if exit.success() => return Ok(()),
                    Look::Ended(exit) => {
                        let what = format!("`health` never succeeded: it {}", exit.describe());
                        return Err(self.not_ready(name, &what, &question).await);
                    }
                    Look::Ready | Look::NotYet => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
        };
        match tokio::time::timeout(service.deadline.duration(), waiting).await {
            Ok(ended) => ended,
            Err(_) => {
                let seconds = service.deadline.as_secs_f64();
                let what = match (&service.health, service.port) {
                    (Some(_), _) => format!("`health` did not succeed within {seconds} s"),
                    (None, Some(port)) => {
                        format!("nothing listened on port {port} within {seconds} s")
                    }
                    (None, None) => format!("it was not started within {seconds} s"),
                };
                let asked = if service.health.is_some() {
                    question
                } else {
                    id
                };
                Err(self.not_ready(name, &what, &asked).await)
            }
        }
    }

    async fn look_at_service(
        &self,
        id: &WorkloadId,
        address: Option<SocketAddr>,
    ) -> Result<Look, Problem> {
        let observed = self.deps.engine.observe(id).await?;
        let Some(observed) = observed else {
            return Err(Problem::new(
                ErrorKind::Unavailable,
                "pipeline.service.lost",
                "a service beside it has vanished",
            ));
        };
        match (observed.state, address.or(observed.address)) {
            (WorkloadState::Exited(exit), _) if exit.lost => Err(Problem::new(
                ErrorKind::Unavailable,
                "pipeline.service.lost",
                "a service beside it was lost with what ran it",
            )),
            (WorkloadState::Exited(exit), _) => Ok(Look::Ended(exit)),
            (WorkloadState::Running { .. }, Some(address)) if !accepts(address).await => {
                Ok(Look::NotYet)
            }
            (WorkloadState::Running { .. }, _) => Ok(Look::Ready),
            _ => Ok(Look::NotYet),
        }
    }

    /// Why a step cannot start, with the last words of what it waited for.
    async fn not_ready(&self, name: &ServiceName, what: &str, id: &WorkloadId) -> Problem {
        let mut said = Vec::new();
        let query = LogQuery {
            from: LogPosition::Tail(LAST_LINES),
            follow: false,
            limit: Some(LAST_LINES),
        };
        if let Ok(mut lines) = self.deps.engine.logs(id, query).await {
            while let Some(Ok(line)) = lines.next().await {
                said.push(line.text.chars().take(200).collect::<String>());
            }
        }
        let said = match said.is_empty() {
            true => String::new(),
            false => format!("; it said: {}", said.join(" | ")),
        };
        let text = format!("the service `{name}` was not ready: {what}{said}");
        Problem::new(ErrorKind::InvalidInput, "pipeline.service.unready", text)
    }

    /// Ends what runs beside a step. What is not there has ended.
    pub(super) async fn end_services(&self, step: &Step) -> Result<(), PipelineError> {
        let ids = step
            .definition
            .services()
            .flat_map(|(name, _)| service_workloads(&step.id, name));
        let ends = ids.map(|id| async move {
            match self.deps.engine.kill(&id).await {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(PipelineError::from(error)),
            }
        });
        futures_util::future::try_join_all(ends).await.map(|_| ())
    }
}

/// Whether somebody takes connections there. What only forwards them takes one and closes it at
/// once when there is nobody behind it.
async fn accepts(address: SocketAddr) -> bool {
    let connecting = tokio::net::TcpStream::connect(address);
    let Ok(Ok(mut stream)) = tokio::time::timeout(SETTLE * 4, connecting).await else {
        return false;
    };
    let mut byte = [0];
    match tokio::time::timeout(SETTLE, stream.read(&mut byte)).await {
        // Silent, as most servers are until they are asked.
        Err(_) => true,
        Ok(Ok(read)) => read > 0,
        Ok(Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_where_its_services_are() {
        let mut addresses = Addresses::default();
        let outside: SocketAddr = "127.0.0.1:20007".parse().unwrap();
        let name = |text: &str| text.parse::<ServiceName>().unwrap();
        addresses.0.insert(name("my-db"), (5432, Some(outside)));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            addresses.variables(true),
            [pair("MY_DB_HOST", "my-db"), pair("MY_DB_PORT", "5432")]
        );
        assert_eq!(
            addresses.variables(false),
            [pair("MY_DB_HOST", "127.0.0.1"), pair("MY_DB_PORT", "20007")]
        );
    }

    #[tokio::test]
    async fn a_port_that_is_closed_or_closes_at_once_is_not_ready() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (first, _) = listener.accept().await.unwrap();
            drop(first);
            let (second, _) = listener.accept().await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(second);
        });
        assert!(!accepts(address).await, "closed at once");
        assert!(accepts(address).await, "held open");
        serving.abort();
        let _ = serving.await;
        assert!(!accepts(address).await, "nobody");
    }
}
