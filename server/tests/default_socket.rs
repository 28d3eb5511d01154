//! The daemon listens where the client looks, without either being told.

use kmerge_server::paths::Surroundings;

#[test]
fn daemon_and_client_agree_on_the_socket() {
    let daemon = Surroundings::of_this_process().default_socket();
    let client = kmerge_client::default_socket();
    // A client without a daemon of its own looks for the system's; nothing else may differ.
    let of_the_system = std::path::Path::new("/run/kmerge/kmerged.sock");
    assert!(
        client == daemon || client == of_the_system && of_the_system.exists(),
        "the daemon listens on {}, the client looks at {}",
        daemon.display(),
        client.display()
    );
}
