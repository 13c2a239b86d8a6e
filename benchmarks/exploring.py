"""Measure `make explore` as a whole command: time, memory, and the clusters compared with BERTopic's.

    python -m venv peer && peer/bin/pip install -r requirements.txt
    peer/bin/pip install --no-deps bertopic umap-learn pynndescent numba llvmlite hdbscan plotly
    python benchmarks/exploring.py speed [python=peer/bin/python] [rows=20000] [rounds=2]
    python benchmarks/exploring.py clusters [python=peer/bin/python] [tasks=topics,banking77] [data=FOLDER]
    python benchmarks/exploring.py all [kill=300]

speed: the first `rows` sentences of the movie reviews, by turns; ours writes its page and its queue too. Two runs are
compared byte by byte.
clusters: normalized mutual information with the labels. Every text is in a cluster: those that BERTopic leaves out are
added to its nearest topic, with its `reduce_outliers`.
all: the sentences of all corpora; killed after `kill` seconds, then resumed.

BERTopic runs with its defaults, and embeds with the same encoder. Seconds and memory are those of the process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import results
import tasks

FOLDER = results.ROOT / "out" / "benchmarks" / "exploring"
CORPORA = ("reviews", "wiki-summaries", "medline")
OUTPUTS = ("map.html", "map.parquet", "clusters.csv", "queue.csv", "report.json", "README.md", "vectors.npy")


def write_sentences(corpora: tuple[str, ...], rows: int | None, path: Path) -> int:
    """Write the first sentences of corpora as lines of JSON; return their number."""
    from data.corpus.build import build_corpus
    from data.corpus.config import CorpusFile
    from data.corpus.documents import iter_documents
    from data.corpus.sentence_dedup import split_sentences
    from engine.config.loader import load_config

    path.parent.mkdir(parents=True, exist_ok=True)
    configs = [load_config(CorpusFile, [f"configs/corpus/{name}.yaml"]).corpus for name in corpora]
    sentences = (
        json.dumps({"text": sentence.strip()}) + "\n"
        for config in configs
        for document in iter_documents(build_corpus(config))
        for sentence in split_sentences(document["text"])
        if sentence.strip()
    )
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(islice(sentences, rows))
    with open(path, "rb") as file:
        return sum(1 for _ in file)


def run(command: list[str], kill_after: float | None = None) -> tuple[float, float]:
    """Run a command; return its seconds and the most memory of one of its processes, GB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=results.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    if kill_after:
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0) if process.returncode is None else (0, process.returncode, None)
    if status and not kill_after:
        sys.exit(f"{' '.join(command)}: {errors[-2000:]}")
    return time.perf_counter() - start, usage.ru_maxrss / 1e6 if usage else float("nan")


def explore(path: Path, *args: str) -> list[str]:
    """Return the command for a file."""
    return [sys.executable, "-m", "explore", f"text={path}", f"name={name_run(path)}", *args]


def name_run(path: Path) -> str:
    """Return the name of the run of a file."""
    return f"bench-{path.stem}"


def output_folder(path: Path) -> Path:
    """Return the folder of the run of a file."""
    return results.ROOT / "out" / "explore" / name_run(path)


