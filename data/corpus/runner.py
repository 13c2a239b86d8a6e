"""Execution of Daft queries and of parallel work, on this machine or on a Ray cluster."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from data.corpus.config import Corpus
from engine.errors import ConfigError, DataError, UserError
from engine.runs.progress import Progress

# Daft reads these when it is first imported: no progress bars of its own, no telemetry.
for variable in ("DAFT_PROGRESS_BAR", "DAFT_SHOW_QUERY_ID", "DAFT_ANALYTICS_ENABLED", "RAY_USAGE_STATS_ENABLED"):
    os.environ.setdefault(variable, "0")
os.environ.setdefault("DO_NOT_TRACK", "true")

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]  # for the imports of the cluster's workers
MIN_PARALLEL_BYTES = 32 * 2**20  # besides the largest item; less is faster in this process
T = TypeVar("T")


def start_runner(corpus: Corpus) -> None:
    """Connect Daft to the Ray cluster if the corpus uses one. Raises ConfigError when it cannot be reached."""
    if corpus.runner == "native":
        return  # Daft's default
    try:
        import daft
        import ray

        check_reachable(corpus.address or os.environ.get("RAY_ADDRESS"))
        if not ray.is_initialized():
            quiet = {"include_dashboard": False, "logging_level": "ERROR", "log_to_driver": False}
            environment = {"env_vars": {"PYTHONPATH": str(REPOSITORY_ROOT)}}
            ray.init(address=corpus.address, runtime_env=environment, **quiet)
        daft.set_runner_ray(noop_if_initialized=True)
    except ImportError:
        raise ConfigError("corpus.runner: ray is not installed; pip install ray") from None
    except Exception as error:
        address, reason = corpus.address or "this machine", str(error).strip().splitlines()[0]
        raise ConfigError(f"corpus.address: no Ray cluster at {address} ({reason})") from None


def check_reachable(address: str | None) -> None:
    """Connect to HOST:PORT and close, since Ray would retry for minutes. Raises OSError when nothing listens."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host, int(port)), 5).close()


def absolute_path(file: Path) -> str:
    """Return an absolute path for Daft, since workers of a cluster run in other folders."""
    return str(file.resolve())


def iter_batches(frame) -> Iterator:
    """Yield the record batches of a Daft frame as they are completed, in any order."""
    yield from frame.to_arrow_iter()


def run_parallel(function: Callable[..., Path], items: list[T], item_bytes: list[int], corpus: Corpus) -> list[Path]:
    """Return [function(item) for item in items], by processes of this machine or workers of the cluster.

    Small items run in this process, since starting others takes seconds; those call it with show_progress=False.
    """
    local = corpus.runner == "native"
    is_small = os.cpu_count() == 1 or sum(item_bytes) - max(item_bytes) < MIN_PARALLEL_BYTES
    if len(items) == 1 or (local and is_small):
        return [function(item) for item in items]
    import daft

    folder = str(Path.cwd())

    @daft.func(return_dtype=daft.DataType.string(), use_process=local)
    def run_item(number: int) -> str:
        os.chdir(folder)
        try:
            return json.dumps([number, str(function(items[number], show_progress=False)), None])
        except UserError as error:
            return json.dumps([number, None, str(error)])

    done = {}
    frame = daft.from_pydict({"number": list(range(len(items)))})
    frame = frame.into_batches(1) if local else frame.into_partitions(len(items))  # each worker takes one at a time
    with Progress(f"read {corpus.name}", len(items), 0, True, "bucket") as progress:
        for batch in iter_batches(frame.select(run_item(daft.col("number")).alias("result"))):
            for result in batch.column("result").to_pylist():
                number, path, error = json.loads(result)
                if error:
                    raise DataError(error)
                done[number] = Path(path)
            progress.update(len(done), f"{progress.rate(len(done)):.2f} buckets/s")
    return [done[number] for number in range(len(items))]
