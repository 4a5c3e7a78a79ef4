//! From the files of a repository to one tree: which files, their variables, `extends`, the
//! override, `include`.
//!
//! Files are bounded in size by the reader of YAML, and here in number, in nesting, and in what
//! `extends` copies, so that a small repository never becomes a large project.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ondol_types::RelPath;

use super::interpolate::{Variables, Wrong};
use super::normalize::{self, rebased, scalar};
use super::{ComposeSources, FILE_NAMES, OVERRIDE_NAMES, dotenv, merge};
use crate::detect::View;
use crate::error::{Fault, SpecError};
use crate::node::{Entry, Kind, Node, Origin};
use crate::resolve::Note;
use crate::yaml::{self, Dialect};

/// The most files that one project is read from.
const MAX_FILES: usize = 50;
/// How far `extends` and `include` may lead.
const MAX_CHAIN: usize = 16;
/// The most values that `extends` may copy.
const MAX_COPIED: usize = 200_000;

/// What was read.
pub(super) struct Loaded<'a> {
    pub(super) root: Node,
    pub(super) files: Vec<RelPath>,
    pub(super) variables: Variables<'a>,
    pub(super) notices: Vec<Note>,
}

pub(super) fn load<'a>(
    sources: &ComposeSources<'a>,
    view: &View<'_>,
) -> Result<Option<Loaded<'a>>, SpecError> {
    let Some(main) = view.first(&FILE_NAMES) else {
        return Ok(None);
    };
    let mut loader = Loader {
        view,
        variables: Variables::new(sources.secrets),
        parsed: HashMap::new(),
        generation: 0,
        files: Vec::new(),
        copied: 0,
        notices: Vec::new(),
    };
    if let Some(other) = FILE_NAMES
        .iter()
        .find(|name| **name != main && view.has(name))
    {
        loader.notices.push(
            Note::new(
                "compose-two-files",
                format!("{other} is not used: {main} is stronger"),
            )
            .hint("remove one of them"),
        );
    }
    let mut environment = sources.environment.clone();
    if let Some(name) = sources.project {
        environment.insert("COMPOSE_PROJECT_NAME".to_owned(), name.to_string());
    }
    loader.variables.weaker(environment);
    loader.env_file(".env", false)?;

    let mut chain = Vec::new();
    let mut root = loader.file(main, "", &mut chain)?;
    if let Some(over) = view.first(&OVERRIDE_NAMES) {
        loader.notices.push(
            Note::new("compose-override", format!("{over} is laid over {main}"))
                .hint("rename it when it is for developers only"),
        );
        let over = loader.file(over, "", &mut chain)?;
        merge::merge(&mut root, over, &mut Vec::new())?;
    }
    loader.include(&mut root, "", &mut chain)?;
    merge::settle(&mut root);
    Ok(Some(Loaded {
        root,
        files: loader.files,
        variables: loader.variables,
        notices: loader.notices,
    }))
}

struct Loader<'l, 'a> {
    view: &'l View<'l>,
    variables: Variables<'a>,
    /// Files with their variables replaced and their services not yet extended, by path, by the
    /// variables that counted, and by folder.
    parsed: HashMap<(String, usize, String), Arc<Node>>,
    /// Which variables count: another number with every `include`.
    generation: usize,
    files: Vec<RelPath>,
    copied: usize,
    notices: Vec<Note>,
}

fn wrong(message: String, origin: &Origin, path: &str, hint: Option<String>) -> SpecError {
    SpecError::Value(Fault {
        message,
        origin: origin.clone(),
        path: path.to_owned(),
        hint,
    })
}

/// The folder of a path, empty for the root.
fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A path in the repository, without what `rebased` puts in front.
pub(super) fn in_repository(path: &str) -> Option<RelPath> {
    path.strip_prefix("./").unwrap_or(path).parse().ok()
}

impl Loader<'_, '_> {
    /// Adds the variables of a file as the weakest layer.
    fn env_file(&mut self, path: &str, must: bool) -> Result<bool, SpecError> {
        let found = match in_repository(path) {
            Some(path) => self.view.text(path.as_str()),
            None => None,
        };
        let Some(text) = found else { return Ok(!must) };
        let layer = dotenv::parse(path.trim_start_matches("./"), &text, &self.variables)?;
        self.variables.weaker(layer);
        Ok(true)
    }

    /// One file, its services extended.
    fn file(&mut self, path: &str, dir: &str, chain: &mut Vec<String>) -> Result<Node, SpecError> {
        let as_written = self.parse(path, dir)?;
        let mut root = Node::clone(&as_written);
        let names: Vec<String> = root
            .child("services")
            .map(Node::entries)
            .unwrap_or_default()
            .iter()
            .map(|entry| entry.key.clone())
            .collect();
        // Every service extends what the file says, not what became of it, so the order of
        // services has no meaning.
        for name in names {
            let extended = self.extended(&as_written, path, dir, &name, chain)?;
            if let (Some(service), Some(extended)) = (root.get_mut(&["services", &name]), extended)
            {
                *service = extended;
            }
        }
        Ok(root)
    }

