//! Sockets: one stream type for both hops, and the way to the server: resolve, race, TLS, STLS.

mod announced;
mod dial;
mod error;
mod intercept;
mod proxy_protocol;
mod stls;
mod stream;
mod upstream;

pub(crate) use announced::{Announcement, read_header};
pub use dial::{Attempt, DialError, Network, System, dial, dial_socket, is_own_address};
pub use error::ConnectError;
pub use intercept::Misdirected;
pub(crate) use intercept::{destination, use_any_address};
pub use stls::{Step, StlsFault};
pub use stream::Stream;
pub use upstream::{Connected, Connector, Endpoint, Origin, Report, TlsConfigError};
