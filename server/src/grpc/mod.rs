//! The door: who comes in, the gRPC services, their limits, health and reflection. Nothing outside
//! this folder knows protobuf, and nothing in it decides what becomes of an adapter.
//!
//! ```text
//! listener (sockets, uids, TLS) → connections (HTTP/2) → guard (token, limits) → a service
//! ```

pub mod adapters;
mod admin;
mod base_models;
pub mod caller;
pub mod connections;
mod convert;
mod deadline;
mod guard;
mod jobs;
pub mod listener;
mod redact;
mod runtimes;
mod slots;
pub mod status;
mod watch;

use std::sync::Arc;

use kmerge_proto::v1::adapter_service_server::AdapterServiceServer;
use kmerge_proto::v1::admin_service_server::AdminServiceServer;
use kmerge_proto::v1::base_model_service_server::BaseModelServiceServer;
use kmerge_proto::v1::job_service_server::JobServiceServer;
use kmerge_proto::v1::runtime_service_server::RuntimeServiceServer;
use kmerge_proto::v1::slot_service_server::SlotServiceServer;
use kmerge_proto::{FILE_DESCRIPTOR_SET, limits};
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::backup::Backups;
use crate::base_models::BaseModels;
use crate::config::Listen;
use crate::maintenance::Upkeep;
use crate::owner::Owner;
use crate::runtimes::board::Board;
use crate::scrub::Scrubber;
use crate::serving::Serving;
use crate::shutdown::Stop;
use crate::status_report::About;
use crate::uploads::Uploads;
use crate::watching::Watching;

/// The largest request that brings neither an adapter nor a config.json, in bytes.
const CONTROL_BYTES: usize = 64 * 1024;

/// The largest that registers a base model: its config.json and a little.
const CONFIG_BYTES: usize = limits::MAX_CONFIG_BYTES + CONTROL_BYTES;

/// What the services call.
#[derive(Debug, Clone)]
pub struct Rooms {
    /// The way in.
    pub uploads: Uploads,
    /// Jobs that bring no adapter.
    pub upkeep: Upkeep,
    /// Base models.
    pub base_models: BaseModels,
    /// Reads everything again.
    pub scrubber: Scrubber,
    /// Gives the whole state out.
    pub backups: Backups,
    /// Reads.
    pub serving: Serving,
    /// Streams.
    pub watching: Watching,
    /// What is known of runtimes.
    pub board: Board,
    /// Job cancellation.
    pub owner: Owner,
    /// What does not change.
    pub about: Arc<About>,
    /// Whether kmerged stops.
    pub stop: Stop,
}

/// Tells the truth about health, for the whole daemon and for each service.
#[derive(Debug, Clone)]
pub struct Health {
    reporter: HealthReporter,
}

/// Every service, and "" for the whole.
const SERVICES: [&str; 7] = [
    "",
    "kmerge.v1.AdapterService",
    "kmerge.v1.JobService",
    "kmerge.v1.SlotService",
    "kmerge.v1.BaseModelService",
    "kmerge.v1.RuntimeService",
    "kmerge.v1.AdminService",
];

impl Health {
    /// Says that everything serves, or nothing does.
    pub async fn set(&self, serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }
}

/// All services, with health not serving yet.
///
/// # Errors
/// If the compiled descriptors cannot be read, which would be a bug.
pub async fn routes(rooms: Rooms, listen: &Listen) -> anyhow::Result<(Routes, Health)> {
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let health = Health { reporter };
    health.set(false).await;
    let Rooms {
        uploads,
        upkeep,
        base_models,
        scrubber,
        backups,
        serving,
        watching,
        board,
        owner,
        about,
        stop,
    } = rooms;
    let adapters = adapters::Adapters {
        uploads,
        upkeep: upkeep.clone(),
        serving: serving.clone(),
        stop: stop.clone(),
        idle: listen.stream_idle,
    };
    let jobs = jobs::Jobs {
        serving: serving.clone(),
        owner,
        watching: watching.clone(),
    };
    let slots = slots::Slots {
        serving: serving.clone(),
        upkeep: upkeep.clone(),
        watching: watching.clone(),
    };
    let runtimes = runtimes::RuntimeCalls {
        board: board.clone(),
        watching,
    };
    let base_models = base_models::BaseModelCalls {
        base_models,
        upkeep,
        serving: serving.clone(),
    };
    let admin = admin::Admin {
        backups,
        scrubber,
        about,
        board,
        serving,
        stop,
    };
    let mut routes = Routes::builder();
    routes
        .add_service(health_service.max_decoding_message_size(CONTROL_BYTES))
        .add_service(
            AdapterServiceServer::new(adapters)
                .max_decoding_message_size(limits::MAX_MESSAGE_BYTES),
        )
        .add_service(JobServiceServer::new(jobs).max_decoding_message_size(CONTROL_BYTES))
        .add_service(SlotServiceServer::new(slots).max_decoding_message_size(CONTROL_BYTES))
        .add_service(
            BaseModelServiceServer::new(base_models).max_decoding_message_size(CONFIG_BYTES),
        )
        .add_service(RuntimeServiceServer::new(runtimes).max_decoding_message_size(CONTROL_BYTES))
        .add_service(AdminServiceServer::new(admin).max_decoding_message_size(CONTROL_BYTES));
    if listen.reflection {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // Older tools ask for v1alpha only.
        routes
            .add_service(
                builder()
                    .build_v1()?
                    .max_decoding_message_size(CONTROL_BYTES),
            )
            .add_service(
                builder()
                    .build_v1alpha()?
                    .max_decoding_message_size(CONTROL_BYTES),
            );
    }
    Ok((routes.routes(), health))
}
