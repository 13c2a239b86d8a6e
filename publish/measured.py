"""A graph held to torch on real texts: what it says, how often that is right, how large it is, how long a text takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from onnxruntime import InferenceSession, SessionOptions

from engine.errors import ConfigError, DataError
from publish.answers import FIGURES, answers, figure, same, words_at
from publish.graph import Network

AT_ONCE = 64  # texts asked together, but for the timing
BATCHES = (1, 32)  # texts of a batch that is timed
TIMED = 64  # texts of a turn
Ask = Callable[[dict[str, np.ndarray]], np.ndarray]


class Rows(NamedTuple):
    """Texts to measure on."""

    texts: list[list[str]]
    """One string each, or two of a pair."""
    labels: list | None
    """Of each text; None where there are none."""
    longest: int
    """Tokens of a text at most; the rest is cut off."""


def rows_of(run: Path, network: Network, texts: str | None) -> Rows:
    """The lines of the file `texts`, else the run's test.json, else its sample.json. Raises ConfigError for none."""
    told = next((json.loads(path.read_text(encoding="utf-8")) for path in (run / "test.json", run / "sample.json")
                 if path.is_file()), {})
    longest = min(told.get("longest", 512), network.tokenizer.model_max_length)
    if texts:
        if not Path(texts).is_file():
            raise ConfigError(f"texts: no file {texts!r}")
        lines = Path(texts).read_text(encoding="utf-8").splitlines()
        return Rows([[line.strip()] for line in lines if line.strip()], None, longest)
    if not told:
        raise ConfigError(f"{run}: neither test.json nor sample.json is there to check on; give texts=FILE, a text a line")
    between = network.tokenizer.sep_token or network.tokenizer.eos_token or "\n"
    pairs = [text if len(text) < 3 else [between.join(text)] for text in told["texts"]]
    return Rows(pairs, told.get("labels") if network.says != "vectors" else None, longest)


def in_torch(network: Network) -> Ask:
    """What the network itself says, (texts, ...)."""
    def ask(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            told = network.module(**{name: torch.from_numpy(each) for name, each in inputs.items()})
        return next(iter(told.values())).numpy()
    return ask


def in_graph(path: Path, threads: int) -> Ask:
    """What the graph in a file says, (texts, ...), by onnxruntime on the CPU."""
    options = SessionOptions()
    options.intra_op_num_threads = threads
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names, first = [given.name for given in session.get_inputs()], session.get_outputs()[0].name
    return lambda inputs: session.run([first], {name: inputs[name] for name in names})[0]


def encode(network: Network, rows: Rows, places: list[int]) -> dict[str, np.ndarray]:
    """The tokenizer's arrays of some texts, int64 (texts, longest of them)."""
    columns = [list(column) for column in zip(*(rows.texts[place] for place in places))]
    return dict(network.tokenizer(*columns, truncation=True, max_length=rows.longest, padding=True, return_tensors="np"))


def said_by(ask: Ask, network: Network, rows: Rows) -> list[np.ndarray]:
    """What is said of each text, in their order: (labels,), (its tokens, tags) or (width,)."""
    order = sorted(range(len(rows.texts)), key=lambda place: sum(map(len, rows.texts[place])))
    found: dict[int, np.ndarray] = {}
    for at in range(0, len(order), AT_ONCE):
        places = order[at:at + AT_ONCE]
        inputs = encode(network, rows, places)
        lengths = inputs["attention_mask"].sum(1)
        for place, said, length in zip(places, ask(inputs), lengths):
            found[place] = said[:length] if said.ndim == 2 else said
    return [found[place] for place in range(len(order))]


def timed(ways: dict[str, Ask], network: Network, rows: Rows, rounds: int,
          clock: Callable[[], float] = time.perf_counter) -> dict[str, dict[int, float]]:
    """Milliseconds a text for each way and size of batch: medians of rounds in which the ways take turns."""
    chosen = [place * len(rows.texts) // TIMED for place in range(TIMED)]  # from all along, again where there are fewer
    batches = {size: [encode(network, rows, chosen[at:at + size]) for at in range(0, TIMED, size)] for size in BATCHES}
    taken = {name: {size: [] for size in BATCHES} for name in ways}
    for turn in range(rounds + 1):
        for name, ask in ways.items():
            for size, inputs in batches.items():
                began = clock()
                for each in inputs:
                    ask(each)
                if turn:  # the first is for warming up
                    taken[name][size].append(1000 * (clock() - began) / TIMED)
    return {name: {size: round(median(each), 3) for size, each in sizes.items()} for name, sizes in taken.items()}


def measure(network: Network, graphs: dict[str, Path], weights: Path, rows: Rows, threads: int, rounds: int) -> dict:
    """{"figure", "texts", "threads", "ways": {"torch" and each graph's name: what was measured}}.

    weights: torch's file. Raises DataError when the first graph does not say what torch says: it would be of no use.
    """
    torch.set_num_threads(threads)
    ways = {"torch": in_torch(network), **{name: in_graph(path, threads) for name, path in graphs.items()}}
    said = {name: said_by(ask, network, rows) for name, ask in ways.items()}
    words = [words_at(network.tokenizer(text[0], truncation=True, max_length=rows.longest), text[0])
             for text in rows.texts] if network.says == "tags" else []
    told = {name: answers(network.says, each, network.config, words) for name, each in said.items()}
    largest = max(float(np.abs(each).max()) for each in said["torch"])
    times, found = timed(ways, network, rows, rounds), {}
    for name, path in {"torch": weights, **graphs}.items():
        furthest = max(float(np.abs(one - other).max()) for one, other in zip(said[name], said["torch"]))
        if name == next(iter(graphs)) and not furthest <= 1e-3 * max(1.0, largest):
            raise DataError(f"the graph does not say what torch says: up to {furthest:.2g} apart; nothing was written")
        found[name] = {"furthest": furthest, "same": same(network.says, told[name], told["torch"]),
                       "figure": figure(network.says, told[name], rows.labels) if rows.labels else None,
                       "megabytes": round(path.stat().st_size / 1e6, 2), "milliseconds": times[name]}
    return {"says": network.says, "figure": FIGURES.get(network.says), "texts": len(rows.texts), "largest": largest,
            "threads": threads, "ways": found}
