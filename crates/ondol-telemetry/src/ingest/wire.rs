//! Protocol buffers as they are on the wire, read in place.
//!
//! A message is walked field by field and nothing is built that the reader does not ask for:
//! nesting is as deep as the caller descends, and a length is checked against the bytes that are
//! there. Unknown fields are skipped; groups, which no message here has, are refused.

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("it ends in the middle of a field")]
    Truncated,
    #[error("a number has more than ten bytes")]
    Varint,
    #[error("a field has the number 0 or an unknown wire type")]
    Tag,
    #[error("field {0} has another type than expected")]
    Type(u32),
    #[error("a text is not UTF-8")]
    Utf8,
}

/// The value of a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    /// No message here has one; it is skipped.
    Fixed32,
    Bytes(&'a [u8]),
}

/// A field with its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    pub(super) number: u32,
    pub(super) value: Value<'a>,
}

/// A message that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a>(&'a [u8]);

fn varint(bytes: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0u64;
    for at in 0..10 {
        let byte = *bytes.get(at).ok_or(WireError::Truncated)?;
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            // The tenth byte holds one bit.
            if at == 9 && byte > 1 {
                return Err(WireError::Varint);
            }
            *bytes = &bytes[at + 1..];
            return Ok(value);
        }
    }
    Err(WireError::Varint)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], WireError> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or(WireError::Truncated)?;
    *bytes = rest;
    Ok(taken)
}

fn fixed64(bytes: &mut &[u8]) -> Result<u64, WireError> {
    let mut buffer = [0; 8];
    buffer.copy_from_slice(take(bytes, 8)?);
    Ok(u64::from_le_bytes(buffer))
}

/// A signed number as `sint32` and `sint64` hold it.
pub(super) fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

impl<'a> Message<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next field; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Field<'a>>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = varint(&mut self.0)?;
        let number = u32::try_from(tag >> 3).map_err(|_| WireError::Tag)?;
        if number == 0 {
            return Err(WireError::Tag);
        }
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut self.0)?),
            1 => Value::Fixed64(fixed64(&mut self.0)?),
            2 => {
                let length = varint(&mut self.0)?;
                let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
                Value::Bytes(take(&mut self.0, length)?)
            }
            5 => {
                take(&mut self.0, 4)?;
                Value::Fixed32
            }
            _ => return Err(WireError::Tag),
        };
        Ok(Some(Field { number, value }))
    }
}

impl<'a> Field<'a> {
    fn mismatch<T>(&self) -> Result<T, WireError> {
        Err(WireError::Type(self.number))
    }

    pub(super) fn bytes(&self) -> Result<&'a [u8], WireError> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => self.mismatch(),
        }
    }

    pub(super) fn message(&self) -> Result<Message<'a>, WireError> {
        self.bytes().map(Message)
    }

    pub(super) fn text(&self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Utf8)
    }

    pub(super) fn unsigned(&self) -> Result<u64, WireError> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => self.mismatch(),
        }
    }

    /// An `int64` or `int32`.
    pub(super) fn signed(&self) -> Result<i64, WireError> {
        self.unsigned().map(|value| value as i64)
    }

    pub(super) fn zigzag(&self) -> Result<i64, WireError> {
        self.unsigned().map(zigzag)
    }

    pub(super) fn fixed64(&self) -> Result<u64, WireError> {
        match self.value {
            Value::Fixed64(value) => Ok(value),
            _ => self.mismatch(),
        }
    }

    pub(super) fn double(&self) -> Result<f64, WireError> {
        self.fixed64().map(f64::from_bits)
    }

    /// Each number of a repeated field, packed or not.
    pub(super) fn each_varint(
        &self,
        mut each: impl FnMut(u64) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        match self.value {
            Value::Varint(value) => each(value),
            Value::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    each(varint(&mut bytes)?)?;
                }
                Ok(())
            }
            _ => self.mismatch(),
        }
    }

    /// Each fixed number of a repeated field, packed or not.
    pub(super) fn each_fixed64(
        &self,
        mut each: impl FnMut(u64) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        match self.value {
            Value::Fixed64(value) => each(value),
            Value::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    each(fixed64(&mut bytes)?)?;
                }
                Ok(())
            }
            _ => self.mismatch(),
        }
    }
}

/// Messages as they are on the wire, for tests and for answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(crate) fn unsigned(&mut self, number: u32, value: u64) {
        self.varint(u64::from(number) << 3);
        self.varint(value);
    }

    pub(crate) fn bytes(&mut self, number: u32, value: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }
}

#[cfg(test)]
impl Writer {
    pub(crate) fn fixed(&mut self, number: u32, value: u64) {
        self.varint(u64::from(number) << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn double(&mut self, number: u32, value: f64) {
        self.fixed(number, value.to_bits());
    }

    pub(crate) fn zigzag(&mut self, number: u32, value: i64) {
        self.unsigned(number, ((value << 1) ^ (value >> 63)) as u64);
    }

    pub(crate) fn message(&mut self, number: u32, write: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::default();
        write(&mut inner);
        self.bytes(number, &inner.0);
    }

    pub(crate) fn packed(&mut self, number: u32, values: &[u64]) {
        let mut inner = Writer::default();
        for value in values {
            inner.varint(*value);
        }
        self.bytes(number, &inner.0);
    }

    pub(crate) fn packed_fixed(&mut self, number: u32, values: &[u64]) {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.bytes(number, &bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut writer = Writer::default();
        writer.unsigned(1, u64::MAX);
        writer.zigzag(2, -3);
        writer.double(3, 1.5);
        writer.bytes(4, b"text");
        writer.packed(5, &[1, 300]);
        let mut message = Message::new(&writer.0);
        let mut next = || message.next().unwrap().unwrap();
        assert_eq!(next().unsigned(), Ok(u64::MAX));
        assert_eq!(next().zigzag(), Ok(-3));
        assert_eq!(next().double(), Ok(1.5));
        assert_eq!(next().text(), Ok("text"));
        let mut seen = Vec::new();
        next()
            .each_varint(|value| {
                seen.push(value);
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, [1, 300]);
        assert!(message.next().unwrap().is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut message = Message::new(&bytes);
            while let Ok(Some(field)) = message.next() {
                let _ = field.text();
            }
        }
    }
}
