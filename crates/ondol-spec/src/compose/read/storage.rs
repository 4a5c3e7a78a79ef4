//! What is mounted: volumes, files of the repository, memory, secrets, configs.

use std::collections::{BTreeMap, BTreeSet};

use ondol_types::{Algorithm, Digest, SecretName};

use super::Context;
use super::at::{At, maybe};
use crate::compose::load::in_repository;
use crate::compose::model::{Grant, Mount, MountFrom, ResourceName, Source};
use crate::compose::policy::Permission;
use crate::compose::short;
use crate::compose::template::Template;
use crate::error::SpecError;
use crate::resolve::Note;

/// The most that is hashed to see whether mounted files changed: files of one mount, and bytes of
/// the project.
const MAX_HASHED_FILES: usize = 2_000;
const MAX_HASHED_BYTES: usize = 64 << 20;

/// Sockets that command an engine.
const SOCKETS: [&str; 4] = ["docker.sock", "podman.sock", "containerd.sock", "crio.sock"];

/// A path in the container.
fn target(at: &At<'_>, text: &str) -> Result<String, SpecError> {
    let plain = text.trim_end_matches('/');
    let good = text.starts_with('/')
        && !plain.is_empty()
        && plain.len() <= 1_024
        && !plain.contains('\0')
        && !plain.split('/').any(|part| part == "..");
    match good {
        true => Ok(plain.to_owned()),
        false => Err(at.wrong(format!(
            "must be mounted at an absolute path below `/`, found `{text}`"
        ))),
    }
}

/// The mounts of a service by path; what is left out is `None`.
pub(super) fn mounts(ctx: &Context<'_>, at: &At<'_>) -> Result<BTreeMap<String, Mount>, SpecError> {
    let mut mounts = BTreeMap::new();
    let mut put = |at: &At<'_>, mount: Option<(String, Mount)>| -> Result<(), SpecError> {
        if let Some((path, mount)) = mount
            && mounts.insert(path.clone(), mount).is_some()
        {
            return Err(at.conflict(format!("is a second mount at `{path}`"), "keep one of them"));
        }
        Ok(())
    };
    for item in at.key("volumes").map_or(Ok(Vec::new()), |at| at.items())? {
        put(&item, mount(ctx, &item)?)?;
    }
    if maybe(at, "use_api_socket", At::boolean)?.unwrap_or(false) {
        let socket = "/var/run/docker.sock";
        let mount = Mount {
            from: MountFrom::Host(socket.to_owned()),
            read_only: false,
        };
        put(at, Some((socket.to_owned(), mount)))?;
    }
    for item in at.key("tmpfs").map_or(Ok(Vec::new()), |at| at.items())? {
        put(&item, Some(memory(&item)?))?;
    }
    Ok(mounts)
}

fn mount(ctx: &Context<'_>, at: &At<'_>) -> Result<Option<(String, Mount)>, SpecError> {
    if at.node.is_map() {
        return long(ctx, at);
    }
    let parts = short::mount(at.text()?);
    let path = target(at, parts.target)?;
    let mut read_only = false;
    let mut nocopy = false;
    for option in parts.options.iter().filter(|option| !option.is_empty()) {
        match *option {
            "ro" => read_only = true,
            "nocopy" => nocopy = true,
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" | "private" | "rprivate"
            | "shared" | "rshared" | "slave" | "rslave" | "U" => {}
            other => {
                return Err(at.wrong_hint(
                    format!("has the option `{other}`, which is not known"),
                    "use `ro` or `rw`",
                ));
            }
        }
    }
    let from = match parts.source {
        None => Some(MountFrom::Anonymous),
        Some(source) if source.starts_with(['.', '/', '~']) => {
            bind(ctx, at, source, &path, &mut read_only)?
        }
        Some(source) => Some(volume(ctx, at, source, None, nocopy)?),
    };
    Ok(from.map(|from| (path, Mount { from, read_only })))
}

