"""The command: its files, rounds, resumption, mistakes, and the page as a browser shows it."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest
from browser import Browser, load_page
from helpers import error_lines, run_module, start_module

from engine.cli import parse_config
from engine.errors import ConfigError, DataError
from engine.html import render
from explore import page
from explore.__main__ import expand, main
from explore.config import Explore
from explore.inputs import Inputs
from explore.map import Map
from explore.queue import Entry
from explore.report import describe, list_notes, next_command
from explore.steps import Steps
from label.config import Label
from label.items import read_items

HOSTILE = "=1+1 <script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"> </pre> & more"
WORDS = {
    "animals": "cat dog horse cow sheep bird fish goat".split(),
    "weather": "rain sun wind snow cloud storm heat frost".split(),
    "money": "tax bank loan price wage cost debt coin".split(),
}


def write_texts(path, count: int = 150) -> list[str]:
    """Write texts about three subjects, two of them near each other, and a hostile one."""
    draw = random.Random(0)
    subjects = [list(WORDS)[number % 3] for number in range(count)]
    texts = [f"{' '.join(draw.choices(WORDS[subject], k=4))} number {at}" for at, subject in enumerate(subjects)]
    texts[10] = texts[7] + " !"
    texts[20] = HOSTILE
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return texts


def read_csv(path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def file_hashes(folder) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("[!.]*.*")}


@pytest.fixture(scope="module")
def explored(tiny, tmp_path_factory):
    """Return (folder, texts) of a finished exploration."""
    folder = tmp_path_factory.mktemp("explored")
    texts = write_texts(folder / "notes.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main([f"text={folder}/notes.txt", f"encoder={tiny}"])
    return folder, texts


def test_one_cluster_and_one_suspect_are_counted_as_one():
    report = {"inputs": 12, "noun": "texts", "labeled": 1, "groups": [1], "clusters": 1, "duplicates": 2}
    report |= dict.fromkeys(("stability", "silhouette", "vectors", "without_cluster")) | {"duplicate_groups": 1}
    assert describe(report) == "12 texts in 1 cluster, which forms 1 group; 1 has a label"
    notes = list_notes(report, SimpleNamespace(measured=None, suspects=[1]))
    expected = "1 label looks wrong; it comes first in the queue; no label was changed."
    assert notes == ["2 texts are in 1 group of near duplicates.", expected]
    assert "2 labels look wrong; they come" in list_notes(report, SimpleNamespace(measured=None, suspects=[1, 2]))[-1]
    report |= {"groups": [1, 2], "clusters": 9}
    assert describe(report).startswith("12 texts in 9 clusters, which form 2 groups; ")


def test_the_command_in_the_readme_of_a_map_is_as_printed():
    command = "make label FILE='notes_*.txt'"
    report = {"sentence": "", "notes": [], "groups": [], "next": command}
    text = render("explore/readme.md.j2", found=SimpleNamespace(name="notes"), report=report, baselines=([], []))
    assert f"by `{command}`:" in text


def test_the_files_have_every_text_once(explored):
    folder, texts = explored[0] / "out/explore/notes", explored[1]
    table = pyarrow.parquet.read_table(folder / "map.parquet").to_pydict()
    assert table["text"] == texts and table["id"] == list(range(len(texts)))
    assert np.abs(np.array([table["projection_x"], table["projection_y"]])).max() <= 1
    clusters = read_csv(folder / "clusters.csv")
    sizes = np.bincount(table["cluster"], minlength=len(clusters))
    assert [int(row["size"]) for row in clusters] == sizes.tolist() and sizes.sum() == len(texts)
    assert all(len(each["ids"]) == 5 for each in table["neighbors"][:5])
    report = json.loads((folder / "report.json").read_text())
    assert report["inputs"] == len(texts) and report["clusters"] == len(clusters)
    assert report["sentence"].endswith("groups; none have a label") and "," not in report["sentence"][:4]
    assert report["next"] == f"make label FILE={folder.parents[2]}/notes.txt"
    assert report["next"] in (folder / "README.md").read_text() and report["next"] in (folder / "map.html").read_text()
    assert "map.html" in (folder / "README.md").read_text()


def test_a_single_cluster_has_no_silhouette_and_the_files_are_valid_json(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.txt").write_text("the same text\n" * 12)
    main(["text=few.txt", f"encoder={tiny}"])
    folder = tmp_path / "out/explore/few"

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    report = json.loads((folder / "report.json").read_text(), parse_constant=refuse)
    assert report["clusters"] == 1 and report["silhouette"] is None
    assert not any("ilhouette" in note for note in report["notes"])
    assert [row["silhouette"] for row in read_csv(folder / "clusters.csv")] == [""]


def test_as_many_clusters_as_texts_and_a_method_without_a_seed_leave_measures_out(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = write_texts(tmp_path / "few.txt", 30)
    args, folder = ["text=few.txt", f"encoder={tiny}", "baselines=false"], tmp_path / "out/explore/few"
    main([*args, f"num_clusters={len(texts) + 5}"])
    report = json.loads((folder / "report.json").read_text())
    assert report["clusters"] == len(texts) and report["silhouette"] is None and report["stability"] == 1
    (tmp_path / "few.txt").write_text("\n".join([f"{text} {n}" for text in texts[:2] for n in range(20)]) + "\n")
    main([*args, "clusters=hdbscan"])
    report = json.loads((folder / "report.json").read_text())
    assert report["stability"] is None and report["group_stability"] is None
    assert not any("tability" in note for note in report["notes"])
    assert "nan" not in (folder / "map.html").read_text().partition("<h2>Clusters")[2].partition("<div")[0].lower()
    assert {row["stability"] for row in read_csv(folder / "clusters.csv")} == {""}


def test_a_folder_in_use_is_refused_in_one_line(explored, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out/explore/notes"
    folder.mkdir(parents=True)
    script = "import sys, time\nfrom pathlib import Path\nfrom engine.system.lock import acquire\n"
    script += "lock = acquire(Path(sys.argv[1]))\nPath('locked').touch()\ntime.sleep(60)\n"
    owner = start_module(script, str(folder), prefix=("-c",), cwd=tmp_path)
    while not Path("locked").exists():
        time.sleep(0.01)
    lines = error_lines(main, [f"text={explored[0]}/notes.txt", f"encoder={tiny}"], capsys, monkeypatch)
    assert lines[0].startswith("out/explore/notes: in use by process ")
    assert lines[1:] == ["Wait, or choose another name: name=notes-2."] and not (folder / "steps").exists()
    owner.send_signal(signal.SIGKILL)
    owner.wait(60)


def test_the_queue_mixes_chosen_and_random_rows_and_is_harmless(explored):
    folder, texts = explored[0] / "out/explore/notes", explored[1]
    queue = read_csv(folder / "queue.csv")
    columns = ["id", "text", "label", "role", "reason", "cluster", "suggestion", "suggestion_probability"]
    assert list(queue[0]) == columns
    assert sorted(int(row["id"]) for row in queue) == list(range(len(texts)))
    assert {(row["role"], row["reason"]) for row in queue} == {("train", "spread"), ("measure", "random")}
    assert [row["role"] for row in queue[:8]] == ["train", "train", "train", "measure"] * 2
    assert all(row["label"] == "" for row in queue)
    hostile = next(row for row in queue if int(row["id"]) == 20)
    assert hostile["text"] == f"'{HOSTILE}"


def test_the_same_command_writes_the_same_bytes(explored, tiny, monkeypatch):
    monkeypatch.chdir(explored[0])
    before = file_hashes(explored[0] / "out/explore/notes")
    for path in (explored[0] / "out/explore/notes/steps").glob("layout-*"):
        path.unlink()
    main([f"text={explored[0]}/notes.txt", f"encoder={tiny}"])
    assert file_hashes(explored[0] / "out/explore/notes") == before and len(before) == 7


def test_a_killed_command_goes_on_and_ends_with_the_same_bytes(explored, tiny, tmp_path):
    expected = file_hashes(explored[0] / "out/explore/notes")
    command, steps = (
        ("explore", f"text={explored[0]}/notes.txt", f"encoder={tiny}"),
        tmp_path / "out/explore/notes/steps",
    )
    process = start_module(*command, cwd=tmp_path)
    deadline = time.time() + 120
    while process.poll() is None and time.time() < deadline and not list(steps.glob("cells-*.npz")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL and not list(steps.glob("layout-*"))
    finished = {path: path.stat().st_mtime_ns for path in steps.glob("[!.]*")}
    (steps / ".layout-0.npz.unfinished-0").write_bytes(b"half")
    assert run_module(*command, cwd=tmp_path).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "finished steps were repeated"
    assert file_hashes(tmp_path / "out/explore/notes") == expected and not list(steps.glob(".*"))


def test_finished_steps_are_not_repeated(tmp_path):
    calls = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"a": np.arange(3)}

    steps = Steps(tmp_path)
    assert steps.get("one", [1], compute)["a"].tolist() == steps.get("one", [1], compute)["a"].tolist() == [0, 1, 2]
    steps.get("one", [2], compute)
    again = Steps(tmp_path)
    again.get("one", [1], compute)
    assert len(calls) == 2
    again.remove_others()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"", bytes.swapcase])
def test_a_damaged_step_is_repeated(damage, tmp_path, capsys):
    expected = np.arange(65, 90).astype(np.uint8)
    Steps(tmp_path).get("one", [1], lambda: {"a": expected})
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert np.array_equal(Steps(tmp_path).get("one", [1], lambda: {"a": expected})["a"], expected)
    assert np.array_equal(Steps(tmp_path).get("one", [1], None)["a"], expected), "it is stored again"


def test_static_vectors_map_more_texts_than_the_encoder_reads(explored, tiny, monkeypatch):
    monkeypatch.chdir(explored[0])
    main([f"text={explored[0]}/notes.txt", f"encoder={tiny}", "name=static", "max_encoded=100", "queue_size=20"])
    folder = explored[0] / "out/explore/static"
    report = json.loads((folder / "report.json").read_text())
    queue = read_csv(folder / "queue.csv")
    assert report["vectors"] == "static" and len(queue) == 20
    assert sum(row["role"] == "measure" for row in queue) == 5


@pytest.mark.parametrize("max_encoded", [100, 1_000])
def test_equal_texts_are_mapped(tiny, tmp_path, monkeypatch, max_encoded):
    monkeypatch.chdir(tmp_path)
    Path("equal.txt").write_text("the same text\n" * 300)
    main(["text=equal.txt", f"encoder={tiny}", f"max_encoded={max_encoded}"])
    table = pyarrow.parquet.read_table("out/explore/equal/map.parquet").to_pydict()
    assert set(table["duplicate_of"]) == {0} and len(read_csv("out/explore/equal/queue.csv")) == 1


def write_task(folder, texts: list[str]) -> None:
    """Write labels of some texts, four of them wrong, and the task of them."""
    rows = []
    for index, text in enumerate(texts[:60]):
        if index not in (10, 20):
            subject = list(WORDS)[(index + (index in (3, 9, 15, 21))) % 3]
            rows.append([text, subject, "measure" if index % 4 == 0 else "train"])
    with open(folder / "labels.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "label", "role"], *rows])
    task = {"name": "subjects", "train": {"files": "labels.csv"}, "text": "text", "label": "label", "role": "role"}
    (folder / "subjects.yaml").write_text(json.dumps({"task": task}))


def test_labels_give_suggestions_suspects_and_no_repeated_row(explored, tiny, monkeypatch):
    folder, texts = explored
    monkeypatch.chdir(folder)
    write_task(folder, texts)
    main([f"text={folder}/notes.txt", "task=subjects.yaml", f"encoder={tiny}", "num_suspects=6"])
    queue = read_csv(folder / "out/explore/subjects/queue.csv")
    suspects = [row for row in queue if row["reason"] == "suspect"]
    assert queue[: len(suspects)] == suspects and len(suspects) <= 6
    labeled = {row["text"]: row["label"] for row in read_csv(folder / "labels.csv")}
    assert {row["text"]: row["label"] for row in suspects}.items() <= labeled.items() and suspects
    assert not any(row["label"] for row in queue[len(suspects) :])
    assert not labeled.keys() & {row["text"] for row in queue if row["reason"] != "suspect"}
    assert {row["suggestion"] for row in queue} <= set(WORDS)
    assert {row["reason"] for row in queue} == {"suspect", "uncertain", "spread", "random"}


def test_the_next_round_asks_the_model_and_measures_it_on_random_rows(explored, tiny, classifiers, monkeypatch):
    folder, texts = explored
    monkeypatch.chdir(folder)
    labels = ["bad", "fair", "good"] * 20
    roles = ["measure" if index % 3 == 0 else "train" for index in range(60)]
    with open(folder / "rated.csv", "w", encoding="utf-8", newline="") as file:
        rows = zip(texts[30:90], labels, roles, strict=True)
        csv.writer(file).writerows([["text", "label", "role"], *rows])
    task = {"name": "rated", "train": {"files": "rated.csv"}, "role": "role"}
    (folder / "rated.yaml").write_text(json.dumps({"task": task}))
    main([f"text={folder}/notes.txt", "task=rated.yaml", f"encoder={tiny}", "num_suspects=0"])
    main(["task=rated.yaml", f"encoder={tiny}", f"model={classifiers['single']}", "num_suspects=0"])
    report = json.loads((folder / "out/explore/rated/report.json").read_text())
    measured = report["measured"]
    assert report["inputs"] == len(texts), "the texts of the last round"
    assert report["suggested_by"] == "model" and measured["rows"] == 20
    assert measured["low"] <= measured["correct"] / 20 <= measured["high"]
    queue = read_csv(folder / "out/explore/rated/queue.csv")
    assert {row["reason"] for row in queue} == {"uncertain", "spread", "random"}
    assert len(queue) == len(texts) - 60 and {row["suggestion"] for row in queue} <= {"bad", "fair", "good"}


def test_copies_of_a_labeled_text_count_once(tiny, classifiers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = write_texts(tmp_path / "notes.txt", 60)
    rows = [[text, "good" if index % 2 else "bad", "train"] for index, text in enumerate(texts[:30])]
    rows += [[copy, "bad", "train"] for copy in [texts[1], f" {texts[1].upper()}"] for _ in range(20)]
    rows += [["one text", "fair", "measure"]] * 50 + [["One  text", "good", "measure"], ["two", "bad", "measure"]]
    with open("rated.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "label", "role"], *rows])
    task = {"name": "rated", "train": {"files": "rated.csv"}, "role": "role"}
    Path("rated.yaml").write_text(json.dumps({"task": task}))
    main(["task=rated.yaml", f"encoder={tiny}", f"model={classifiers['single']}", "baselines=false"])
    report = json.loads(Path("out/explore/rated/report.json").read_text())
    assert report["inputs"] == len(rows) and report["labeled"] == 32 and report["measured"]["rows"] == 2
    suspects = [row["text"] for row in read_csv("out/explore/rated/queue.csv") if row["reason"] == "suspect"]
    assert len({" ".join(text.split()).casefold() for text in suspects}) == len(suspects) > 1
    first = [row["label"] for row in pyarrow.parquet.read_table("out/explore/rated/map.parquet").to_pylist()][1]
    assert first == "good"


def test_a_model_alone_is_explored_on_the_task_of_its_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path("out/runs/posts-2")
    run.mkdir(parents=True)
    model = ["model=out/runs/posts-2", "seed=1"]
    assert expand(model) == model, "an encoder or a model of a hub has no task"
    (run / "config.yaml").write_text("task: {name: posts-2, train: {files: labels/posts.csv}}\n")
    assert expand(model) == [*model, f"task={run}/config.yaml"]
    assert expand(["model=posts-2"]) == ["model=posts-2", f"task={run}/config.yaml"]
    with pytest.raises(DataError, match="out/runs/posts-2/model: no such folder"):
        expand([f"model={run}/model"])
    (run / "model").mkdir()
    assert expand([f"model={run}/model"])[1:] == [f"task={run}/config.yaml"]
    Path("out/explore/posts").mkdir(parents=True)
    Path("out/explore/posts/report.json").write_text("{}")
    assert expand(model) == [*model, f"task={run}/config.yaml", "name=posts"], "the map of the first round"
    assert expand([*model, "name=x"])[-1] == f"task={run}/config.yaml"
    downloaded = Path("downloaded")
    downloaded.mkdir()
    (downloaded / "config.yaml").write_text("task: {name: posts-2, train: {files: /etc/passwd}}\n")
    assert expand([f"model={downloaded}/"]) == [f"model={downloaded}/"], "a stranger's task is not read"
    assert expand([*model, "task=mine"]) == [*model, "task=mine"]
    Path("configs/finetune").mkdir(parents=True)
    Path("configs/finetune/posts-2.yaml").touch()
    assert expand(model) == [*model, "task=posts-2"]


def test_files_and_flags_are_read_with_text_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with open("a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["text", "body"], *[[f"short {n}", f"a longer text {n}"] for n in range(12)]])
    Path("mine.yaml").write_text("{num_clusters: 3, seed: 7, source: {files: b.csv, text: body}}\n")

    def parse(*args: str) -> Explore:
        return parse_config(Explore, expand(list(args)), "explore", "")

    found = parse("text=a.csv", "mine.yaml", "seed=1")
    assert (found.name, found.num_clusters, found.seed) == ("a", 3, 1)
    assert (found.source.files, found.source.text) == ("a.csv", "body")
    Path("named.yaml").write_text("{name: other}\n")
    assert parse("text=a.csv", "named.yaml").name == "other"
    found = parse("--text", "a.csv", "--num_clusters", "4", "--sentences", "--source.text=body")
    assert (found.num_clusters, found.sentences, found.source.text) == (4, True, "body")
    assert parse("text=a.csv").source.text == "text"
    assert parse("text=a.csv", "--help") is None and "num_clusters" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="^3: neither a .yaml file nor key=value$"):
        expand(["text=a.csv", "3"])


@pytest.mark.parametrize(
    ("args", "command"),
    [
        ({"task": "configs/finetune/mine.yaml"}, "make label TASK=mine"),
        ({"task": "mine.yaml", "source": {"files": "a.txt"}}, "make label TASK=mine.yaml"),
        ({"task": "out/runs/a/config.yaml", "source": {"files": "my notes/a.txt"}}, "make label FILE='my notes/a.txt'"),
        ({"task": "out/runs/a/config.yaml"}, 'make label ARGS="queue=out/explore/a/queue.csv"'),
        ({"source": {"files": "b.txt"}}, 'make label ARGS="queue=out/explore/a/queue.csv"'),
        ({"modality": "images", "source": {"files": "a"}}, ""),
    ],
)
def test_the_next_command_labels_the_queue(args, command):
    assert next_command("a", Explore(**args)) == command


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "no input: set text=FILES, images=FILES, corpus=NAME or task=NAME"),
        (["model=out/runs/none"], "out/runs/none: no such folder"),
        (["model=none"], "out/runs/none: no such folder"),
        (["text=empty.txt"], "0 texts are too few for a map: give at least 10"),
        (["corpus=reviewz"], "corpus: configs/corpus/reviewz.yaml does not exist (nearest: reviews)"),
        (["task=sentimant"], "task: configs/finetune/sentimant.yaml does not exist (nearest: sentiment)"),
        (["text=few.txt"], "3 texts are too few for a map: label them all, or give at least 10"),
        (["text=none.txt"], "none.txt: no such file"),
        (["corpus=reviews", "source.files=few.txt"], "corpus: give either a corpus or text=FILES, not both"),
        (["corpus=reviews", "clusters=kmean"], "clusters: 'kmean' is none of"),
        (["text=many.txt", "model=nothing"], "nothing: no folder or run of this name"),
        (["corpus=reviews", "encodr=x"], "encodr: no such key (nearest: encoder)"),
    ],
)
def test_mistakes_are_one_line(workspace, capsys, monkeypatch, args, expected):
    (workspace / "empty.txt").touch()
    (workspace / "few.txt").write_text("one text\nanother text\na third\n")
    write_texts(workspace / "many.txt", 30)
    lines = error_lines(main, args or ["seed=1"], capsys, monkeypatch)
    assert expected in lines[-1] and not (workspace / "out/explore").exists()


def test_the_page_shows_texts_as_texts_and_draws_the_map(explored, tmp_path):
    page = explored[0] / "out/explore/notes/map.html"
    dom, requests = load_page(page, tmp_path / "profile")
    assert set(requests) <= {"/map.html", "/favicon.ico"}
    assert "<title>Map of notes" in dom and 'data-drawn="150"' in dom
    assert "<img" not in dom and dom.count("<script") == 1
    assert "&lt;script&gt;document.title" in dom
    assert dom.count("<span") > 3, "names are on the map"


@pytest.fixture
def browser(tmp_path):
    opened = Browser(tmp_path / "profile")
    size = {"width": 1000, "height": 1400, "deviceScaleFactor": 1, "mobile": False}  # the whole map is in the window
    opened.call("Emulation.setDeviceMetricsOverride", size)
    yield opened
    opened.close()


def drag(browser, points: list[tuple[float, float]], shift: bool = False) -> None:
    """Draw a line with the mouse through points of the map, from 0 to 1."""
    left, top, width, height = browser.evaluate(
        "(scrollTo(0, 0), ['left', 'top', 'width', 'height'].map((key) => box.getBoundingClientRect()[key]))"
    )
    kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 2), "mouseReleased"]
    for kind, (x, y) in zip(kinds, points, strict=True):
        place = {"x": left + x * width, "y": top + y * height, "button": "left", "buttons": 1, "clickCount": 1}
        browser.call("Input.dispatchMouseEvent", {"type": kind, **place, "modifiers": 8 if shift else 0})


def test_a_lasso_selects_the_points_inside_and_the_file_is_a_queue(explored, browser, monkeypatch):
    """Against the positions in the map's table; the reserved ones cannot be chosen, and texts are read whole."""
    folder = explored[0] / "out/explore/notes"
    monkeypatch.chdir(explored[0])
    table = pyarrow.parquet.read_table(folder / "map.parquet").to_pydict()
    browser.open((folder / "map.html").as_uri())
    browser.wait_for("document.body.dataset.drawn === '150'")
    browser.evaluate("document.getElementById('lasso').click()")
    drag(browser, [(0.01, 0.01), (0.5, 0.01), (0.5, 0.99), (0.01, 0.99), (0.01, 0.9)])
    browser.wait_for("!document.getElementById('selection').hidden")
    inside = {index for index, x in enumerate(table["projection_x"]) if x < -0.02}
    near = {index for index, x in enumerate(table["projection_x"]) if abs(x) < 0.04}
    found = set(browser.evaluate("listPicked()"))
    assert len(found) > 10 and found ^ inside <= near, "the left half"
    assert browser.evaluate("document.getElementById('selected').textContent") == f"{len(found)} texts selected"
    browser.evaluate("document.getElementById('selection-name').value = '\\'=left, \x22half\x22'")
    Path("selection.csv").write_text(browser.evaluate("selectionCsv()"), encoding="utf-8")
    rows = read_csv("selection.csv")
    assert {int(row["id"]) for row in rows} == found and rows[0]["selection"] == "''=left, \"half\""
    assert all(row["excerpt"] in ("", *explored[1]) or row["excerpt"].startswith("'=1+1") for row in rows)
    config = Label(source=None, queue="selection.csv")
    items = read_items(config, None, "notes", Path("labels/notes.csv"))
    allowed = {index for index in found if not table["reserved"][index]}
    assert {item.id for item in items} == allowed and {item.role for item in items} == {"train"}
    assert all(item.text == table["text"][item.id] and item.cluster == '\'=left, "half"' for item in items)
    assert 0.1 < np.mean(table["reserved"]) < 0.4
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps(report | {"key": "another"}))
    with pytest.raises(ConfigError, match="selection.csv is of another map than that in out/explore/notes"):
        read_items(config, None, "notes", Path("x"))
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")


