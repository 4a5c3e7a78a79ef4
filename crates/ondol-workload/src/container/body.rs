//! From a spec to what the engine is asked to create: a pure function, because what stands here is
//! what separates programs from the host and from each other.
//!
//! Every container has no capabilities but those named, gains no privileges, sees no other
//! process, has a network of its project, a bound on processes, and no log that the engine would
//! store: the shim masks and stores it. What `inspect` of the engine shows to whoever may ask it:
//! the command, and the environment with its secrets; secret files are shown by path only.

use std::collections::HashMap;
use std::path::PathBuf;

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig, Mount,
    MountBindOptions, MountType, NetworkingConfig, PortBinding, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};

use super::image::Image;
use super::spec::{ContainerSpec, Entrypoint};
use crate::home::file_variable;
use crate::model::{PortRequest, WorkDir, WorkloadSpec};

/// Where secret files are.
pub(crate) const SECRETS_DIR: &str = "/run/ondol/secrets";

/// Where a work directory is that the workload brings.
const WORK_DIR: &str = "/work";

/// Capabilities that stay inside the container.
pub(crate) const HARMLESS: [&str; 11] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// What an engine sets when nobody asks for less.
const USUAL_LIMIT: u64 = 1 << 20;

/// What is decided before a container can be described.
pub(crate) struct Plan<'a> {
    pub(crate) spec: &'a WorkloadSpec,
    pub(crate) container: &'a ContainerSpec,
    pub(crate) image: &'a Image,
    pub(crate) labels: HashMap<String, String>,
    pub(crate) network: &'a str,
    pub(crate) host_port: Option<u16>,
    pub(crate) init: bool,
    /// The host's directory of secret files, when there are any.
    pub(crate) secrets: Option<PathBuf>,
    /// Volumes of the project as the engine calls them, with their places.
    pub(crate) volumes: Vec<(String, String, bool)>,
    /// Directories of the host that are shared, with their places, and whether only to be read.
    pub(crate) shared: Vec<(PathBuf, String, bool)>,
    /// This process's own hard limits on open files and processes.
    pub(crate) open_files: Option<u64>,
    pub(crate) processes: Option<u64>,
}

/// The directory it starts in, and whether the workload brings it.
pub(crate) fn work_dir(spec: &WorkloadSpec, container: &ContainerSpec, image: &Image) -> String {
    let own = container.work_dir.clone();
    match spec.work_dir {
        WorkDir::Fresh => own
            .or_else(|| image.work_dir.clone())
            .unwrap_or_else(|| "/".to_owned()),
        _ => own.unwrap_or_else(|| WORK_DIR.to_owned()),
    }
}

/// What is started: entrypoint and arguments as the engine takes them.
fn command(
    spec: &WorkloadSpec,
    container: &ContainerSpec,
) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let argv = spec.command.argv();
    match &container.entrypoint {
        Entrypoint::Replaced => (Some(argv), Some(Vec::new())),
        Entrypoint::OfImage if argv.is_empty() => (None, None),
        Entrypoint::OfImage => (None, Some(argv)),
        Entrypoint::Own(entrypoint) => (Some(entrypoint.clone()), Some(argv)),
    }
}

/// What is started, for messages.
pub(crate) fn program(plan: &Plan<'_>) -> String {
    let (entrypoint, arguments) = command(plan.spec, plan.container);
    let first = entrypoint
        .into_iter()
        .chain(arguments)
        .chain([plan.image.program.clone()])
        .find_map(|argv| argv.into_iter().next());
    first.unwrap_or_default()
}

/// The port that the program is to listen on.
pub(crate) fn inner_port(port: PortRequest, host_port: Option<u16>) -> Option<u16> {
    match port {
        PortRequest::Fixed(port) => Some(port),
        _ => host_port,
    }
}