fn long(ctx: &Context<'_>, at: &At<'_>) -> Result<Option<(String, Mount)>, SpecError> {
    let Some(to) = at.key("target") else {
        return Err(at.wrong_hint("needs `target`", "name the path in the container"));
    };
    let path = target(&to, to.text()?)?;
    let mut read_only = maybe(at, "read_only", At::boolean)?.unwrap_or(false);
    let source = at.key("source");
    let Some(kind) = at.key("type") else {
        return Err(at.wrong_hint("needs `type`", "the types are `volume`, `bind` and `tmpfs`"));
    };
    let from = match kind.text()? {
        "tmpfs" => {
            let options = at.key("tmpfs");
            let options = options.as_ref();
            Some(MountFrom::Tmpfs {
                size: options.map_or(Ok(None), |at| maybe(at, "size", At::bytes))?,
                mode: options.map_or(Ok(None), |at| maybe(at, "mode", At::mode))?,
                options: BTreeSet::new(),
            })
        }
        "volume" => {
            let options = at.key("volume");
            let options = options.as_ref();
            let nocopy = options.map_or(Ok(None), |at| maybe(at, "nocopy", At::boolean))?;
            match source {
                None => Some(MountFrom::Anonymous),
                Some(source) => {
                    let subpath = options.and_then(|at| at.key("subpath"));
                    let name = source.text()?;
                    Some(volume(
                        ctx,
                        &source,
                        name,
                        subpath,
                        nocopy.unwrap_or(false),
                    )?)
                }
            }
        }
        "bind" => {
            let Some(source) = source else {
                return Err(at.wrong_hint("needs `source`", "name a path of the repository"));
            };
            let text = match source.text()? {
                text if text.starts_with(['.', '/', '~']) => text.to_owned(),
                text => format!("./{text}"),
            };
            bind(ctx, &source, &text, &path, &mut read_only)?
        }
        "image" | "npipe" | "cluster" => {
            return Err(kind.unsupported(
                format!(": `{}`", kind.text()?),
                "use `volume`, `bind` of files of the repository, or `tmpfs`",
            ));
        }
        _ => {
            return Err(kind.wrong("must be `volume`, `bind` or `tmpfs`"));
        }
    };
    Ok(from.map(|from| (path, Mount { from, read_only })))
}

fn volume(
    ctx: &Context<'_>,
    at: &At<'_>,
    name: &str,
    subpath: Option<At<'_>>,
    nocopy: bool,
) -> Result<MountFrom, SpecError> {
    if name.contains('/') {
        return Err(at.wrong_hint(
            format!("names `{name}`, which is no volume"),
            format!("write `./{name}` for a path of the repository"),
        ));
    }
    if !ctx.declared("volumes", name) {
        return Err(ctx.undeclared(at, "volume", "volumes", name));
    }
    let subpath = subpath
        .map(|at| {
            in_repository(at.text()?.trim_start_matches('/'))
                .ok_or_else(|| at.wrong("must be a folder inside the volume"))
        })
        .transpose()?;
    Ok(MountFrom::Volume {
        name: ctx.resource(at, name)?,
        subpath,
        nocopy,
    })
}

/// A path of the repository or of the host.
fn bind(
    ctx: &Context<'_>,
    at: &At<'_>,
    source: &str,
    path: &str,
    read_only: &mut bool,
) -> Result<Option<MountFrom>, SpecError> {
    if SOCKETS.iter().any(|socket| source.ends_with(socket)) {
        ctx.require(at, Permission::EngineSocket)?;
        return Ok(Some(MountFrom::Host(source.to_owned())));
    }
    if ["/etc/localtime", "/etc/timezone"].contains(&source) {
        let message = format!("`{source}` of the host is not mounted (`{}`)", at.path);
        ctx.notice(Note::new("compose-time-zone", message).hint("set the variable `TZ`"));
        return Ok(None);
    }
    let outside = source.starts_with(['/', '~']) || source == ".." || source.starts_with("../");
    if outside {
        ctx.require_as(
            at,
            Permission::HostMounts,
            &format!("`{}`, which mounts `{source}`,", at.path),
        )?;
        return Ok(Some(MountFrom::Host(source.to_owned())));
    }
    let relative = in_repository(source).filter(|_| source != ".");
    let there = match &relative {
        None => source == ".",
        Some(path) => ctx.view.has(path.as_str()) || ctx.view.has_folder(path.as_str()),
    };
    if !there {
        let name = path.rsplit('/').next().unwrap_or("data");
        return Err(at.wrong_hint(
            format!("mounts `{source}`, which is not in the repository"),
            format!(
                "data that outlives releases needs a named volume, such as `{name}:{path}`; a file has to be committed"
            ),
        ));
    }
    if !*read_only {
        *read_only = true;
        ctx.read_only(&at.path, source);
    }
    let content = ctx.content(relative.as_ref().map_or("", |path| path.as_str()));
    Ok(Some(MountFrom::Repository {
        path: relative,
        content,
    }))
}