    fn parse(&mut self, path: &str, dir: &str) -> Result<Arc<Node>, SpecError> {
        let key = (path.to_owned(), self.generation, dir.to_owned());
        if let Some(node) = self.parsed.get(&key) {
            return Ok(node.clone());
        }
        let start = Origin::File {
            file: path.into(),
            line: 1,
            column: 1,
        };
        if self.parsed.len() >= MAX_FILES {
            return Err(SpecError::TooLarge(Fault {
                message: format!("the project is read from more than {MAX_FILES} files"),
                origin: start,
                path: String::new(),
                hint: None,
            }));
        }
        let bytes = self.view.bytes(path).unwrap_or_default();
        let mut root = yaml::parse_as(Dialect::Compose, path, &bytes)?;
        self.interpolate(&mut root, &mut Vec::new())?;
        normalize::file(&mut root, dir)?;
        if let Some(path) = in_repository(path)
            && !self.files.contains(&path)
        {
            self.files.push(path);
        }
        let root = Arc::new(root);
        self.parsed.insert(key, root.clone());
        Ok(root)
    }

    fn interpolate(&self, node: &mut Node, path: &mut Vec<String>) -> Result<(), SpecError> {
        let origin = node.origin.clone();
        match &mut node.kind {
            Kind::Text(text) => {
                *text =
                    self.variables
                        .replace(text, &origin)
                        .map_err(|Wrong { message, hint }| {
                            let path = path.join(".");
                            let message = format!("`{path}`: {message}");
                            wrong(message, &origin, &path, hint)
                        })?;
            }
            Kind::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    path.push(index.to_string());
                    self.interpolate(item, path)?;
                    path.pop();
                }
            }
            Kind::Map(entries) => {
                for entry in entries {
                    path.push(entry.key.clone());
                    self.interpolate(&mut entry.value, path)?;
                    path.pop();
                }
            }
            Kind::Marked(_, inner) => self.interpolate(inner, path)?,
            _ => {}
        }
        Ok(())
    }

    /// A service laid over what it extends; `None` when it extends nothing.
    fn extended(
        &mut self,
        root: &Node,
        path: &str,
        dir: &str,
        name: &str,
        chain: &mut Vec<String>,
    ) -> Result<Option<Node>, SpecError> {
        let Some(service) = root.get(&["services", name]) else {
            return Ok(None);
        };
        let Some(extends) = service.child("extends") else {
            return Ok(None);
        };
        let at = format!("services.{name}.extends");
        let mut own = service.clone();
        let extends = extends.clone();
        own.remove(&["extends"]);
        let Some(base_name) = extends.child("service").and_then(scalar) else {
            return Err(wrong(
                format!("`{at}` needs `service`"),
                &extends.origin,
                &at,
                Some("write `extends: { service: base }`".to_owned()),
            ));
        };
        let link = format!("{path}:{name}");
        if chain.contains(&link) || chain.len() >= MAX_CHAIN {
            return Err(SpecError::Meaning(Fault {
                message: match chain.contains(&link) {
                    true => format!("`{at}` leads back to itself"),
                    false => format!("`{at}` leads on over more than {MAX_CHAIN} services"),
                },
                origin: extends.origin,
                path: at,
                hint: None,
            }));
        }
        let file = extends.child("file").and_then(scalar);
        let (base_path, base_dir) = match file {
            None => (path.to_owned(), dir.to_owned()),
            Some(file) => {
                let file = self.existing(&rebased(file, dir), &extends, &at)?;
                let dir = folder(&file).to_owned();
                (file, dir)
            }
        };
        let other;
        let base_root = match file {
            None => root,
            Some(_) => {
                other = self.parse(&base_path, &base_dir)?;
                &*other
            }
        };
        chain.push(link);
        let deeper = self.extended(base_root, &base_path, &base_dir, base_name, chain)?;
        chain.pop();
        let base = deeper.or_else(|| base_root.get(&["services", base_name]).cloned());
        let Some(mut base) = base else {
            return Err(SpecError::Meaning(Fault {
                message: format!("`{at}`: there is no service `{base_name}` in {base_path}"),
                origin: extends.origin,
                path: at,
                hint: None,
            }));
        };
        self.copied = self.copied.saturating_add(size(&base));
        if self.copied > MAX_COPIED {
            return Err(SpecError::TooLarge(Fault {
                message: format!("`extends` copies more than {MAX_COPIED} values"),
                origin: extends.origin,
                path: at,
                hint: None,
            }));
        }
        merge::settle(&mut base);
        let mut place = vec!["services".to_owned(), name.to_owned()];
        merge::merge(&mut base, own, &mut place)?;
        Ok(Some(base))
    }

    /// A file that another one names.
    fn existing(&self, file: &str, from: &Node, at: &str) -> Result<String, SpecError> {
        let found = in_repository(file).filter(|path| self.view.has(path.as_str()));
        found.map(|path| path.as_str().to_owned()).ok_or_else(|| {
            wrong(
                format!("`{at}`: there is no file `{file}` in the repository"),
                &from.origin,
                at,
                Some("commit it, or correct the path".to_owned()),
            )
        })
    }

    /// Adds what `include` names, each file with variables and paths of its own.
    fn include(
        &mut self,
        root: &mut Node,
        dir: &str,
        chain: &mut Vec<String>,
    ) -> Result<(), SpecError> {
        let Some(mut include) = root.remove(&["include"]) else {
            return Ok(());
        };
        merge::settle(&mut include);
        let items = match include.kind {
            Kind::List(items) => items,
            Kind::Null => return Ok(()),
            _ => {
                return Err(wrong(
                    "`include` must be a list".to_owned(),
                    &include.origin,
                    "include",
                    None,
                ));
            }
        };
        for (index, item) in items.into_iter().enumerate() {
            let at = format!("include.{index}");
            let texts = |key: &str| -> Vec<String> {
                match item.child(key).map(|node| &node.kind) {
                    Some(Kind::List(items)) => {
                        items.iter().filter_map(scalar).map(str::to_owned).collect()
                    }
                    Some(_) => item
                        .child(key)
                        .and_then(scalar)
                        .map(str::to_owned)
                        .into_iter()
                        .collect(),
                    None => Vec::new(),
                }
            };
            let paths = match scalar(&item) {
                Some(path) => vec![path.to_owned()],
                None => texts("path"),
            };
            if paths.is_empty() {
                return Err(wrong(
                    format!("`{at}` needs `path`"),
                    &item.origin,
                    &at,
                    None,
                ));
            }
            let mut files = Vec::new();
            for path in &paths {
                files.push(self.existing(&rebased(path, dir), &item, &at)?);
            }
            let own_dir = match item.child("project_directory").and_then(scalar) {
                Some(folder) => rebased(folder, dir)
                    .trim_start_matches("./")
                    .trim_matches('.')
                    .to_owned(),
                None => folder(&files[0]).to_owned(),
            };
            if chain.contains(&files[0]) || chain.len() >= MAX_CHAIN {
                return Err(SpecError::Meaning(Fault {
                    message: format!("`{at}` leads back to `{}`", files[0]),
                    origin: item.origin,
                    path: at,
                    hint: None,
                }));
            }
            let layers = self.variables.depth();
            self.generation += 1;
            let env_files = texts("env_file");
            if env_files.is_empty() && !own_dir.is_empty() {
                self.env_file(&format!("{own_dir}/.env"), false)?;
            }
            // Of several, the last is the strongest.
            for file in env_files.iter().rev() {
                let path = rebased(file, dir);
                if !self.env_file(&path, true)? {
                    self.existing(&path, &item, &at)?;
                }
            }
            chain.push(files[0].clone());
            let mut included = self.file(&files[0], &own_dir, chain)?;
            for over in &files[1..] {
                let over = self.file(over, &own_dir, chain)?;
                merge::merge(&mut included, over, &mut Vec::new())?;
            }
            self.include(&mut included, &own_dir, chain)?;
            chain.pop();
            self.variables.cut(layers);
            self.generation += 1;
            merge::settle(&mut included);
            join(root, included, &files[0])?;
        }
        Ok(())
    }
}

