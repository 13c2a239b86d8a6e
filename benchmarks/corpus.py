"""How fast text becomes shards, beside the preparation of transformers' `run_mlm`, and how that grows with the text.

    python benchmarks/corpus.py reviews              wheel to shards, everything on: seconds, peak memory
    python benchmarks/corpus.py peer [repeats=3]     ours and run_mlm's preparation, alternating, on the same text
    python benchmarks/corpus.py scale [gigabytes=1,2,4]   made of reviews, every copy perturbed

Memory is the sum over a command's processes, read ten times a second; pages of files that are read by memory map count
with the process. Each command runs in an empty folder, downloads aside.
"""

from __future__ import annotations

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

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
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
    """(seconds, peak MB over all its processes) of a command run in `folder`. Exits with its output when it fails."""
    began = time.time()
    with open(folder / "output.txt", "a") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE", **environment},
        )
    peak, done = [0], threading.Event()

    def watch() -> None:
        parent = psutil.Process(process.pid)
        while not done.wait(0.1):
            total = 0
            try:
                for each in [parent, *parent.children(recursive=True)]:
                    total += each.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            peak[0] = max(peak[0], total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        sys.exit(f"{' '.join(command)} failed:\n" + (folder / "output.txt").read_text()[-2_000:])
    return time.time() - began, peak[0] / 1e6


def make_workspace() -> Path:
    """An empty folder to run in, downloads in reach."""
    folder = Path(tempfile.mkdtemp(prefix="headstart-corpus-", dir=os.environ.get("BENCHMARK_FOLDER")))
    (folder / "out").mkdir()
    (ROOT / "out" / "cache").mkdir(parents=True, exist_ok=True)
    (folder / "out" / "cache").symlink_to(ROOT / "out" / "cache")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def disk_bytes(folder: Path) -> int:
    """Bytes on disk, what is linked aside."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def read_reviews() -> list[str]:
    """The reviews as they stand in the wheel."""
    from data.config import Prepare
    from data.sources.source import iter_rows
    from engine.config.loader import load_config

    source = load_config(Prepare, ["configs/corpus/reviews.yaml"]).corpus.sources[0]
    return [row["text"] for row in iter_rows(source)]


def write_jsonl(path: Path, texts) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def benchmark_reviews() -> None:
    """Wheel to shards with all default steps, three times."""
    for _ in range(3):
        folder = make_workspace()
        seconds, megabytes = measure_command([sys.executable, "-m", "data", "configs/corpus/reviews.yaml"], folder)
        again, _ = measure_command([sys.executable, "-m", "data", "configs/corpus/reviews.yaml"], folder)
        print(f"reviews: {seconds:.1f} s, {megabytes:.0f} MB; a second run {again:.2f} s", flush=True)
        shutil.rmtree(folder)


def prepare_with_run_mlm(path: str, tokenizer: str) -> None:
    """What run_mlm does before it trains, at its defaults."""
    import peer as recipe
    from datasets import load_dataset
    from transformers import AutoTokenizer

    text = load_dataset("json", data_files=path, split="train")
    print(len(recipe.prepare(text, AutoTokenizer.from_pretrained(tokenizer), MAX_LENGTH)), "blocks")


def benchmark_peer(repeats: int) -> None:
    """Ours and the peer's on the same file and tokenizer, in turn."""
    from data.encoders import resolve_encoder

    tokenizer, results = resolve_encoder("minilm").resolve(), {"ours": [], "run_mlm": []}
    for _ in range(repeats):
        for name in results:
            folder = make_workspace()
            write_jsonl(folder / "reviews.jsonl", read_reviews())
            (folder / "corpus.yaml").write_text("corpus: {name: reviews, sources: [{files: reviews.jsonl}]}\n")
            before = disk_bytes(folder)
            command = (
                [
                    sys.executable,
                    "-m",
                    "data",
                    "corpus.yaml",
                    f"init={tokenizer}",
                    f"max_length={MAX_LENGTH}",
                    *STEPS_OFF,
                ]
                if name == "ours"
                else [
                    sys.executable,
                    str(Path(__file__).resolve()),
                    "peer-preparation",
                    "reviews.jsonl",
                    str(tokenizer),
                ]
            )
            seconds, megabytes = measure_command(command, folder, HF_HOME=str(folder / "hf"))
            disk = (disk_bytes(folder) - before) / 1e6
            results[name].append((seconds, megabytes, disk))
            print(f"{name:<8} {seconds:6.1f} s {megabytes:6.0f} MB of memory {disk:6.1f} MB on disk", flush=True)
            shutil.rmtree(folder)
    ours, theirs = (statistics.median(run[0] for run in results[name]) for name in ("ours", "run_mlm"))
    disk = [statistics.median(run[2] for run in results[name]) for name in ("ours", "run_mlm")]
    print(
        f"medians: {theirs:.1f} / {ours:.1f} s = {theirs / ours:.2f} times faster;"
        f" disk {disk[1]:.1f} / {disk[0]:.1f} MB = {disk[1] / disk[0]:.2f} times smaller"
    )


def perturb(texts: list[str], max_bytes: int):
    """Reviews over and over until `max_bytes` bytes, from the second time on with a tenth of the words changed at random."""
    random, words = np.random.default_rng(0), sorted({word for text in texts[:2_000] for word in text.split()})
    written, first = 0, True
    while True:
        for text in texts:
            if not first:
                own = text.split()
                for at in random.integers(0, len(own), len(own) // 10):
                    own[at] = words[random.integers(len(words))]
                text = " ".join(own)
            yield text
            written += len(text.encode())
            if written > max_bytes:
                return
        first = False


def benchmark_scale(gigabytes: list[float]) -> None:
    """Seconds and memory against the size of the text, all default steps on."""
    texts = read_reviews()
    for size in gigabytes:
        folder = make_workspace()
        write_jsonl(folder / "text.jsonl", perturb(texts, int(size * 1e9)))
        (folder / "corpus.yaml").write_text("corpus: {name: large, sources: [{files: text.jsonl}]}\n")
        seconds, megabytes = measure_command([sys.executable, "-m", "data", "corpus.yaml", "init=minilm"], folder)
        print(f"{size} GB: {seconds:.0f} s, {seconds / size:.0f} s a GB, {megabytes:.0f} MB", flush=True)
        print((folder / "output.txt").read_text().split("built out/shards")[-1], flush=True)
        shutil.rmtree(folder)


def main(args: list[str]) -> None:
    options = dict(word.split("=", 1) for word in args[1:] if "=" in word)
    if args[:1] == ["reviews"]:
        benchmark_reviews()
    elif args[:1] == ["peer"]:
        benchmark_peer(int(options.get("repeats", 3)))
    elif args[:1] == ["peer-preparation"]:
        prepare_with_run_mlm(args[1], args[2])
    elif args[:1] == ["scale"]:
        benchmark_scale([float(size) for size in options.get("gigabytes", "1,2,4").split(",")])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
