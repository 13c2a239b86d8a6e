"""Daft, the engine that does the corpus's heavy work: on this machine, or on the Ray cluster the configuration names."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from data.corpus.config import Corpus
from engine.errors import ConfigError, DataError, UserError
from engine.runs.progress import Progress

# Read when daft is first imported: no bars of its own, nothing told to anybody.
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
os.environ.setdefault("DAFT_SHOW_QUERY_ID", "0")
os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]  # where the cluster's workers find this package
MIN_PARALLEL_BYTES = 32 * 2**20  # bytes to read beside the largest part
T = TypeVar("T")


def start_runner(corpus: Corpus) -> None:
    """Choose where Daft works. Raises ConfigError when the cluster cannot be reached."""
    if corpus.runner == "native":
        return  # what Daft does by itself
    try:
        import daft
        import ray

        check_reachable(corpus.address or os.environ.get("RAY_ADDRESS"))
        if not ray.is_initialized():
            ray.init(
                address=corpus.address,
                include_dashboard=False,
                logging_level="ERROR",
                log_to_driver=False,
                runtime_env={"env_vars": {"PYTHONPATH": str(REPOSITORY_ROOT)}},
            )
        daft.set_runner_ray(noop_if_initialized=True)
    except ImportError:
        raise ConfigError("corpus.runner: ray is not installed; pip install ray") from None
    except Exception as error:
        raise ConfigError(
            f"corpus.address: no Ray cluster at {corpus.address or 'this machine'}"
            f" ({str(error).strip().splitlines()[0]})"
        ) from None


def check_reachable(address: str | None) -> None:
    """Raises OSError when nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host, int(port)), 5).close()


def absolute_path(file: Path) -> str:
    """A file as Daft names it: whole, since a cluster's workers stand in other folders."""
    return str(file.resolve())


def iter_batches(frame) -> Iterator:
    """The record batches of a Daft frame as they are done, in any order."""
    yield from frame.to_arrow_iter()


def run_parallel(function: Callable[..., Path], items: list[T], item_bytes: list[int], corpus: Corpus) -> list[Path]:
    """[work(item) for item in items], by processes of this machine or by the cluster's workers (with shown=False).

    item_bytes: bytes of each item; here, small ones are done at once, since a process takes seconds to begin.
    """
    here = corpus.runner == "native"
    if len(items) == 1 or (here and (os.cpu_count() == 1 or sum(item_bytes) - max(item_bytes) < MIN_PARALLEL_BYTES)):
        return [function(item) for item in items]
    import daft

    folder = str(Path.cwd())

    @daft.func(return_dtype=daft.DataType.string(), use_process=here)
    def one(number: int) -> str:
        os.chdir(folder)
        try:
            return json.dumps([number, str(function(items[number], shown=False)), None])
        except UserError as error:
            return json.dumps([number, None, str(error)])

    done = {}
    frame = daft.from_pydict({"number": list(range(len(items)))})
    frame = frame.into_batches(1) if here else frame.into_partitions(len(items))  # one at a time, whoever is free
    with Progress(f"read {corpus.name}", len(items), 0, True, "part") as progress:
        for batch in iter_batches(frame.select(one(daft.col("number")).alias("answer"))):
            for answer in batch.column("answer").to_pylist():
                number, result, error = json.loads(answer)
                if error:
                    raise DataError(error)
                done[number] = Path(result)
            progress.update(len(done), f"{progress.rate(len(done)):.2f} parts/s")
    return [done[number] for number in range(len(items))]
