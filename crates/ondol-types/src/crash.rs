//! Named places at which a test may kill the process.

/// Called at the named steps of everything durable. Production wires [`NoCrash`]; the kill
/// harness wires an implementation that ends the process with SIGKILL at a chosen name.
pub trait CrashPoints: Send + Sync + 'static {
    /// Marks that execution reached `point`, for example `deploy.swap.before`.
    /// Names are `domain.operation.place`, lower case.
    fn reached(&self, point: &'static str);
}

/// Crash points that do nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoCrash;

impl CrashPoints for NoCrash {
    fn reached(&self, _point: &'static str) {}
}
