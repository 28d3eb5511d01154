"""A daemon of its own for a check, and the command line that talks to it."""

import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def daemon(bin: Path, room: Path):
    """Runs kmerged on a new state in `room`; gives a function that runs kmerge."""
    socket = room / "kmerged.sock"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KMERGE_")}
    with open(room / "kmerged.log", "w") as log:
        running = subprocess.Popen(
            [bin / "kmerged", "--state-dir", room / "state", "--socket", socket],
            stdout=log, stderr=log, env=environment,
        )
        try:
            while not socket.exists():
                assert running.poll() is None, (room / "kmerged.log").read_text()
                time.sleep(0.05)

            def kmerge(*words):
                command = [bin / "kmerge", "--socket", socket, "--quiet", *words]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)

            yield kmerge
        finally:
            running.terminate()
            running.wait(timeout=30)