def run_bertopic(path: str, output: str) -> None:
    """Cluster the texts of a file with BERTopic, and write the topic of each."""
    from bertopic import BERTopic
    from sentence_transformers import SentenceTransformer

    from data.encoders import resolve_encoder

    with open(path, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    model = SentenceTransformer(str(resolve_encoder("minilm")), trust_remote_code=False)
    vectors = model.encode(texts)
    topic_model = BERTopic(embedding_model=model)
    topics, _ = topic_model.fit_transform(texts, vectors)
    if output:
        outside = topics.count(-1)
        if outside:
            topics = topic_model.reduce_outliers(texts, topics, strategy="embeddings", embeddings=vectors)
        Path(output).write_text(json.dumps({"topics": [int(topic) for topic in topics], "outside": outside}))


def measure_speed(options: dict) -> None:
    """Write the section on speed."""
    path, rows, written = FOLDER / "sentences.jsonl", [], []
    count = write_sentences(("reviews",), int(options["rows"]), path)
    measured: dict[str, list] = {"headstart": [], "BERTopic": []}
    for _ in range(int(options["rounds"])):
        shutil.rmtree(output_folder(path), ignore_errors=True)
        measured["headstart"].append(run(explore(path)))
        written.append({name: (output_folder(path) / name).read_bytes() for name in OUTPUTS})
        measured["BERTopic"].append(run([options["python"], __file__, "bertopic", str(path), ""]))
    for name, found in measured.items():
        seconds, memory = np.array(found).T
        rows.append([name, f"{np.median(seconds):.0f}", f"{seconds.min():.0f} to {seconds.max():.0f}"])
        rows[-1].append(f"{memory.max():.2f}")
    report = json.loads(written[0]["report.json"])
    differ = [name for name in OUTPUTS if any(each[name] != written[0][name] for each in written[1:])]
    note = (
        f"Files of the runs of headstart that differ: {', '.join(differ) or 'none'}. The page has"
        f" {len(written[0]['map.html']) / 1e6:.1f} MB. Agreement of two seeds (adjusted Rand index): of the"
        f" {report['clusters']} clusters {report['stability']:.2f}, of their {len(report['groups'])} groups"
        f" {report['group_stability']:.2f}."
    )
    table = results.markdown_table([f"{count:,} sentences", "seconds", "range", "GB"], rows)
    write("Exploring: time and memory", f"speed rows={options['rows']}", f"{table}\n\n{note}")


def measure_clusters(options: dict) -> None:
    """Write the section on the clusters."""
    import pyarrow.parquet
    from sklearn.metrics import normalized_mutual_info_score

    from data.sources.source import Source, iter_rows

    rows = []
    for task in options["tasks"].split(","):
        tasks.task_args(task, options["data"])
        found = list(iter_rows(Source(files=str(tasks.FOLDER / task / "train.csv"))))
        path, output = FOLDER / f"{task}.jsonl", FOLDER / f"{task}-topics.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in found), encoding="utf-8")
        shutil.rmtree(output_folder(path), ignore_errors=True)
        run(explore(path, "baselines=false"))
        table = pyarrow.parquet.read_table(output_folder(path) / "map.parquet")
        labels = {" ".join(row["text"].split()): row["label"] for row in found}
        texts, clusters = table["text"].to_pylist(), table["cluster"].to_pylist()
        ours = normalized_mutual_info_score([labels[" ".join(text.split())] for text in texts], clusters)
        run([options["python"], __file__, "bertopic", str(path), str(output)])
        peer = json.loads(output.read_text())
        theirs = normalized_mutual_info_score([row["label"] for row in found], peer["topics"])
        outside = f"{peer['outside'] / len(found):.0%}"
        rows.append([task, f"{len(found):,}", f"{len(set(labels.values())):,}", f"{ours:.3f}", str(len(set(clusters)))])
        rows[-1] += [f"{theirs:.3f}", str(len(set(peer["topics"]))), outside]
    header = ["task", "texts", "classes", "NMI, headstart", "clusters", "NMI, BERTopic", "topics", "first left out"]
    write("Exploring: clusters and classes", "clusters data=FOLDER", results.markdown_table(header, rows))


def measure_all(options: dict) -> None:
    """Write the section on all sentences."""
    path = FOLDER / "all.jsonl"
    count = write_sentences(CORPORA, None, path)
    shutil.rmtree(output_folder(path), ignore_errors=True)
    killed, first_memory = run(explore(path), float(options["kill"]))
    steps = sorted(each.stem for each in (output_folder(path) / "steps").glob("*.npz"))
    seconds, memory = run(explore(path))
    page = (output_folder(path) / "map.html").stat().st_size / 1e6
    body = (
        f"{count:,} sentences: {killed:.0f} s to SIGKILL, with {len(steps)} steps saved, then {seconds:.0f} s;"
        f" {max(first_memory, memory):.2f} GB of memory at most. The page has {page:.1f} MB."
    )
    write("Exploring: all sentences", "all", body)


def write(title: str, part: str, text: str) -> None:
    """Write a section and print it."""
    results.write_section(title, f"python benchmarks/exploring.py {part}", text)
    print(text)


def main(args: list[str]) -> None:
    """Run the part that the first argument names."""
    part, *rest = args or ["speed"]
    if part == "bertopic":
        return run_bertopic(*rest)
    defaults = {"python": sys.executable, "rows": "20000", "rounds": "2", "tasks": "topics,banking77", "data": ""}
    options, _ = results.parse_options(rest, **defaults, kill="300")
    parts = {"speed": measure_speed, "clusters": measure_clusters, "all": measure_all}
    if part not in parts:
        sys.exit(f"{part}: no such part; there are {', '.join(parts)}")
    return parts[part](options)


if __name__ == "__main__":
    main(sys.argv[1:])