/// `tmpfs`: a path, with options behind a colon.
fn memory(at: &At<'_>) -> Result<(String, Mount), SpecError> {
    let text = at.text()?;
    let (path, list) = text.split_once(':').unwrap_or((text, ""));
    let (mut size, mut mode, mut options) = (None, None, BTreeSet::new());
    for option in list.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => size = Some(At::new(&text_node(at, value), &at.path).bytes()?),
            Some(("mode", value)) => mode = Some(At::new(&text_node(at, value), &at.path).mode()?),
            Some(("uid" | "gid", value)) if value.parse::<u32>().is_ok() => {
                options.insert(option.to_owned());
            }
            None if ["noexec", "nosuid", "nodev", "exec", "rw", "ro"].contains(&option) => {
                options.insert(option.to_owned());
            }
            _ => return Err(at.wrong(format!("has the option `{option}`, which is not known"))),
        }
    }
    let from = MountFrom::Tmpfs {
        size,
        mode,
        options,
    };
    Ok((
        target(at, path)?,
        Mount {
            from,
            read_only: false,
        },
    ))
}

fn text_node(at: &At<'_>, text: &str) -> crate::node::Node {
    crate::node::Node::text(text, at.origin().clone())
}

/// Secrets or configs of a service, by path.
pub(super) fn grants(
    ctx: &Context<'_>,
    at: &At<'_>,
    section: &'static str,
    folder: &str,
) -> Result<BTreeMap<String, Grant>, SpecError> {
    let mut grants = BTreeMap::new();
    for item in at.items()? {
        let (source, at_source) = match item.key("source") {
            Some(source) => (source.text()?, source),
            None if item.node.is_map() => {
                return Err(item.wrong_hint("needs `source`", "name one of the top level"));
            }
            None => (item.text()?, item.clone()),
        };
        let noun = section.trim_end_matches('s');
        if !ctx.declared(section, source) {
            return Err(ctx.undeclared(&at_source, noun, section, source));
        }
        let place = match item.key("target") {
            Some(target) => target.string()?,
            None => source.to_owned(),
        };
        let place = match place.starts_with('/') {
            true => place,
            false => format!("{folder}{place}"),
        };
        let id = |at: &At<'_>| at.within(0, i64::from(u32::MAX) - 1).map(|id| id as u32);
        let grant = Grant {
            source: ctx.resource(&at_source, source)?,
            uid: maybe(&item, "uid", id)?,
            gid: maybe(&item, "gid", id)?,
            mode: maybe(&item, "mode", At::mode)?.unwrap_or(0o444) & !0o222,
        };
        let place = target(&item, &place)?;
        if grants.insert(place.clone(), grant).is_some() {
            return Err(item.conflict(
                format!("is a second file at `{place}`"),
                "give one of them another `target`",
            ));
        }
    }
    Ok(grants)
}

/// What a secret of the top level is.
pub(super) fn secret(
    ctx: &Context<'_>,
    at: &At<'_>,
    name: &ResourceName,
) -> Result<Source, SpecError> {
    if let Some(variable) = at.key("environment") {
        return stored(ctx, &variable, variable.text()?);
    }
    let own = maybe(at, "name", At::string)?;
    let wanted = own.as_deref().unwrap_or(name.as_str());
    if let Some(external) = at.key("external") {
        let nested = external.key("name").map(|at| at.string()).transpose()?;
        if external.node.is_map() || external.boolean()? {
            return stored(ctx, at, nested.as_deref().unwrap_or(wanted));
        }
    }
    let Some(file) = at.key("file") else {
        return Err(at.wrong_hint(
            "needs `environment`, `external` or `file`",
            "`external: true` takes it from `ondol secret set`",
        ));
    };
    let text = file.text()?;
    match in_repository(text).filter(|path| ctx.view.has(path.as_str())) {
        Some(path) => {
            ctx.notice(
                Note::new(
                    "compose-secret-committed",
                    format!("the secret `{name}` is the committed file {path}: whoever reads the code reads it"),
                )
                .hint("remove the file from the repository, and set it by `ondol secret set`"),
            );
            let content = Digest::from_bytes(
                Algorithm::Blake3,
                blake3::hash(&ctx.view.bytes(path.as_str()).unwrap_or_default()).as_bytes(),
            );
            Ok(Source::File { path, content })
        }
        None => {
            let source = stored(ctx, at, wanted)?;
            if let Source::Store(secret) = &source {
                ctx.notice(Note::new(
                    "compose-secret-file",
                    format!(
                        "{text} is not in the repository: the secret `{name}` is Ondol's `{secret}`"
                    ),
                ));
            }
            Ok(source)
        }
    }
}

