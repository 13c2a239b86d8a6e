"""Measure how fast text becomes shards, compared with transformers' `run_mlm`, and how that scales with the text.

    python benchmarks/corpus.py reviews                  download to shards with all steps: seconds, peak memory
    python benchmarks/corpus.py peer [repeats=3]         ours and run_mlm's preprocessing, alternating, on the same text
    python benchmarks/corpus.py scale [gigabytes=1,2,4]  copies of the reviews, perturbed

Memory is the sum over a command's processes, sampled ten times per second, and includes memory-mapped files. Each
command runs in an empty folder that shares the repository's downloads.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from results import ROOT, parse_options

MAX_LENGTH = 128
STEPS_OFF = [
    "corpus.clean.encoding=false",
    "corpus.clean.html=false",
    "corpus.filter.min_words=0",
    "corpus.filter.min_letters=0",
    "corpus.filter.max_repeated_lines=1",
    "corpus.filter.max_compression=none",
    "corpus.deduplicate.exact=false",
    "corpus.deduplicate.near=false",
]


def measure_command(command: list[str], folder: Path, **environment: str) -> tuple[float, float]:
    """Return (seconds, peak MB of all processes) of a command run in `folder`. Exits with its output if it fails."""
    start = time.time()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"} | environment
    with open(folder / "output.txt", "a") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=environment)
    peak, done = [0], threading.Event()

    def watch() -> None:
        parent = psutil.Process(process.pid)
        while not done.wait(0.1):
            with contextlib.suppress(psutil.NoSuchProcess):
                processes = [parent, *parent.children(recursive=True)]
                peak[0] = max(peak[0], sum(each.memory_info().rss for each in processes))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        sys.exit(f"{' '.join(command)} failed:\n" + (folder / "output.txt").read_text()[-2_000:])
    return time.time() - start, peak[0] / 1e6


def make_workspace() -> Path:
    """Return a new folder that shares the repository's downloads and configurations."""
    folder = Path(tempfile.mkdtemp(prefix="headstart-corpus-", dir=os.environ.get("BENCHMARK_FOLDER")))
    (folder / "out").mkdir()
    (ROOT / "out" / "cache").mkdir(parents=True, exist_ok=True)
    (folder / "out" / "cache").symlink_to(ROOT / "out" / "cache")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def disk_bytes(folder: Path) -> int:
    """Return the bytes on disk, without linked files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def read_reviews() -> list[str]:
    """Return the raw reviews."""
    from data.config import Prepare
    from data.sources.source import iter_rows
    from engine.config.loader import load_config

    source = load_config(Prepare, ["configs/corpus/reviews.yaml"]).corpus.sources[0]
    return [row["text"] for row in iter_rows(source)]


def write_jsonl(path: Path, texts) -> None:
    """Write texts as JSON lines."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def benchmark_reviews() -> None:
    """Measure download to shards with all default steps, three times."""
    command = [sys.executable, "-m", "data", "configs/corpus/reviews.yaml"]
    for _ in range(3):
        folder = make_workspace()
        seconds, megabytes = measure_command(command, folder)
        again, _ = measure_command(command, folder)
        print(f"reviews: {seconds:.1f} s, {megabytes:.0f} MB; a second run {again:.2f} s", flush=True)
        shutil.rmtree(folder)


def prepare_with_run_mlm(path: str, tokenizer: str) -> None:
    """Preprocess the text as run_mlm does at its defaults."""
    import peer
    from datasets import load_dataset
    from transformers import AutoTokenizer

    text = load_dataset("json", data_files=path, split="train", trust_remote_code=False)
    print(
        len(peer.prepare(text, AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False), MAX_LENGTH)), "blocks"
    )


def benchmark_peer(repeats: int) -> None:
    """Compare ours with run_mlm's preprocessing on the same file and tokenizer, alternating."""
    from data.encoders import resolve_encoder

    tokenizer = resolve_encoder("minilm").resolve()
    module = [sys.executable, "-m", "data", "corpus.yaml", f"init={tokenizer}", f"max_length={MAX_LENGTH}", *STEPS_OFF]
    script = [sys.executable, str(Path(__file__).resolve()), "peer-preparation", "reviews.jsonl", str(tokenizer)]
    commands, runs = {"ours": module, "run_mlm": script}, {"ours": [], "run_mlm": []}
    for _ in range(repeats):
        for name, command in commands.items():
            folder = make_workspace()
            write_jsonl(folder / "reviews.jsonl", read_reviews())
            (folder / "corpus.yaml").write_text("corpus: {name: reviews, sources: [{files: reviews.jsonl}]}\n")
            before = disk_bytes(folder)
            seconds, megabytes = measure_command(command, folder, HF_HOME=str(folder / "hf"))
            disk = (disk_bytes(folder) - before) / 1e6
            runs[name].append((seconds, disk))
            print(f"{name:<8} {seconds:6.1f} s {megabytes:6.0f} MB of memory {disk:6.1f} MB on disk", flush=True)
            shutil.rmtree(folder)
    (ours, our_disk), (theirs, their_disk) = (
        map(statistics.median, zip(*runs[name], strict=True)) for name in commands
    )
    print(
        f"medians: {theirs:.1f} / {ours:.1f} s = {theirs / ours:.2f} times faster;"
        f" disk {their_disk:.1f} / {our_disk:.1f} MB = {their_disk / our_disk:.2f} times smaller"
    )


def perturb(texts: list[str], max_bytes: int):
    """Yield the texts repeatedly up to `max_bytes` bytes; in repetitions a tenth of the words is random."""
    rng, vocabulary = np.random.default_rng(0), sorted({word for text in texts[:2_000] for word in text.split()})
    num_bytes, is_first = 0, True
    while True:
        for text in texts:
            if not is_first:
                words = text.split()
                for index in rng.integers(0, len(words), len(words) // 10):
                    words[index] = vocabulary[rng.integers(len(vocabulary))]
                text = " ".join(words)
            yield text
            num_bytes += len(text.encode())
            if num_bytes > max_bytes:
                return
        is_first = False


def benchmark_scale(gigabytes: list[float]) -> None:
    """Measure seconds and memory against the size of the text, with all default steps."""
    texts = read_reviews()
    for size in gigabytes:
        folder = make_workspace()
        write_jsonl(folder / "text.jsonl", perturb(texts, int(size * 1e9)))
        (folder / "corpus.yaml").write_text("corpus: {name: large, sources: [{files: text.jsonl}]}\n")
        seconds, megabytes = measure_command([sys.executable, "-m", "data", "corpus.yaml", "init=minilm"], folder)
        print(f"{size} GB: {seconds:.0f} s, {seconds / size:.0f} s per GB, {megabytes:.0f} MB", flush=True)
        print((folder / "output.txt").read_text().split("built out/shards")[-1], flush=True)
        shutil.rmtree(folder)


def main(args: list[str]) -> None:
    """Run the benchmark named by the first argument."""
    options, _ = parse_options(args[1:], repeats="3", gigabytes="1,2,4")
    if args[:1] == ["reviews"]:
        benchmark_reviews()
    elif args[:1] == ["peer"]:
        benchmark_peer(int(options["repeats"]))
    elif args[:1] == ["peer-preparation"]:
        prepare_with_run_mlm(args[1], args[2])
    elif args[:1] == ["scale"]:
        benchmark_scale([float(size) for size in options["gigabytes"].split(",")])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
