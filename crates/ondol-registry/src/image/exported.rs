//! An image as a container engine exports it.
//!
//! The archive is read as it comes and never unpacked: no name of it becomes a path. The image
//! counts only when every byte of its configuration and of its layers has the digest that the
//! engine gave, whatever the archive says.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use flate2::{Compression, GzBuilder};
use ondol_store::blobs::Hasher;
use ondol_types::{Algorithm, Digest};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;

use super::layer::{Layer, Tee};
use crate::error::RegistryError;
use crate::model::Manifest;

/// The most bytes of one archive.
const MAX_ARCHIVE: u64 = 40 << 30;
/// More entries than this are no image.
const MAX_ENTRIES: usize = 10_000;
/// Larger entries than this are layers.
const SMALL: u64 = 1 << 20;
/// Bytes of all entries that are kept in memory; what comes after is taken for layers.
const MAX_SMALL: u64 = 64 << 20;
/// Bytes that come from a task, read on a thread that may block.
pub(super) struct Incoming {
    receiver: mpsc::Receiver<Result<Bytes, String>>,
    piece: Bytes,
    total: u64,
}

impl Incoming {
    pub(super) fn new(receiver: mpsc::Receiver<Result<Bytes, String>>) -> Self {
        Self {
            receiver,
            piece: Bytes::new(),
            total: 0,
        }
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => return Err(io::Error::other(error)),
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        self.total += length as u64;
        if self.total > MAX_ARCHIVE {
            return Err(io::Error::other(format!(
                "it has more than {MAX_ARCHIVE} bytes"
            )));
        }
        Ok(length)
    }
}

/// A layer that was looked at.
pub(super) enum Packed {
    /// Stored before, and the same.
    Known {
        /// Digest of the compressed bytes.
        digest: Digest,
        /// How many there are.
        size: u64,
    },
    /// Compressed now.
    New(Layer),
}

enum Entry {
    Small(Vec<u8>),
    Layer(Digest, Packed),
    /// What another entry is, by its name.
    Same(String),
}

/// An archive that was read.
pub(super) struct Archive {
    entries: HashMap<String, Entry>,
}

fn not_an_image(problem: impl ToString) -> RegistryError {
    RegistryError::Tree {
        path: "the image of the engine".to_owned(),
        problem: problem.to_string(),
    }
}

pub(super) type Known<'k> = &'k dyn Fn(&Digest) -> Result<Option<(Digest, u64)>, RegistryError>;

pub(super) fn read(archive: impl Read, known: Known<'_>) -> Result<Archive, RegistryError> {
    let mut archive = tar::Archive::new(archive);
    let mut entries = HashMap::new();
    let mut small = 0;
    for entry in archive.entries().map_err(not_an_image)? {
        let mut entry = entry.map_err(not_an_image)?;
        let name = name(&entry.path_bytes());
        if entries.len() >= MAX_ENTRIES {
            return Err(not_an_image("it has too many entries"));
        }
        let kind = entry.header().entry_type();
        let read = if kind.is_file() {
            let size = entry.size();
            if size <= SMALL && small + size <= MAX_SMALL {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(not_an_image)?;
                small += size;
                Entry::Small(bytes)
            } else {
                let (diff_id, packed) = pack(&mut entry, hint(&name), known)?;
                Entry::Layer(diff_id, packed)
            }
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes();
            let target = target.ok_or_else(|| not_an_image("a link names nothing"))?;
            let target = String::from_utf8_lossy(&target).into_owned();
            Entry::Same(match kind.is_symlink() {
                true => beside(&name, &target),
                false => target,
            })
        } else {
            continue;
        };
        // Of two of one name, archives mean the last; an image has no reason to have two.
        if entries.insert(name.clone(), read).is_some() {
            return Err(not_an_image(format!("it has two entries {name:?}")));
        }
    }
    Ok(Archive { entries })
}

fn name(path: &[u8]) -> String {
    let name = String::from_utf8_lossy(path);
    name.strip_prefix("./").unwrap_or(&name).to_owned()
}