/// Adds what another file defines; the same name with another meaning is a mistake.
fn join(root: &mut Node, included: Node, file: &str) -> Result<(), SpecError> {
    for section in ["services", "networks", "volumes", "secrets", "configs"] {
        let Some(more) = included.child(section) else {
            continue;
        };
        if root.child(section).is_none_or(|node| !node.is_map()) {
            root.set(&[section], Node::map(more.origin.clone()));
        }
        for entry in more.entries() {
            match root.get(&[section, &entry.key]) {
                Some(known) if crate::resolve::same(known, &entry.value) => {}
                Some(known) => {
                    return Err(SpecError::Meaning(Fault {
                        message: format!("`{section}.{}` is in {file} and differs here", entry.key),
                        origin: known.origin.clone(),
                        path: format!("{section}.{}", entry.key),
                        hint: Some(
                            "rename one of them, or lay it over by an override file".to_owned(),
                        ),
                    }));
                }
                None => {
                    if let Some(Node {
                        kind: Kind::Map(entries),
                        ..
                    }) = root.child_mut(section)
                    {
                        entries.push(Entry::clone(entry));
                    }
                }
            }
        }
    }
    Ok(())
}

fn size(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::List(items) => items.iter().map(size).sum(),
        Kind::Map(entries) => entries.iter().map(|entry| size(&entry.value)).sum(),
        Kind::Marked(_, inner) => size(inner),
        _ => 0,
    }
}

/// Variables of the files of a service, the last being the strongest.
pub(super) fn env_files(
    files: &[(RelPath, bool)],
    view: &View<'_>,
    variables: &Variables<'_>,
) -> Result<BTreeMap<String, String>, SpecError> {
    let mut all = BTreeMap::new();
    for (path, raw) in files {
        let text = view.text(path.as_str()).unwrap_or_default();
        all.extend(match raw {
            true => dotenv::parse_raw(&text, variables),
            false => dotenv::parse(path.as_str(), &text, variables)?,
        });
    }
    Ok(all)
}
