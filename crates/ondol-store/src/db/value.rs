//! Values on their way into a statement.

use ondol_types::Timestamp;

/// The type of a value, needed even when it is NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `BIGINT`.
    Int,
    /// `DOUBLE PRECISION`.
    Real,
    /// `TEXT`.
    Text,
    /// `BYTEA`.
    Blob,
}

/// One value of a row or a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// NULL of a type.
    Null(Kind),
    /// `BIGINT`.
    Int(i64),
    /// `DOUBLE PRECISION`.
    Real(f64),
    /// `TEXT`.
    Text(String),
    /// `BYTEA`.
    Blob(Vec<u8>),
}

/// The parameters of a statement, in order.
pub type Params = Vec<Value>;

/// Something that can be a parameter. Implemented for numbers, text, bytes, flags (as 0 or 1),
/// timestamps (as microseconds), options of those, and through `Display` for ids and names by
/// [`params!`](crate::params).
pub trait IntoValue {
    /// The kind, also of NULL.
    const KIND: Kind;

    /// The value.
    fn into_value(self) -> Value;
}

macro_rules! into_value {
    ($($type:ty => $kind:ident, |$it:ident| $convert:expr;)*) => {
        $(impl IntoValue for $type {
            const KIND: Kind = Kind::$kind;

            fn into_value(self) -> Value {
                let $it = self;
                Value::$kind($convert)
            }
        })*
    };
}

into_value! {
    i64 => Int, |it| it;
    i32 => Int, |it| i64::from(it);
    u32 => Int, |it| i64::from(it);
    u16 => Int, |it| i64::from(it);
    bool => Int, |it| i64::from(it);
    u64 => Int, |it| i64::try_from(it).unwrap_or(i64::MAX);
    usize => Int, |it| i64::try_from(it).unwrap_or(i64::MAX);
    f64 => Real, |it| it;
    Timestamp => Int, |it| it.as_micros();
    &str => Text, |it| it.to_owned();
    String => Text, |it| it;
    &String => Text, |it| it.clone();
    Vec<u8> => Blob, |it| it;
    &[u8] => Blob, |it| it.to_vec();
    serde_json::Value => Text, |it| it.to_string();
    &serde_json::Value => Text, |it| it.to_string();
}

macro_rules! text_values {
    ($($name:ident),*) => {
        $(
            impl IntoValue for ondol_types::$name {
                const KIND: Kind = Kind::Text;

                fn into_value(self) -> Value {
                    Value::Text(self.to_string())
                }
            }

            impl IntoValue for &ondol_types::$name {
                const KIND: Kind = Kind::Text;

                fn into_value(self) -> Value {
                    Value::Text(self.to_string())
                }
            }
        )*
    };
}

text_values!(
    RunId,
    StepId,
    WorkloadId,
    ReleaseId,
    RolloutId,
    ReplicaId,
    EventId,
    TokenId,
    JobId,
    LeaseId,
    UploadId,
    RequestId,
    OperationId,
    DeliveryId,
    ProjectName,
    EnvironmentName,
    OrganizationName,
    DatasetName,
    ModelName,
    StepName,
    VolumeName,
    SecretName,
    RelPath,
    RefName,
    CommitId,
    Digest
);

impl<T: IntoValue> IntoValue for Option<T> {
    const KIND: Kind = T::KIND;

    fn into_value(self) -> Value {
        self.map_or(Value::Null(T::KIND), IntoValue::into_value)
    }
}

/// Builds the [`Params`] of a statement from values of different types.
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        vec![$($crate::IntoValue::into_value($value)),*]
    };
}
