//! An adapter in another format whose daemon is killed: what was acknowledged is merged after the
//! restart, from the file as it was sent, and what was published comes back.

use kmerge_client::v1;

use super::{open, written};
use crate::support::calls::{ended, policy, push, register};
use crate::support::{BASE, Setup};

#[tokio::test]
async fn a_job_in_any_format_runs_again_after_a_kill() {
    let mut digests = Vec::new();
    for (format, path) in written("a4-f16") {
        let setup = Setup::default()
            .config("[exports]\nformats = [\"gguf\"]")
            .env("KMERGE_FAILPOINT", "export.files_durable=kill@2");
        let mut daemon = setup.start().await;
        let client = daemon.client().await;
        register(&client, BASE, policy(1)).await;
        // It dies between the publication of the first format and that of the second.
        let job = push(&client, "task", &open(&path).await).await;
        daemon.wait().await;
        daemon.clear("KMERGE_FAILPOINT");
        daemon.restart().await;
        let client = daemon.client().await;
        let job = ended(&client, job.id).await;
        assert_eq!(
            job.state(),
            v1::JobState::Done,
            "{format:?}: {:?}",
            job.error
        );
        assert_eq!(
            client.get_adapter(BASE, "task").await.unwrap().format(),
            format
        );
        digests.push(client.get_slot(BASE, 0).await.unwrap().sha256);
        let exports = daemon.state().join("exports");
        for word in ["peft", "gguf"] {
            let current = exports.join(word).join(BASE).join("slot-0/current");
            assert!(current.is_dir(), "{format:?}: {word}");
        }

        // The same with the merge itself cut off.
        daemon.env("KMERGE_FAILPOINT", "tensor.data_durable=kill@1");
        daemon.restart().await;
        let client = daemon.client().await;
        let job = push(&client, "again", &open(&path).await).await;
        daemon.wait().await;
        daemon.clear("KMERGE_FAILPOINT");
        daemon.restart().await;
        let client = daemon.client().await;
        let job = ended(&client, job.id).await;
        assert_eq!(
            job.state(),
            v1::JobState::Done,
            "{format:?}: {:?}",
            job.error
        );
        assert_eq!(job.attempts, 2, "{format:?}");
    }
    assert_eq!(digests, vec![digests[0].clone(); 3]);
}
