"""Daft, the engine that does the corpus's heavy work: on this machine, or on the Ray cluster the configuration names."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from data.config import Corpus
from engine.errors import ConfigError, DataError, UserError
from engine.record import Progress

# Read when daft is first imported: no bars of its own, nothing told to anybody.
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
os.environ.setdefault("DAFT_SHOW_QUERY_ID", "0")
os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

ROOT = Path(__file__).resolve().parent.parent  # where the cluster's workers find this package
ENOUGH = 2_000  # characters that tell a language
WORTH_A_PROCESS = 32 * 2**20  # bytes to read beside the largest part
T = TypeVar("T")


def start(corpus: Corpus) -> None:
    """Choose where Daft works. Raises ConfigError when the cluster cannot be reached."""
    if corpus.engine == "native":
        return  # what Daft does by itself
    try:
        import daft
        import ray
        reachable(corpus.address or os.environ.get("RAY_ADDRESS"))
        if not ray.is_initialized():
            ray.init(address=corpus.address, include_dashboard=False, logging_level="ERROR", log_to_driver=False,
                     runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
        daft.set_runner_ray(noop_if_initialized=True)
    except ImportError:
        raise ConfigError("corpus.engine: ray is not installed; pip install ray") from None
    except Exception as error:
        raise ConfigError(f"corpus.address: no Ray cluster at {corpus.address or 'this machine'}"
                          f" ({str(error).strip().splitlines()[0]})") from None


def reachable(address: str | None) -> None:
    """Raises OSError when nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host, int(port)), 5).close()


def path(file: Path) -> str:
    """A file as Daft names it: whole, since a cluster's workers stand in other folders."""
    return str(file.resolve())


def batches(frame) -> Iterator:
    """The record batches of a Daft frame as they are done, in any order."""
    yield from frame.to_arrow_iter()


def language(text):
    """A Daft expression of the tag of the language a text is in. Raises ConfigError without py3langid."""
    import daft
    try:
        import py3langid  # noqa: F401
    except ImportError:
        raise ConfigError("corpus.filter.languages: needs py3langid; pip install py3langid") from None

    @daft.func.batch(return_dtype=daft.DataType.string())
    def tags(texts):
        from py3langid import classify
        return daft.Series.from_pylist([classify(text[:ENOUGH])[0] for text in texts.to_pylist()])

    return tags(text)


def test_texts(plain, index: str):
    """A Daft expression of the test texts found in a text, as `contamination.Finder.find` numbers them."""
    import daft

    @daft.func.batch(return_dtype=daft.DataType.list(daft.DataType.int64()))
    def found(texts):
        import pyarrow
        from data.contamination import finder
        from data.words import Words
        array = texts.to_arrow()
        array = array.combine_chunks() if isinstance(array, pyarrow.ChunkedArray) else array
        hits = finder(index).find(Words.of(array.cast(pyarrow.large_string())))
        return daft.Series.from_pylist([hits.get(number, []) for number in range(len(array))],
                                       dtype=daft.DataType.list(daft.DataType.int64()))

    return found(plain)


def spread(work: Callable[..., Path], items: list[T], sizes: list[int], corpus: Corpus) -> list[Path]:
    """[work(item) for item in items], by processes of this machine or by the cluster's workers (with shown=False).

    sizes: bytes of each item; here, small ones are done at once, since a process takes seconds to begin.
    """
    here = corpus.engine == "native"
    if len(items) == 1 or (here and (os.cpu_count() == 1 or sum(sizes) - max(sizes) < WORTH_A_PROCESS)):
        return [work(item) for item in items]
    import daft

    folder = str(Path.cwd())

    @daft.func(return_dtype=daft.DataType.string(), use_process=here)
    def one(number: int) -> str:
        os.chdir(folder)
        try:
            return json.dumps([number, str(work(items[number], shown=False)), None])
        except UserError as error:
            return json.dumps([number, None, str(error)])

    done = {}
    frame = daft.from_pydict({"number": list(range(len(items)))})
    frame = frame.into_batches(1) if here else frame.into_partitions(len(items))  # one at a time, whoever is free
    with Progress(f"read {corpus.name}", len(items), 0, True, "part") as progress:
        for batch in batches(frame.select(one(daft.col("number")).alias("answer"))):
            for answer in batch.column("answer").to_pylist():
                number, result, error = json.loads(answer)
                if error:
                    raise DataError(error)
                done[number] = Path(result)
            progress.update(len(done), f"{progress.rate(len(done)):.2f} parts/s")
    return [done[number] for number in range(len(items))]
