"""What measuring processes load, and how long they warm up."""

from dataclasses import dataclass
from pathlib import Path

# A longer inference fills the caches by itself. A shorter one is timed after an untimed one, since other processes have
# used the caches in between.
WARM_UP = 0.3


@dataclass(frozen=True)
class Checkpoint:
    """A subject saved as it will be measured: dense, compressed, or converted for another `runtime`.

    `parameter_bytes` are parameters and buffers in memory, where weights that are not packed are float32. `file_bytes`
    are the weight files as `aerogel prune` writes them: in the dtypes of the model's own files. `trains` says whether
    its training steps are measured.
    """

    name: str
    folder: Path
    compressed: bool
    parameter_bytes: int
    file_bytes: int
    runtime: str | None = None
    trains: bool = False
