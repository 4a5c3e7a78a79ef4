//! Archives that go to an engine, made while they are sent: an image of the store, and the files
//! of a work directory. Neither is ever whole in memory or on disk.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use ondol_types::Digest;
use tokio::sync::mpsc;

use super::image::{ImageSource, StoredImage};

/// Pieces on their way. Few: whoever makes them waits for whoever sends them.
const PIECES: usize = 4;

const PIECE_BYTES: usize = 256 << 10;

/// The deepest tree that is sent; deeper ones are loops.
const MAX_DEPTH: usize = 256;

const BLOCK: u64 = 512;

/// Bytes as they come.
pub type Pieces = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, io::Error>> + Send>>;

fn pieces(mut receiver: mpsc::Receiver<Result<Bytes, io::Error>>) -> Pieces {
    Box::pin(stream::poll_fn(move |context| receiver.poll_recv(context)))
}

/// An image as `docker save` writes it: the one form that Docker and Podman of every age load.
/// `reference` is the name it gets. When the source fails, so does the stream, and the engine
/// takes nothing.
pub(crate) fn image(
    source: std::sync::Arc<dyn ImageSource>,
    image: StoredImage,
    reference: String,
) -> Pieces {
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        if let Err(error) = send_image(&sender, &*source, &image, &reference).await {
            let _ = sender.send(Err(error)).await;
        }
    });
    pieces(receiver)
}

type Sender = mpsc::Sender<Result<Bytes, io::Error>>;

async fn send(sender: &Sender, bytes: impl Into<Bytes>) -> io::Result<()> {
    let sent = sender.send(Ok(bytes.into())).await;
    sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

async fn send_image(
    sender: &Sender,
    source: &dyn ImageSource,
    image: &StoredImage,
    reference: &str,
) -> io::Result<()> {
    let config_name = format!("{}.json", image.id().hex());
    let layer_name = |digest: &Digest| format!("{}.tar", digest.hex());
    let names: Vec<String> = image.layers.iter().map(|l| layer_name(&l.digest)).collect();
    let manifest = serde_json::json!([{
        "Config": config_name, "RepoTags": [reference], "Layers": names,
    }]);
    let manifest = serde_json::to_vec(&manifest)?;
    for (name, bytes) in [
        ("manifest.json", Bytes::from(manifest)),
        (config_name.as_str(), Bytes::from(image.config.clone())),
    ] {
        let length = bytes.len() as u64;
        send(sender, header(name, length)?).await?;
        send(sender, bytes).await?;
        send(sender, padding(length)).await?;
    }
    let mut sent = std::collections::BTreeSet::new();
    for layer in &image.layers {
        if !sent.insert(layer.digest.to_string()) {
            continue;
        }
        send(sender, header(&layer_name(&layer.digest), layer.bytes)?).await?;
        let mut left = layer.bytes;
        let mut content = source.blob(&layer.digest).await.map_err(io::Error::other)?;
        while let Some(piece) = content.next().await {
            let piece = piece?;
            left = left.checked_sub(piece.len() as u64).ok_or_else(|| {
                io::Error::other(format!("the layer {} is longer than it says", layer.digest))
            })?;
            send(sender, piece).await?;
        }
        if left > 0 {
            return Err(io::Error::other(format!(
                "the layer {} is cut short",
                layer.digest
            )));
        }
        send(sender, padding(layer.bytes)).await?;
    }
    send(sender, vec![0; 2 * BLOCK as usize]).await
}

fn header(name: &str, length: u64) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(length);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}

fn padding(length: u64) -> Vec<u8> {
    vec![0; ((BLOCK - length % BLOCK) % BLOCK) as usize]
}

/// The files below a directory, as those of one user and group: modes are kept, links stay links,
/// sockets and devices are left out.
pub(crate) fn directory(dir: PathBuf, owner: (u32, u32)) -> Pieces {
    pieces_of(move |output| {
        let mut archive = tar::Builder::new(output);
        append(&mut archive, &dir, Path::new("."), owner, 0)?;
        archive.finish()
    })
}

/// What a function writes, on a thread that may block, as pieces. An error ends them.
pub(crate) fn pieces_of(
    write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> Pieces {
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut output = Output {
            sender: sender.clone(),
            piece: Vec::new(),
        };
        let written = write(&mut output).and_then(|()| output.flush());
        if let Err(error) = written {
            let _ = sender.blocking_send(Err(error));
        }
    });
    pieces(receiver)
}

