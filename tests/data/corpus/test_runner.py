"""A corpus built on a Ray cluster, compared with one built on this machine."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import environment, run_module

CLUSTER = """
import sys, ray
ray.init(num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False,
         _temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""
SMALL_BUCKETS = """
import runpy
import data.corpus.extract
data.corpus.extract.BUCKET_BYTES = 2**14
runpy.run_module("data", run_name="__main__")
"""
SYLLABLES = "bar den fol gim hur jas kel lom nav pir".split()
HIDDEN = "Nine carters left the market before the bells of the chapel had rung."


# Ray checks the token of every connection to a cluster.
RAY_ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}


@pytest.fixture(scope="module")
def address():
    """The address of a Ray cluster on this machine."""
    # The folder holds sockets, so its path must be short.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(**RAY_ENVIRONMENT),
    )
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def args(tmp_path, monkeypatch) -> list[str]:
    """Arguments for several files with duplicates and a text of a test set."""
    random = np.random.default_rng(0)
    texts = [" ".join("".join(random.choice(SYLLABLES, 2)) for _ in range(40)) for _ in range(160)]
    texts += texts[:20] + [text.replace(text.split()[20], "other", 1) for text in texts[20:40]]
    texts += ["1 2 3 4", "", HIDDEN]
    (tmp_path / "text").mkdir()
    for number in range(12):
        lines = [json.dumps({"text": text}) + "\n" for text in texts[number::12]]
        (tmp_path / f"text/{number}.jsonl").write_text("".join(lines))
    rows = "".join(f"row number {number} of the other rows,{'yes' if number % 2 else 'no'}\n" for number in range(40))
    (tmp_path / "train.csv").write_text("text,label\n" + rows)
    (tmp_path / "test.csv").write_text(f"text,label\n{HIDDEN},yes\nthis text is in none of the files,no\n")
    (tmp_path / "task.yaml").write_text(
        f"task: {{name: carters, train: {{files: {tmp_path}/train.csv}}, test: {{files: {tmp_path}/test.csv}}}}\n"
    )
    monkeypatch.chdir(tmp_path)
    # Training is deterministic with BPE only.
    return [
        "corpus.name=made",
        f"corpus.sources=[{{files: {tmp_path / 'text'}}}]",
        "corpus.held_out=0.1",
        "max_length=32",
        "tokenizer.algorithm=bpe",
        "tokenizer.vocab_size=400",
        "corpus.deduplicate.sentences=true",
        f"corpus.decontaminate.tasks=[{tmp_path / 'task.yaml'}]",
        "corpus.decontaminate.action=remove",
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_cluster_builds_the_same_shards(tmp_path, args, address):
    built = {}
    for runner, more in (("native", []), ("ray", ["corpus.runner=ray", f"corpus.address={address}"])):
        (tmp_path / runner).mkdir()
        done = run_module(
            "-c", SMALL_BUCKETS, *args, *more, prefix=(sys.executable,), cwd=tmp_path / runner, **RAY_ENVIRONMENT
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "in shards" in done.stdout and "Traceback" not in done.stderr
        (shards,) = (tmp_path / runner / "out/shards").iterdir()
        (dropped,) = (tmp_path / runner / "out/corpus").glob("*/dropped.bin")
        built[runner] = shards.name, dropped.read_bytes(), contents(shards)
        # The number of buckets depends on the paths, and so on the folder of the test.
        assert len(list((tmp_path / runner / "out/text").iterdir())) > 1
        assert not list((tmp_path / runner / "out").glob("*/.*"))
        report = json.loads((shards / "report.json").read_text())
        assert report["contamination"][0]["full_matches"] == report["dropped"]["contains test text"]["documents"] == 1
        assert (
            report["dropped"]["exact duplicate"]["documents"] == 20 == report["dropped"]["near duplicate"]["documents"]
        )
    assert built["native"] == built["ray"]


@pytest.mark.parametrize("wrong_address", ["127.0.0.1:1", "no.such.host.example:6379"])
def test_an_unreachable_cluster_is_a_one_line_error(tmp_path, args, wrong_address):
    done = run_module(
        "data",
        *args,
        "corpus.runner=ray",
        f"corpus.address={wrong_address}",
        **RAY_ENVIRONMENT,
        prefix=("timeout", "60", sys.executable, "-m"),
    )
    assert done.returncode == 2, done.stderr[-2000:]
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"corpus.address: no Ray cluster at {wrong_address} ("), lines
    assert not (tmp_path / "out/shards").exists()