fn environment(plan: &Plan<'_>) -> Vec<String> {
    let spec = plan.spec;
    let mut env: std::collections::BTreeMap<&str, String> = std::collections::BTreeMap::new();
    let image_has = |name: &str| {
        plan.image
            .env
            .iter()
            .any(|entry| entry.split('=').next() == Some(name))
    };
    for (name, value) in [("LANG", "C.UTF-8"), ("TMPDIR", "/tmp")] {
        if !image_has(name) {
            env.insert(name, value.to_owned());
        }
    }
    env.extend(
        spec.env
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone())),
    );
    for (name, value) in &spec.secret_env {
        env.insert(name, value.expose().clone());
    }
    if let Some(port) = inner_port(spec.port, plan.host_port) {
        env.insert("PORT", port.to_string());
    }
    env.insert("ONDOL_WORKLOAD_ID", spec.id.to_string());
    env.insert("ONDOL_INCARNATION", spec.incarnation.to_string());
    env.insert("ONDOL_PROJECT", spec.project.to_string());
    if plan.secrets.is_some() {
        env.insert("ONDOL_SECRETS_DIR", SECRETS_DIR.to_owned());
    }
    let files = spec.secret_files.keys().filter_map(|path| {
        let variable = file_variable(path)?;
        Some((variable, format!("{SECRETS_DIR}/{}", path.as_str())))
    });
    let files: Vec<(String, String)> = files.collect();
    env.extend(
        files
            .iter()
            .map(|(name, file)| (name.as_str(), file.clone())),
    );
    env.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn bind(source: &std::path::Path, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        bind_options: Some(MountBindOptions {
            propagation: Some(bollard::models::MountBindOptionsPropagationEnum::RPRIVATE),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }
}

fn volume(name: Option<&str>, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: name.map(str::to_owned),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

fn mounts(plan: &Plan<'_>, work_dir: &str) -> Vec<Mount> {
    let mut mounts = Vec::new();
    match &plan.spec.work_dir {
        WorkDir::Fresh => {}
        // A volume without a name is removed with its container, and can be filled before the start
        // also when the root filesystem is read-only.
        WorkDir::CopyOf(_) => mounts.push(volume(None, work_dir, false)),
        WorkDir::Existing(dir) => mounts.push(bind(dir, work_dir, false)),
    }
    for (dir, target, read_only) in &plan.shared {
        mounts.push(bind(dir, target, *read_only));
    }
    for (name, target, read_only) in &plan.volumes {
        mounts.push(volume(Some(name), target, *read_only));
    }
    if let Some(dir) = &plan.secrets {
        mounts.push(bind(dir, SECRETS_DIR, true));
    }
    mounts
}

fn ulimits(plan: &Plan<'_>) -> Option<Vec<ResourcesUlimits>> {
    // Only where this host allows less than engines set by themselves, which would then fail.
    let limit = |name: &str, most: Option<u64>| {
        let most = most.filter(|most| *most < USUAL_LIMIT)?;
        let value = i64::try_from(most).ok();
        Some(ResourcesUlimits {
            name: Some(name.to_owned()),
            soft: value,
            hard: value,
        })
    };
    let limits: Vec<ResourcesUlimits> = [
        limit("nofile", plan.open_files),
        limit("nproc", plan.processes),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!limits.is_empty()).then_some(limits)
}

/// The container, whole.
pub(crate) fn body(plan: Plan<'_>) -> ContainerCreateBody {
    let (spec, container) = (plan.spec, plan.container);
    let work_dir = work_dir(spec, container, plan.image);
    let (entrypoint, cmd) = command(spec, container);
    let mut tmpfs: HashMap<String, String> = container
        .scratch
        .iter()
        .map(|path| (path.clone(), "rw,nosuid,nodev,mode=1777".to_owned()))
        .collect();
    if container.read_only_root {
        for path in ["/tmp", "/run"] {
            tmpfs
                .entry(path.to_owned())
                .or_insert_with(|| "rw,nosuid,nodev,mode=1777".to_owned());
        }
    }
    let mut ports = HashMap::new();
    let inner = inner_port(spec.port, plan.host_port);
    if let (Some(inner), Some(host)) = (inner, plan.host_port) {
        let binding = PortBinding {
            host_ip: Some("127.0.0.1".to_owned()),
            host_port: Some(host.to_string()),
        };
        ports.insert(format!("{inner}/tcp"), Some(vec![binding]));
    }
    let bytes = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let host = HostConfig {
        memory: spec.limits.memory_bytes.map(bytes),
        // With its swap: the same number means that there is none.
        memory_swap: spec.limits.memory_bytes.map(bytes),
        nano_cpus: spec.limits.cpu_cores.map(|cores| (cores * 1e9) as i64),
        pids_limit: spec.limits.pids.map(i64::from),
        ulimits: ulimits(&plan),
        init: Some(plan.init),
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        network_mode: Some(plan.network.to_owned()),
        port_bindings: Some(ports),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        auto_remove: Some(false),
        mounts: Some(mounts(&plan, &work_dir)),
        tmpfs: Some(tmpfs),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(container.capabilities.iter().cloned().collect()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        privileged: Some(false),
        readonly_rootfs: Some(container.read_only_root),
        ipc_mode: Some("private".to_owned()),
        sysctls: Some(
            // So that a program without rights can listen on port 80 of its own network.
            [("net.ipv4.ip_unprivileged_port_start", "0")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        ),
        ..HostConfig::default()
    };
    let endpoint = EndpointSettings {
        aliases: Some(container.names.clone()),
        ..EndpointSettings::default()
    };
    ContainerCreateBody {
        hostname: Some(
            container
                .names
                .first()
                .cloned()
                .unwrap_or_else(|| spec.project.to_string()),
        ),
        user: container.user.clone(),
        env: Some(environment(&plan)),
        entrypoint,
        cmd,
        image: Some(plan.image.id.clone()),
        working_dir: Some(work_dir),
        exposed_ports: inner.map(|port| vec![format!("{port}/tcp")]),
        labels: Some(plan.labels),
        tty: Some(false),
        open_stdin: Some(false),
        // Whether a program is well is asked by who needs to know.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        host_config: Some(host),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some([(plan.network.to_owned(), endpoint)].into()),
        }),
        ..ContainerCreateBody::default()
    }
}

#[cfg(test)]
mod tests {
    use ondol_types::{Secret, WorkloadId};

    use super::super::spec::ImageRef;
    use super::*;
    use crate::model::{Command, WorkloadKind};

    fn spec() -> WorkloadSpec {
        let command = Command::Argv(vec!["serve".into(), "--fast".into()]);
        let id = WorkloadId::derived("body");
        WorkloadSpec::new(
            id,
            3,
            "shop".parse().unwrap(),
            WorkloadKind::KeepAlive,
            command,
        )
    }

    fn make(spec: &WorkloadSpec, container: &ContainerSpec, image: &Image) -> ContainerCreateBody {
        body(Plan {
            spec,
            container,
            image,
            labels: HashMap::new(),
            network: "net",
            host_port: Some(20_001),
            init: true,
            secrets: None,
            volumes: vec![("ondol-x.shop.data".into(), "/data".into(), false)],
            shared: Vec::new(),
            open_files: Some(20_000),
            processes: Some(USUAL_LIMIT),
        })
    }

    fn container() -> ContainerSpec {
        ContainerSpec::new(ImageRef::Named("x".into()))
    }

    #[test]
    fn nothing_of_the_host_is_inside_unless_named() {
        let mut spec = spec();
        spec.port = PortRequest::Auto;
        let made = make(&spec, &container(), &Image::default());
        let host = made.host_config.unwrap();
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.cap_add, Some(Vec::new()));
        assert_eq!(host.privileged, Some(false));
        assert_eq!(
            host.security_opt,
            Some(vec!["no-new-privileges".to_owned()])
        );
        assert_eq!(host.network_mode.as_deref(), Some("net"));
        assert_eq!(
            (host.pid_mode, host.userns_mode, host.binds),
            (None, None, None)
        );
        assert_eq!(host.devices, None);
        let mounts = host.mounts.unwrap();
        assert!(
            mounts
                .iter()
                .all(|mount| mount.typ == Some(MountType::VOLUME))
        );
        assert!(host.pids_limit.is_some_and(|limit| limit > 0));
        assert_eq!(host.log_config.unwrap().typ.as_deref(), Some("none"));
        let ports = host.port_bindings.unwrap();
        let bindings = ports["20001/tcp"].as_ref().unwrap();
        assert_eq!(bindings[0].host_ip.as_deref(), Some("127.0.0.1"));
        let ulimits = host.ulimits.unwrap();
        assert_eq!(ulimits.len(), 1, "only what the host has less of");
        assert_eq!(ulimits[0].hard, Some(20_000));
    }

    #[test]
    fn a_fixed_port_is_the_programs_and_the_hosts_is_another() {
        let mut spec = spec();
        spec.port = PortRequest::Fixed(80);
        let made = make(&spec, &container(), &Image::default());
        assert!(made.env.unwrap().contains(&"PORT=80".to_owned()));
        let ports = made.host_config.unwrap().port_bindings.unwrap();
        let bindings = ports["80/tcp"].as_ref().unwrap();
        assert_eq!(bindings[0].host_port.as_deref(), Some("20001"));
    }

    #[test]
    fn the_command_replaces_or_extends_what_the_image_says() {
        let words =
            |list: &[&str]| Some(list.iter().map(|word| word.to_string()).collect::<Vec<_>>());
        let with = |entrypoint: Entrypoint, command: &[&str]| {
            let mut spec = spec();
            spec.command = Command::Argv(command.iter().map(|word| word.to_string()).collect());
            let mut container = container();
            container.entrypoint = entrypoint;
            let made = make(&spec, &container, &Image::default());
            (made.entrypoint, made.cmd)
        };
        assert_eq!(
            with(Entrypoint::Replaced, &["a", "b"]),
            (words(&["a", "b"]), words(&[]))
        );
        assert_eq!(with(Entrypoint::OfImage, &["a"]), (None, words(&["a"])));
        assert_eq!(with(Entrypoint::OfImage, &[]), (None, None));
        assert_eq!(
            with(Entrypoint::Own(vec!["e".into()]), &["a"]),
            (words(&["e"]), words(&["a"]))
        );
    }

    #[test]
    fn secrets_win_over_the_rest_and_files_are_only_a_path() {
        let mut spec = spec();
        spec.env.insert("TOKEN".into(), "public".into());
        spec.secret_env
            .insert("TOKEN".into(), Secret::new("s3cret".to_owned()));
        let container = container();
        let image = Image {
            env: vec!["LANG=de_DE".into()],
            ..Image::default()
        };
        let made = body(Plan {
            spec: &spec,
            container: &container,
            image: &image,
            labels: HashMap::new(),
            network: "net",
            host_port: None,
            init: false,
            secrets: Some("/data/w/secrets".into()),
            volumes: Vec::new(),
            shared: Vec::new(),
            open_files: None,
            processes: None,
        });
        let env = made.env.unwrap();
        assert!(
            env.contains(&"TOKEN=s3cret".to_owned()) && !env.iter().any(|e| e.contains("public"))
        );
        assert!(
            !env.iter().any(|entry| entry.starts_with("LANG=")),
            "the image has one"
        );
        let mounts = made.host_config.unwrap().mounts.unwrap();
        assert_eq!((mounts.len(), mounts[0].read_only), (1, Some(true)));
    }

    #[test]
    fn a_read_only_root_leaves_places_to_write() {
        let mut container = container();
        container.read_only_root = true;
        container.scratch = vec!["/var/cache/x".into()];
        let made = make(&spec(), &container, &Image::default());
        let host = made.host_config.unwrap();
        assert_eq!(host.readonly_rootfs, Some(true));
        let mut places: Vec<String> = host.tmpfs.unwrap().into_keys().collect();
        places.sort();
        assert_eq!(places, ["/run", "/tmp", "/var/cache/x"]);
    }
}