/// Ondol's secret of a name; what a variable cannot have becomes `_`.
fn stored(ctx: &Context<'_>, at: &At<'_>, name: &str) -> Result<Source, SpecError> {
    let secret: SecretName = match name.parse() {
        Ok(secret) => secret,
        Err(_) => {
            let fitted: String = name
                .chars()
                .map(|c| match c.is_ascii_alphanumeric() {
                    true => c.to_ascii_uppercase(),
                    false => '_',
                })
                .collect();
            fitted
                .parse()
                .map_err(|error| at.wrong(format!("has no name in Ondol's store: {error}")))?
        }
    };
    ctx.stored(&secret);
    Ok(Source::Store(secret))
}

/// What a config of the top level is.
pub(super) fn config(ctx: &Context<'_>, at: &At<'_>) -> Result<Source, SpecError> {
    if let Some(content) = at.key("content") {
        return content.template().map(Source::Inline);
    }
    if let Some(variable) = at.key("environment") {
        let name = variable.text()?;
        return match ctx.variables.get(name) {
            Some(value) => Ok(Source::Inline(Template::from_marked(&value))),
            None => Err(variable.wrong_hint(
                format!("names the variable `{name}`, which is not set"),
                "set it in `.env`, or for the environment",
            )),
        };
    }
    let Some(file) = at.key("file") else {
        return Err(at.wrong("needs `file`, `content` or `environment`"));
    };
    let text = file.text()?;
    let path = in_repository(text).filter(|path| ctx.view.has(path.as_str()));
    match path {
        Some(path) => {
            let bytes = ctx.view.bytes(path.as_str()).unwrap_or_default();
            let content = Digest::from_bytes(Algorithm::Blake3, blake3::hash(&bytes).as_bytes());
            Ok(Source::File { path, content })
        }
        None => Err(file.wrong_hint(
            format!("names `{text}`, which is not in the repository"),
            "commit it, or correct the path",
        )),
    }
}

/// Hash over the names and the content of files below a path of the repository. `left` is what may
/// still be read for it.
pub(super) fn hash(view: &crate::detect::View<'_>, path: &str, left: &mut usize) -> Option<Digest> {
    let mut hasher = blake3::Hasher::new();
    let one = view.has(path).then_some(path);
    let files: Vec<&str> = match (one, path) {
        (Some(file), _) => vec![file],
        (None, "") => view.files().take(MAX_HASHED_FILES + 1).collect(),
        (None, folder) => view.below(folder).take(MAX_HASHED_FILES + 1).collect(),
    };
    if files.len() > MAX_HASHED_FILES {
        return None;
    }
    for file in files {
        let bytes = view.bytes(file)?;
        *left = left.checked_sub(bytes.len())?;
        hasher.update(&(file.len() as u64).to_le_bytes());
        hasher.update(file.as_bytes());
        hasher.update(blake3::hash(&bytes).as_bytes());
    }
    Some(Digest::from_bytes(
        Algorithm::Blake3,
        hasher.finalize().as_bytes(),
    ))
}

/// What may be hashed for one project.
pub(super) const fn budget() -> usize {
    MAX_HASHED_BYTES
}

/// Whether a service writes to a volume that outlives its replica.
pub(super) fn writes(mounts: &BTreeMap<String, Mount>) -> bool {
    mounts
        .values()
        .any(|mount| !mount.read_only && matches!(mount.from, MountFrom::Volume { .. }))
}
