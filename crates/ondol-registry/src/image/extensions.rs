//! What a tar archive says of an entry in entries of its own before it: long names, long links and
//! pax records.
//!
//! They are read here and not by the library, which would read one of any size into memory. Where
//! a pax record and the header behind it disagree about a size, one reader sees other entries
//! than the next, so such an archive is refused.

use std::io::{self, Read};

/// The most bytes of one extension.
const MAX_BYTES: u64 = 1 << 20;

/// What was said of the entry that comes next.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    /// Its path, instead of the header's.
    pub(super) path: Option<Vec<u8>>,
    /// Where it links to, instead of the header's.
    pub(super) link: Option<Vec<u8>>,
    size: Option<u64>,
}

fn malformed(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|&byte| byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    bytes
}

impl Extensions {
    /// Takes an entry in when it says something of the next one; false when it is a file, folder
    /// or link itself.
    pub(super) fn take<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> io::Result<bool> {
        let kind = entry.header().entry_type();
        if !matches!(
            kind,
            tar::EntryType::GNULongName
                | tar::EntryType::GNULongLink
                | tar::EntryType::XHeader
                | tar::EntryType::XGlobalHeader
        ) {
            return Ok(false);
        }
        if entry.header().entry_size()? > MAX_BYTES {
            return Err(malformed("a name or a pax record in it is too long"));
        }
        let mut bytes = Vec::new();
        entry.take(MAX_BYTES).read_to_end(&mut bytes)?;
        match kind {
            tar::EntryType::GNULongName => self.path = Some(text(bytes)),
            tar::EntryType::GNULongLink => self.link = Some(text(bytes)),
            tar::EntryType::XHeader => self.records(&bytes)?,
            _ => {
                let mut global = Self::default();
                global.records(&bytes)?;
                if global.path.is_some() || global.link.is_some() || global.size.is_some() {
                    return Err(malformed("a global pax record names a path or a size"));
                }
            }
        }
        Ok(true)
    }

    /// Checks the header that the extensions belong to.
    pub(super) fn check(&self, header: &tar::Header) -> io::Result<()> {
        match self.size {
            Some(size) if size != header.entry_size()? => Err(malformed(
                "a pax record and the header behind it give different sizes",
            )),
            _ => Ok(()),
        }
    }

    /// Reads `<length> <key>=<value>\n` again and again.
    fn records(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let broken = || malformed("a pax record in it is malformed");
        while !bytes.is_empty() {
            let space = bytes
                .iter()
                .take(20)
                .position(|&byte| byte == b' ')
                .ok_or_else(broken)?;
            let length: usize = number(&bytes[..space]).ok_or_else(broken)?;
            let record = bytes
                .get(space + 1..length)
                .and_then(|record| record.strip_suffix(b"\n"))
                .ok_or_else(broken)?;
            bytes = &bytes[length..];
            let equals = record
                .iter()
                .position(|&byte| byte == b'=')
                .ok_or_else(broken)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number(value).ok_or_else(broken)?),
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(malformed("it has a sparse file"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| plain)?
        .parse()
        .ok()
}

/// Refuses to read on behind so many bytes: what a small layer unpacks to has no other end.
pub(super) struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Bounded<R> {
    pub(super) fn new(inner: R, limit: u64) -> Self {
        Self { inner, left: limit }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| malformed("it unpacks to more than an image may have"))?;
        Ok(count)
    }
}
