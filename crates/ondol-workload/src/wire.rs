//! What engine and shim say to each other.
//!
//! Once, over the shim's standard input: a [`LaunchOrder`] as one line of JSON, answered on its
//! standard output by one [`LaunchReply`]. It carries the secrets, which so touch neither disk
//! nor arguments. An order without its newline was cut off by the death of the engine and is
//! not carried out.
//!
//! Later, over the control socket: one [`Request`] per line, one [`Response`] each. A newer
//! engine must speak to older shims, so version 1 is only ever added to.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use ondol_types::{RelPath, Secret};
use serde::{Deserialize, Serialize};

use crate::cgroup::Dirs;
use crate::home::{SpecFile, VERSION};
use crate::model::StopSignal;

/// The most bytes an order may have; environment and secret files together.
const MAX_ORDER_BYTES: u64 = 16 << 20;

/// The longest line on the control socket.
pub(crate) const MAX_REQUEST_BYTES: usize = 4 << 10;

/// Everything a shim must know. Its JSON holds secrets in the clear.
#[derive(Serialize, Deserialize)]
pub(crate) struct LaunchOrder {
    pub(crate) v: u32,
    pub(crate) spec: SpecFile,
    secret_env: BTreeMap<String, String>,
    secret_files: BTreeMap<RelPath, String>,
    masks: Vec<String>,
    /// The `PATH` of the program when its environment names none.
    pub(crate) path: String,
    /// Variables of every program, which its own override.
    #[serde(default)]
    pub(crate) base_env: BTreeMap<String, String>,
    /// Appended to any `PATH`.
    pub(crate) tool_dir: Option<PathBuf>,
    /// How this program is started as a shim, for its helpers.
    pub(crate) shim_command: Vec<OsString>,
    /// Where control groups are made.
    pub(crate) cgroups: Option<Dirs>,
    /// Whether a network namespace needs a user namespace around it.
    pub(crate) user_namespace: bool,
    /// The program that connects a network namespace with the outside, when there is one.
    pub(crate) outbound: Option<PathBuf>,
    /// What the engine wants people to know about this workload.
    pub(crate) notices: Vec<String>,
    /// The container that the engine has made for it; the shim starts it.
    #[serde(default)]
    pub(crate) container: Option<ContainerOrder>,
}

/// What a shim must know of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerOrder {
    /// Where the engine is asked.
    pub(crate) address: String,
    /// The container, as the engine calls it.
    pub(crate) id: String,
    /// Whether its first process is a small one that passes signals on.
    pub(crate) init: bool,
    /// The user and group whom its secret files belong to, where they are known.
    pub(crate) owner: Option<(u32, u32)>,
    /// What is started, for messages.
    pub(crate) program: String,
}

/// The secret part of an order, in types that do not show it.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    pub(crate) env: BTreeMap<String, Secret>,
    pub(crate) files: BTreeMap<RelPath, Secret>,
    pub(crate) masks: Vec<Secret>,
}

impl LaunchOrder {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts have nothing in common but this message"
    )]
    pub(crate) fn new(
        spec: SpecFile,
        secrets: &Secrets,
        path: String,
        base_env: BTreeMap<String, String>,
        tool_dir: Option<PathBuf>,
        shim_command: Vec<OsString>,
        cgroups: Option<Dirs>,
        user_namespace: bool,
        outbound: Option<PathBuf>,
        notices: Vec<String>,
    ) -> Self {
        let env = secrets
            .env
            .iter()
            .map(|(name, value)| (name.clone(), value.expose().clone()))
            .collect();
        let files = secrets
            .files
            .iter()
            .map(|(path, value)| (path.clone(), value.expose().clone()))
            .collect();
        let masks = secrets
            .masks
            .iter()
            .map(|value| value.expose().clone())
            .collect();
        Self {
            v: VERSION,
            spec,
            secret_env: env,
            secret_files: files,
            masks,
            path,
            base_env,
            tool_dir,
            shim_command,
            cgroups,
            user_namespace,
            outbound,
            notices,
            container: None,
        }
    }

    /// An order to start a container. Its limits are the container engine's.
    pub(crate) fn contained(
        spec: SpecFile,
        secrets: &Secrets,
        shim_command: Vec<OsString>,
        container: ContainerOrder,
        notices: Vec<String>,
    ) -> Self {
        let mut order = Self::new(
            spec,
            secrets,
            String::new(),
            BTreeMap::new(),
            None,
            shim_command,
            None,
            false,
            None,
            notices,
        );
        order.container = Some(container);
        order
    }

    /// The bytes to send, wiped when they have been.
    pub(crate) fn encode(&self) -> io::Result<Secret<Vec<u8>>> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        Ok(Secret::new(bytes))
    }

    /// Reads an order to its newline.
    pub(crate) fn read(input: impl Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        input.take(MAX_ORDER_BYTES + 1).read_to_end(&mut bytes)?;
        let bytes = Secret::new(bytes);
        let invalid = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem);
        if bytes.expose().len() as u64 > MAX_ORDER_BYTES {
            return Err(invalid("the order is larger than 16 MiB"));
        }
        let Some((b'\n', line)) = bytes.expose().split_last() else {
            return Err(invalid("the order was cut off"));
        };
        // The parser's message can quote the input, and so a secret.
        let order: Self =
            serde_json::from_slice(line).map_err(|_| invalid("the order is not understood"))?;
        if order.v != VERSION {
            return Err(invalid("the order is of another version"));
        }
        Ok(order)
    }

    /// Moves the secrets out.
    pub(crate) fn take_secrets(&mut self) -> Secrets {
        Secrets {
            env: std::mem::take(&mut self.secret_env)
                .into_iter()
                .map(|(name, value)| (name, value.into()))
                .collect(),
            files: std::mem::take(&mut self.secret_files)
                .into_iter()
                .map(|(path, value)| (path, value.into()))
                .collect(),
            masks: std::mem::take(&mut self.masks)
                .into_iter()
                .map(Secret::new)
                .collect(),
        }
    }
}

