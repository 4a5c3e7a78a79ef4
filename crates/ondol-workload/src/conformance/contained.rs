//! What a root filesystem of its own means: cases that engines without images answer with a clear
//! refusal.

use ondol_types::Secret;

use super::Bench;
use crate::container::{ContainerSpec, Entrypoint, ImageRef, NamedVolume};
use crate::error::EngineError;
use crate::model::{Command, WorkDir, WorkloadSpec};

/// True when the engine has images. When it has none, it must say so and name what has.
async fn has_images(bench: &Bench) -> bool {
    let can = bench.engine.capabilities().await.container.is_some();
    assert_eq!(can, bench.container.is_some());
    if !can {
        let mut spec = bench.script("true");
        let image = ImageRef::Named("localhost/nothing".into());
        spec.container = Some(Box::new(ContainerSpec::new(image)));
        match bench.engine.start(spec).await {
            Err(EngineError::Spec { problem, .. }) => {
                assert!(problem.contains("container engine"), "{problem}")
            }
            other => panic!("not refused: {other:?}"),
        }
    }
    can
}

fn change(spec: &mut WorkloadSpec, change: impl FnOnce(&mut ContainerSpec)) {
    if let Some(container) = spec.container.as_deref_mut() {
        change(container);
    }
}

/// An engine for images runs nothing without one.
pub async fn an_image_is_asked_for(bench: Bench) {
    if !has_images(&bench).await {
        return;
    }
    let mut spec = bench.script("true");
    spec.container = None;
    match bench.engine.start(spec).await {
        Err(EngineError::Spec { problem, .. }) => assert!(problem.contains("image"), "{problem}"),
        other => panic!("not refused: {other:?}"),
    }
    let mut spec = bench.script("true");
    change(&mut spec, |container| {
        container.image = ImageRef::Named("localhost/ondol-no-such-image:1".into());
    });
    match bench.engine.start(spec.clone()).await {
        Err(EngineError::Image { image, .. }) => assert!(image.contains("no-such-image")),
        other => panic!("not refused: {other:?}"),
    }
    assert!(matches!(bench.engine.observe(&spec.id).await, Ok(None)));
}

/// Of the kernel's capabilities, devices, processes and sockets of the host, nothing is inside.
pub async fn nothing_of_the_host_is_inside(bench: Bench) {
    if !has_images(&bench).await {
        return;
    }
    let spec = bench.script(
        "grep -E '^(CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status
         for path in /run/podman/podman.sock /var/run/docker.sock /run/docker.sock /dev/mem /dev/kvm /dev/vda; do
             test -e $path && echo \"sees $path\"
         done
         ls -d /proc/[0-9]* | wc -l
         mount -t tmpfs none /mnt 2>/dev/null && echo mounted
         echo x > /proc/sys/kernel/hostname && echo renamed
         mknod /tmp/device c 1 1 2>/dev/null && echo made a device; echo end",
    );
    bench.run(&spec).await;
    let out = bench.stdout(&spec.id).await;
    let status = |name: &str| {
        let line = out.lines().find_map(|line| line.strip_prefix(name));
        line.map(|line| line.trim_start_matches(':').trim().to_owned())
    };
    for name in ["CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(name).as_deref(), Some("0000000000000000"), "{out}");
    }
    assert_eq!(status("NoNewPrivs").as_deref(), Some("1"), "{out}");
    assert_eq!(status("Seccomp").as_deref(), Some("2"), "{out}");
    for word in ["sees ", "mounted", "renamed", "made a device"] {
        assert!(!out.contains(word), "{out}");
    }
    let processes = out.lines().find_map(|line| line.trim().parse::<u32>().ok());
    assert!(processes.is_some_and(|count| count < 10), "{out}");
}

/// What reaches beyond the container is refused, and what stays inside can be asked for.
pub async fn capabilities_are_given_by_name(bench: Bench) {
    if !has_images(&bench).await {
        return;
    }
    let script = "touch file; chown 1000:1000 file && stat -c %u file";
    let without = bench.script(script);
    assert!(!bench.run(&without).await.success());
    let mut with = bench.script(script);
    change(&mut with, |container| {
        container.capabilities.insert("CHOWN".into());
    });
    assert!(bench.run(&with).await.success());
    assert_eq!(bench.stdout(&with.id).await, "1000");
    for name in ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "ALL", "chown"] {
        let mut spec = bench.script("true");
        change(&mut spec, |container| {
            container.capabilities.insert(name.into());
        });
        match bench.engine.start(spec).await {
            Err(EngineError::Forbidden { problem, .. }) => assert!(problem.contains(name)),
            other => panic!("{name} not refused: {other:?}"),
        }
    }
}