/// What a symbolic link means, by text alone.
fn beside(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "" | "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The digest that an entry's name says it has.
fn hint(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    let hex = last.strip_suffix(".tar").unwrap_or(last);
    format!("sha256:{hex}").parse().ok()
}

/// Compresses a layer, or compares it with what it was when it was compressed before.
fn pack(
    content: &mut dyn Read,
    hint: Option<Digest>,
    known: Known<'_>,
) -> Result<(Digest, Packed), RegistryError> {
    let found = match &hint {
        Some(diff_id) => known(diff_id)?,
        None => None,
    };
    if let (Some(diff_id), Some((digest, size))) = (hint, found) {
        let mut plain = Tee::new(io::sink());
        io::copy(content, &mut plain).map_err(not_an_image)?;
        if plain.finish().1 != diff_id {
            return Err(not_an_image(format!(
                "a layer is not the one that its name says ({diff_id})"
            )));
        }
        return Ok((diff_id, Packed::Known { digest, size }));
    }
    let file = tempfile::NamedTempFile::new().map_err(RegistryError::io("a temporary file"))?;
    let compressed = Tee::new(io::BufWriter::new(file));
    let gzip = GzBuilder::new()
        .mtime(0)
        .write(compressed, Compression::new(6));
    let mut plain = Tee::new(gzip);
    let io = |error| RegistryError::io("the layer")(error);
    let mut buffer = vec![0; 128 << 10];
    loop {
        let length = content.read(&mut buffer).map_err(not_an_image)?;
        if length == 0 {
            break;
        }
        plain.write_all(&buffer[..length]).map_err(io)?;
    }
    let (gzip, diff_id) = plain.finish();
    let compressed = gzip.finish().map_err(io)?;
    let size = compressed.written();
    let (file, digest) = compressed.finish();
    let file = file.into_inner().map_err(|error| io(error.into_error()))?;
    let layer = Layer {
        file,
        digest,
        diff_id: diff_id.clone(),
        size,
        entries: 0,
    };
    Ok((diff_id, Packed::New(layer)))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    config: String,
    #[serde(default)]
    layers: Vec<String>,
}

/// Layers lowest first, each with the digest of its plain bytes.
pub(super) type Layers = Vec<(Digest, Packed)>;

impl Archive {
    fn follow(&self, name: &str) -> Option<(String, &Entry)> {
        let mut name = name.to_owned();
        for _ in 0..8 {
            match self.entries.get(&name)? {
                Entry::Same(other) => name.clone_from(other),
                entry => return Some((name, entry)),
            }
        }
        None
    }

    fn small(&self, name: &str) -> Result<&[u8], RegistryError> {
        match self.follow(name) {
            Some((_, Entry::Small(bytes))) => Ok(bytes),
            _ => Err(not_an_image(format!("it has no {name:?}"))),
        }
    }

    /// The configuration and the layers of the image of this id.
    pub(super) fn resolve(mut self, id: &Digest) -> Result<(Bytes, Layers), RegistryError> {
        let described: Vec<Described> =
            serde_json::from_slice(self.small("manifest.json")?).map_err(not_an_image)?;
        let [described] = &described[..] else {
            return Err(not_an_image("it is not one image"));
        };
        let config = Bytes::copy_from_slice(self.small(&described.config)?);
        let config_digest = Hasher::digest(Algorithm::Sha256, &config);
        if config_digest != *id && !self.leads_to(id, &config_digest, 3) {
            return Err(not_an_image(format!("it is {config_digest} and not {id}")));
        }
        let parsed: Value = serde_json::from_slice(&config).map_err(not_an_image)?;
        let diff_ids: Vec<Digest> = parsed["rootfs"]["diff_ids"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|id| id.as_str().unwrap_or_default().parse())
            .collect::<Result<_, _>>()
            .map_err(not_an_image)?;
        if diff_ids.len() != described.layers.len() {
            return Err(not_an_image("its configuration does not fit its layers"));
        }
        let mut had: BTreeMap<String, (Digest, Digest, u64)> = BTreeMap::new();
        let mut layers = Layers::new();
        for (expected, name) in diff_ids.into_iter().zip(&described.layers) {
            let place = self.follow(name).map(|(place, _)| place);
            let place = place.ok_or_else(|| not_an_image(format!("it has no {name:?}")))?;
            if let Some((diff_id, digest, size)) = had.get(&place) {
                check(&expected, diff_id)?;
                let (digest, size) = (digest.clone(), *size);
                layers.push((expected, Packed::Known { digest, size }));
                continue;
            }
            // Its name stays, for a layer that is there twice.
            let taken = self.entries.insert(place.clone(), Entry::Small(Vec::new()));
            let (diff_id, packed) = match taken {
                Some(Entry::Layer(diff_id, packed)) => (diff_id, packed),
                Some(Entry::Small(bytes)) => pack(&mut &bytes[..], None, &|_| Ok(None))?,
                _ => return Err(not_an_image(format!("it has no {name:?}"))),
            };
            check(&expected, &diff_id)?;
            let (digest, size) = match &packed {
                Packed::Known { digest, size } => (digest.clone(), *size),
                Packed::New(layer) => (layer.digest.clone(), layer.size),
            };
            had.insert(place, (diff_id, digest, size));
            layers.push((expected, packed));
        }
        Ok((config, layers))
    }

    /// Whether a manifest or an index of this digest is in the archive and leads to a
    /// configuration: engines that keep images as a registry does call them by that.
    fn leads_to(&self, id: &Digest, config: &Digest, depth: usize) -> bool {
        let Ok(bytes) = self.small(&format!("blobs/sha256/{}", id.hex())) else {
            return false;
        };
        if depth == 0 || Hasher::digest(Algorithm::Sha256, bytes) != *id {
            return false;
        }
        let Ok(manifest) = Manifest::parse(bytes, "") else {
            return false;
        };
        let is_its = manifest
            .blobs
            .first()
            .is_some_and(|first| first.digest == *config);
        is_its
            || manifest
                .manifests
                .iter()
                .any(|child| self.leads_to(&child.digest, config, depth - 1))
    }
}

fn check(expected: &Digest, actual: &Digest) -> Result<(), RegistryError> {
    if expected == actual {
        return Ok(());
    }
    Err(not_an_image(format!(
        "a layer is {actual} and not {expected}"
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::media;

    const CONFIG: &str = "c0nf1g.json";

    fn sha256(bytes: &[u8]) -> Digest {
        Hasher::digest(Algorithm::Sha256, bytes)
    }

    /// An image of layers, as an engine exports it: name and bytes of each entry.
    fn exported(layers: &[&[u8]]) -> (Digest, Vec<(String, Vec<u8>)>) {
        let ids: Vec<String> = layers
            .iter()
            .map(|layer| sha256(layer).to_string())
            .collect();
        let names: Vec<String> = layers
            .iter()
            .map(|layer| format!("{}.tar", sha256(layer).hex()))
            .collect();
        let config = json!({ "rootfs": { "type": "layers", "diff_ids": ids } }).to_string();
        let described = json!([{ "Config": CONFIG, "Layers": names }]).to_string();
        let id = sha256(config.as_bytes());
        let mut entries: Vec<(String, Vec<u8>)> = names
            .into_iter()
            .zip(layers.iter().map(|layer| layer.to_vec()))
            .collect();
        entries.push((CONFIG.to_owned(), config.into_bytes()));
        entries.push(("manifest.json".to_owned(), described.into_bytes()));
        (id, entries)
    }

    /// Entries whose name ends with `->` are links to their content.
    fn archive(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, bytes) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            if let Some(name) = name.strip_suffix("->") {
                header.set_size(0);
                header.set_entry_type(tar::EntryType::Symlink);
                let target = std::str::from_utf8(bytes).unwrap();
                archive.append_link(&mut header, name, target).unwrap();
            } else {
                header.set_size(bytes.len() as u64);
                // As a hostile one may write it.
                header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
                header.set_cksum();
                archive.append(&header, &bytes[..]).unwrap();
            }
        }
        archive.into_inner().unwrap()
    }

    fn take(id: &Digest, bytes: &[u8], known: Known<'_>) -> Result<Layers, String> {
        read(bytes, known)
            .and_then(|archive| archive.resolve(id))
            .map(|(_, layers)| layers)
            .map_err(|error| error.to_string())
    }

    fn none(_: &Digest) -> Result<Option<(Digest, u64)>, RegistryError> {
        Ok(None)
    }

    #[test]
    fn an_exported_image_is_its_configuration_and_its_layers() {
        let large = vec![7; SMALL as usize + 1];
        let (id, mut entries) = exported(&[b"one", &large, b"one"]);
        entries.remove(2);
        let layers = take(&id, &archive(&entries), &none).unwrap();
        assert_eq!(layers.len(), 3);
        assert_eq!(layers[0].0, layers[2].0, "an image may have a layer twice");
        let again = take(&id, &archive(&entries), &none).unwrap();
        let digest = |layers: &Layers| match &layers[1].1 {
            Packed::New(layer) => (layer.digest.clone(), layer.size),
            Packed::Known { .. } => panic!("nothing is known"),
        };
        assert_eq!(
            digest(&layers),
            digest(&again),
            "compressed to the same bytes"
        );
        // What was compressed before is compared and not compressed.
        let known = |_: &Digest| Ok(Some((sha256(b"compressed"), 5)));
        let layers = take(&id, &archive(&entries), &known).unwrap();
        assert!(matches!(&layers[1].1, Packed::Known { size: 5, .. }));
    }

    #[test]
    fn a_layer_may_be_a_link_to_another() {
        let (id, mut entries) = exported(&[b"one"]);
        let place = entries[0].0.clone();
        entries.push((
            "v1/layer.tar->".to_owned(),
            format!("../{place}").into_bytes(),
        ));
        let described = json!([{ "Config": CONFIG, "Layers": ["v1/layer.tar"] }]).to_string();
        entries[2].1 = described.into_bytes();
        assert_eq!(take(&id, &archive(&entries), &none).unwrap().len(), 1);
        entries.push(("a->".to_owned(), b"b".to_vec()));
        entries.push(("b->".to_owned(), b"a".to_vec()));
        entries[2].1 = json!([{ "Config": "a", "Layers": [] }])
            .to_string()
            .into_bytes();
        assert!(take(&id, &archive(&entries), &none).is_err(), "a circle");
    }

    #[test]
    fn an_image_may_be_called_by_its_manifest() {
        let (id, mut entries) = exported(&[b"one"]);
        let manifest = json!({
            "schemaVersion": 2,
            "config": { "mediaType": media::CONFIG, "digest": id, "size": 1 },
            "layers": [],
        });
        let manifest = manifest.to_string().into_bytes();
        let called = sha256(&manifest);
        assert!(take(&called, &archive(&entries), &none).is_err());
        entries.push((format!("blobs/sha256/{}", called.hex()), manifest));
        assert!(take(&called, &archive(&entries), &none).is_ok());
    }

    #[test]
    fn what_is_not_the_image_is_refused() {
        let large = vec![7; SMALL as usize + 1];
        let (id, entries) = exported(&[b"one", &large]);
        type Change = fn(&mut Vec<(String, Vec<u8>)>);
        let cases: &[(&str, Change)] = &[
            ("a layer is ", |entries| entries[0].1 = b"two".to_vec()),
            ("a layer is ", |entries| entries[1].1[9] = 8),
            ("it is sha256:", |entries| entries[2].1.push(b' ')),
            ("it has no \"manifest.json\"", |entries| drop(entries.pop())),
            ("it is not one image", |entries| {
                entries[3].1 = b"[]".to_vec()
            }),
            ("does not fit its layers", |entries| {
                entries[3].1 = json!([{ "Config": CONFIG, "Layers": [] }])
                    .to_string()
                    .into();
            }),
            ("it has no \"/etc/passwd\"", |entries| {
                let layers = ["/etc/passwd", "../../etc/passwd"];
                entries[3].1 = json!([{ "Config": CONFIG, "Layers": layers }])
                    .to_string()
                    .into();
            }),
            ("it has two entries", |entries| {
                let again = entries[0].clone();
                entries.push(again);
            }),
        ];
        for (why, change) in cases {
            let mut changed = entries.clone();
            change(&mut changed);
            let error = take(&id, &archive(&changed), &none).err().unwrap();
            assert!(error.contains(why), "{why}: {error}");
        }
        let whole = archive(&entries);
        assert!(take(&id, &whole[..whole.len() / 2], &none).is_err());
        // One that says by its name that it is a known layer.
        let known = |_: &Digest| Ok(Some((sha256(b"compressed"), 5)));
        let mut changed = entries.clone();
        changed[1].1[9] = 8;
        let error = take(&id, &archive(&changed), &known).err().unwrap();
        assert!(error.contains("not the one that its name says"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(at in 0..4_000_usize, byte: u8, cut in 0..4_000_usize) {
            let (id, entries) = exported(&[b"one", b"two"]);
            let mut bytes = archive(&entries);
            let length = bytes.len();
            bytes[at % length] = byte;
            bytes.truncate(length - cut % length);
            let _ = take(&id, &bytes, &none);
        }
    }
}
