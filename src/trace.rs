//! The one place that knows whether the `tracing` feature is on.

/// `trace!(debug, "message", field = value, …)`; fields are shown with `Debug`.
macro_rules! trace {
    ($level:ident, $message:literal $(, $field:ident = $value:expr)* $(,)?) => {{
        #[cfg(feature = "tracing")]
        tracing::$level!($($field = ?$value,)* $message);
        #[cfg(not(feature = "tracing"))]
        {
            $(let _ = &$value;)*
        }
    }};
}

pub(crate) use trace;