impl Drop for LaunchOrder {
    fn drop(&mut self) {
        drop(self.take_secrets());
    }
}

/// What a shim answers to its order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum LaunchReply {
    /// It has taken over; the files in the workload's directory tell the rest.
    Started,
    /// It has not, and nothing of this incarnation has run.
    Failed(String),
}

/// A request on the control socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) v: u32,
    pub(crate) op: Operation,
}

/// What is asked of a shim.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Operation {
    /// Whether it is well.
    Status,
    /// End the program gracefully.
    #[serde(rename_all = "camelCase")]
    Stop {
        signal: StopSignal,
        grace_millis: u64,
    },
    /// End everything now.
    Kill,
}

/// A shim's answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Response {
    pub(crate) v: u32,
    pub(crate) ok: bool,
    #[serde(default)]
    pub(crate) error: Option<String>,
    /// The main process, while it runs.
    #[serde(default)]
    pub(crate) pid: Option<i32>,
}

/// Writes one line of JSON.
pub(crate) fn write_line(mut output: impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}

/// An order is carried out whole or not at all, and is the same after it was sent again.
#[cfg(any(test, fuzzing))]
pub fn fuzz(data: &[u8]) {
    if let Ok(order) = LaunchOrder::read(data) {
        let sent = order.encode().expect("an order can be written");
        let again = LaunchOrder::read(&sent.expose()[..]).expect("what was sent is read");
        assert!(
            again
                .encode()
                .is_ok_and(|again| again.expose() == sent.expose())
        );
    }
    let _ = serde_json::from_slice::<LaunchReply>(data);
    let _ = serde_json::from_slice::<Response>(data);
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let mut line = Vec::new();
        write_line(&mut line, &request).expect("it is written to memory");
        assert!(line.ends_with(b"\n") && serde_json::from_slice::<Request>(&line).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_version_1_stay_understood() {
        let stop: Request =
            serde_json::from_str(r#"{"v":1,"op":{"stop":{"signal":"TERM","graceMillis":500}}}"#)
                .unwrap();
        assert!(matches!(
            stop.op,
            Operation::Stop {
                signal: StopSignal::Term,
                grace_millis: 500
            }
        ));
        for op in ["status", "kill"] {
            serde_json::from_str::<Request>(&format!(r#"{{"v":1,"op":"{op}"}}"#)).unwrap();
        }
        let answer: Response = serde_json::from_str(r#"{"v":1,"ok":true}"#).unwrap();
        assert!(answer.ok && answer.pid.is_none());
    }

    #[test]
    fn an_order_that_was_cut_off_is_not_carried_out() {
        assert!(LaunchOrder::read(&b""[..]).is_err());
        assert!(LaunchOrder::read(&b"{\"v\":1"[..]).is_err());
        let Err(error) = LaunchOrder::read(&b"{\"v\":\"hunter22\"}\n"[..]) else {
            panic!("accepted")
        };
        assert!(!error.to_string().contains("hunter22"));
    }
}