def test_a_cluster_is_selected_by_keys_and_a_selection_is_cleared(explored, browser):
    folder = explored[0] / "out/explore/notes"
    table = pyarrow.parquet.read_table(folder / "map.parquet").to_pydict()
    browser.open((folder / "map.html").as_uri())
    browser.wait_for("document.body.dataset.drawn === '150'")
    browser.evaluate("document.querySelectorAll('table.clusters tbody tr')[2].focus()")
    browser.press("s")
    members = [index for index, cluster in enumerate(table["cluster"]) if cluster == 2]
    assert browser.wait_for("listPicked().length && listPicked()") == members
    assert browser.evaluate("document.querySelectorAll('#selected-list li').length") == len(members)
    assert browser.evaluate("document.getElementById('selection-name').value")
    browser.press("Enter")
    assert browser.wait_for("chosen === 2") and not browser.evaluate("pickButton.disabled")
    browser.evaluate("document.getElementById('clear').click()")
    assert browser.evaluate("listPicked()") == []
    browser.evaluate("picked[0] = 1; showSelection()")
    assert browser.evaluate("document.getElementById('selected').textContent") == "1 text selected"
    assert browser.evaluate("document.querySelector('#selected-list bdi').textContent")
    browser.evaluate("clearSelection(); box.dispatchEvent(new PointerEvent('pointerdown', {button: 2}))")
    assert browser.evaluate("drag === null"), "another button moved the map"
    browser.evaluate("box.dispatchEvent(new PointerEvent('pointerdown')); dragged = drag !== null")
    browser.evaluate("window.dispatchEvent(new PointerEvent('pointercancel'))")
    assert browser.evaluate("dragged && drag === null")
    for text in ("=x", "'@", "\nx", "\uff1dx", "\uff0b1", "\uff0d1", "'\uff20x"):
        cell = f"'{text}"
        assert browser.evaluate(f"cell({json.dumps(text)})") == (f'"{cell}"' if "\n" in cell else cell)
    drag(browser, [(0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98), (0.02, 0.5)], shift=True)
    assert set(browser.wait_for("listPicked().length && listPicked()")) <= set(members), "of the cluster shown alone"