/// Directories of the host are not shared, whichever way they are asked for.
pub async fn directories_of_the_host_are_refused(bench: Bench, shared: std::path::PathBuf) {
    if !has_images(&bench).await {
        return;
    }
    let mut work = bench.script("true");
    work.work_dir = WorkDir::Existing("/etc".into());
    let mut volume = bench.script("true");
    if let Ok(inside) = "etc".parse() {
        volume.volumes.push(("/etc".into(), inside));
    }
    // A link out of a directory that may be shared.
    let link = shared.join("link");
    std::os::unix::fs::symlink("/etc", &link).unwrap_or_else(|error| panic!("{error}"));
    let mut linked = bench.script("true");
    linked.work_dir = WorkDir::Existing(link);
    for spec in [work, volume, linked] {
        match bench.engine.start(spec).await {
            Err(EngineError::Forbidden { problem, .. }) => {
                assert!(problem.contains("may not see"), "{problem}")
            }
            other => panic!("not refused: {other:?}"),
        }
    }
}

/// A root filesystem that cannot be written leaves places to write, and its own files are the
/// image's at each start.
pub async fn the_root_can_be_read_only(bench: Bench) {
    if !has_images(&bench).await {
        return;
    }
    let script = "touch /file 2>/dev/null && echo wrote root; touch /tmp/file && echo wrote tmp; touch /cache/file && echo wrote cache; echo end";
    let mut spec = bench.script(script);
    change(&mut spec, |container| {
        container.read_only_root = true;
        container.scratch.push("/cache".into());
        container.work_dir = Some("/tmp".into());
    });
    bench.run(&spec).await;
    assert_eq!(bench.stdout(&spec.id).await, "wrote tmp\nwrote cache\nend");
}

/// A user without rights owns what the workload brings, and reads its secrets.
pub async fn a_user_without_rights(bench: Bench, given: std::path::PathBuf) {
    if !has_images(&bench).await {
        return;
    }
    std::fs::write(given.join("input"), "brought").unwrap_or_else(|error| panic!("{error}"));
    let mut spec = bench.script(
        "id -u; id -g; pwd; cat input; echo; echo changed > input && echo writable; cat \"$ONDOL_SECRETS_DIR/a/key\" | wc -c
         echo > \"$ONDOL_SECRETS_DIR/a/key\" 2>/dev/null && echo wrote a secret
         busybox httpd -f -p 80 -h / & until grep -q ' 0A ' /proc/net/tcp /proc/net/tcp6; do sleep 0.05; done; echo listens; kill $!",
    );
    spec.work_dir = WorkDir::CopyOf(given);
    spec.timeout = Some(std::time::Duration::from_secs(60));
    if let Ok(path) = "a/key".parse() {
        let value = Secret::new("some secret".to_owned());
        spec.secret_files.insert(path, value);
    }
    change(&mut spec, |container| {
        container.user = Some("1000:1001".into());
        container.work_dir = Some("/srv/app".into());
        container.read_only_root = true;
    });
    bench.run(&spec).await;
    let out = bench.stdout(&spec.id).await;
    assert_eq!(out, "1000\n1001\n/srv/app\nbrought\nwritable\n11\nlistens");
}

/// The image's entrypoint and command are kept, extended or replaced.
pub async fn commands_of_images(bench: Bench) {
    if !has_images(&bench).await {
        return;
    }
    let words = |list: &[&str]| Command::Argv(list.iter().map(|word| word.to_string()).collect());
    let cases = [
        (Entrypoint::OfImage, words(&[]), "image: own words"),
        (Entrypoint::OfImage, words(&["given"]), "image: given"),
        (
            Entrypoint::Own(vec!["echo".into(), "own:".into()]),
            words(&["given"]),
            "own: given",
        ),
        (Entrypoint::Replaced, words(&["echo", "alone"]), "alone"),
    ];
    for (entrypoint, command, expected) in cases {
        let mut spec = bench.script("");
        spec.command = command;
        change(&mut spec, |container| {
            container.entrypoint = entrypoint.clone()
        });
        let exit = bench.run(&spec).await;
        assert!(exit.success(), "{entrypoint:?}: {exit:?}");
        assert_eq!(bench.stdout(&spec.id).await, expected, "{entrypoint:?}");
    }
}

/// Volumes of a project outlive workloads, are shared within the project, and are no other's.
pub async fn volumes_belong_to_a_project(bench: Bench) {
    if !has_images(&bench).await {
        return;
    }
    let with = |script: &str, project: &str, read_only: bool| {
        let mut spec = bench.script(script);
        if let Ok(project) = project.parse() {
            spec.project = project;
        }
        change(&mut spec, |container| {
            container.volumes.push(NamedVolume {
                name: "state".into(),
                target: "/var/lib/state".into(),
                read_only,
            });
        });
        spec
    };
    let first = with("echo kept > /var/lib/state/file", "conformance", false);
    assert!(bench.run(&first).await.success());
    if let Err(error) = bench.engine.remove(&first.id).await {
        panic!("{error:?}");
    }
    let script =
        "cat /var/lib/state/file; touch /var/lib/state/more 2>/dev/null && echo wrote; true";
    for (project, read_only, expected) in [
        ("conformance", true, "kept"),
        ("conformance", false, "kept\nwrote"),
        ("conformance-other", false, "wrote"),
    ] {
        let spec = with(script, project, read_only);
        bench.run(&spec).await;
        assert_eq!(
            bench.stdout(&spec.id).await,
            expected,
            "{project} {read_only}"
        );
    }
}