struct Output {
    sender: Sender,
    piece: Vec<u8>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        let sent = self.sender.blocking_send(Ok(piece));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    dir: &Path,
    inside: &Path,
    owner: (u32, u32),
    depth: usize,
) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the tree is nested too deeply",
        ));
    }
    let metadata = fs::symlink_metadata(dir)?;
    let head = |kind: tar::EntryType, metadata: &fs::Metadata, size: u64| {
        use std::os::unix::fs::MetadataExt;
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(metadata.mode() & 0o7777);
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        header.set_uid(owner.0.into());
        header.set_gid(owner.1.into());
        header.set_size(size);
        header
    };
    let mut header = head(tar::EntryType::Directory, &metadata, 0);
    archive.append_data(&mut header, inside, io::empty())?;
    let mut entries: Vec<_> = fs::read_dir(dir)?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, inside) = (entry.path(), inside.join(entry.file_name()));
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            append(archive, &path, &inside, owner, depth + 1)?;
        } else if metadata.is_symlink() {
            let mut header = head(tar::EntryType::Symlink, &metadata, 0);
            archive.append_link(&mut header, &inside, fs::read_link(&path)?)?;
        } else if metadata.is_file() {
            let file = fs::File::open(&path)?;
            let size = file.metadata()?.len();
            let mut header = head(tar::EntryType::Regular, &metadata, size);
            // A file that shrinks or grows meanwhile must not put the archive out of step.
            let content = io::Read::take(io::Read::chain(file, io::repeat(0)), size);
            archive.append_data(&mut header, &inside, content)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collect(mut pieces: Pieces) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().await {
            all.extend_from_slice(&piece?);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn a_directory_is_sent_with_modes_links_and_the_owner_asked_for() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin/tool"), "#!/bin/sh\n").unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path().join("bin/tool"), mode).unwrap();
        std::os::unix::fs::symlink("bin/tool", dir.path().join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let bytes = collect(directory(dir.path().into(), (1000, 1001)))
            .await
            .unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (1000, 1001));
            let link = entry.link_name().unwrap().map(|link| link.into_owned());
            seen.push((
                entry.path().unwrap().into_owned(),
                header.mode().unwrap() & 0o111 != 0,
                link,
            ));
        }
        assert_eq!(seen.len(), 4, "{seen:?}");
        assert!(
            seen.contains(&("bin/tool".into(), true, None))
                || seen.contains(&("./bin/tool".into(), true, None)),
            "{seen:?}"
        );
        assert!(
            seen.iter()
                .any(|(_, _, link)| link.as_deref() == Some(Path::new("bin/tool")))
        );
    }

    struct Source(Vec<u8>);

    #[async_trait::async_trait]
    impl ImageSource for Source {
        async fn image(&self, _: &Digest) -> Result<StoredImage, super::super::SourceError> {
            unreachable!()
        }

        async fn blob(&self, _: &Digest) -> Result<Pieces, super::super::SourceError> {
            let bytes = Bytes::from(self.0.clone());
            Ok(Box::pin(stream::iter([Ok(bytes)])))
        }
    }

    fn stored(bytes: u64) -> StoredImage {
        let digest: Digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        let layer = super::super::StoredLayer { digest, bytes };
        StoredImage {
            config: b"{}".to_vec(),
            layers: vec![layer.clone(), layer],
        }
    }

    #[tokio::test]
    async fn an_image_is_an_archive_that_names_its_parts() {
        let source = std::sync::Arc::new(Source(b"layer".to_vec()));
        let bytes = collect(image(source, stored(5), "localhost/x:1".into()))
            .await
            .unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut files = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            io::Read::read_to_string(&mut entry, &mut text).unwrap();
            files.push((entry.path().unwrap().to_string_lossy().into_owned(), text));
        }
        assert_eq!(files.len(), 3, "a repeated layer is sent once");
        let manifest: serde_json::Value = serde_json::from_str(&files[0].1).unwrap();
        assert_eq!(manifest[0]["Config"], files[1].0.as_str());
        assert_eq!(
            manifest[0]["Layers"],
            serde_json::json!([files[2].0, files[2].0])
        );
        assert_eq!(files[2].1, "layer");
    }

    #[tokio::test]
    async fn a_layer_that_is_not_as_long_as_it_says_fails_the_archive() {
        for (says, problem) in [(4, "longer"), (6, "cut short")] {
            let source = std::sync::Arc::new(Source(b"layer".to_vec()));
            let error = collect(image(source, stored(says), "localhost/x:1".into())).await;
            assert!(error.unwrap_err().to_string().contains(problem));
        }
    }
}