def test_texts_without_a_position_on_the_page_are_not_shown(monkeypatch):
    monkeypatch.setattr(page, "MAX_POINTS", 60)
    inputs, clusters = Inputs(), np.arange(100, dtype=np.int32) % 2
    for number in range(100):
        inputs.add(f"text {number}")
    queue = [Entry(index, "train", "spread") for index in (5, 95)]
    typical, positions = [np.array([0, 98]), np.array([1, 99])], np.zeros((100, 2))
    found = Map("", inputs, clusters, np.zeros(2, np.int32), ["a", "b"], ["c"], typical, positions, *[None] * 12)
    found.queue, found.oddness = queue, np.arange(100)
    for limit in (40, 1_000):
        data = page.point_data(found, page.list_shown(found, limit))
        shown = np.frombuffer(base64.b64decode(data["shown"]), np.uint32)
        assert 5 in shown and len(shown) >= 10 and shown.max() < 60 == len(base64.b64decode(data["kinds"]))
        assert data["texts"].split("\n") == [f"text {index}" for index in shown]


def test_all_near_duplicates_are_listed():
    first = np.full(8, -1)
    first[[1, 4, 6]], first[[2, 3]] = 1, 2
    found = Map(*[None] * 10, {"duplicate_of": first}, *[None] * 9)
    assert [group.tolist() for group in found.list_duplicates()] == [[1, 4, 6], [2, 3]]
