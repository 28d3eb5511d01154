//! Typed calls to `kmerged`, the daemon that merges LoRA adapters into a few slots.
//!
//! | module | does |
//! |---|---|
//! | [`client`] | the connection, and one method for each plain call of the contract |
//! | [`upload`] | an adapter from a directory or from memory to a job, safe to repeat |
//! | [`upkeep`] | forgetting, rolling back, pins, other budgets |
//! | [`watch`] | jobs and slots as they change, over lost connections |
//! | [`backup`] | the whole state as one file, checked |
//! | [`fetch`] | one generation of a slot into a directory, checked, whole or not at all |
//! | [`retry`] | when to try again, and how long to wait: plain code |
//! | [`json`] | any message of the contract as JSON |
//! | [`address`] | where a daemon is, and how to get in |
//! | [`socket`] | where the daemon listens unless told otherwise |
//! | [`error`] | everything that can go wrong |
//!
//! The library knows the contract (`kmerge-proto`) and nothing of the daemon's insides. It prints
//! nothing, logs nothing and keeps no state beyond a connection, which is opened again as needed.
//!
//! ```no_run
//! # async fn example() -> Result<(), kmerge_client::Error> {
//! use kmerge_client::{Adapter, Client, Upload};
//!
//! let client = Client::connect(&kmerge_client::default_socket()).await?;
//! let adapter = Adapter::open("adapters/slug-en").await?;
//! let answer = client.upload_adapter(&adapter, &Upload::new("slug-en", "smollm2-135m"), |_| ()).await?;
//! if let Some(job) = answer.job {
//!     let job = client.watch_job(job.id).ended().await?;
//!     println!("{:?}", job.decision);
//! }
//! # Ok(())
//! # }
//! ```

pub mod address;
pub mod backup;
pub mod client;
pub mod error;
pub mod fetch;
mod files;
mod hex;
pub mod json;
mod link;
pub mod retry;
mod scrub;
pub mod socket;
pub mod upkeep;
pub mod upload;
pub mod watch;

pub use address::{Address, Network};
pub use backup::Backup;
pub use client::{Client, Health};
pub use error::{Error, Refusal};
pub use fetch::{Fetch, Fetched};
/// The contract's messages, as the calls take and give them.
pub use kmerge_proto::v1;
pub use socket::default_socket;
pub use upload::{Adapter, Upload, UploadEvent};
pub use watch::{JobWatch, RuntimeWatch, SlotEvent, SlotWatch};
