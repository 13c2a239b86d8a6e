"""Sessions of labeling: keys in the terminal, order, clusters, nearest rows, and files for other tools."""

from __future__ import annotations

import io
import json
import os
import pty
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import error_lines
from PIL import Image
from tiny_labels import CLASSES, make_items, read_rows, write_queue

from data.images.task import ImageTask
from data.tasks.task import Task, TaskFile, read_all
from engine.config.loader import load_config
from label.__main__ import main
from label.config import Label
from label.items import Item, draw, read_items
from label.nearest import Nearest
from label.run import choose_labels, open_session
from label.session import RefusedError
from label.store import AnswerFile, now
from label.terminal import Terminal


def run_keys(session, keys: str) -> str:
    """Return what the terminal prints for these keys."""
    out = io.StringIO()
    Terminal(session, io.StringIO(keys), out).run()
    return out.getvalue()


def answers_of(session) -> dict[str, str]:
    return {text: answer.label or answer.answer for text, answer in session.store.answers.items()}


def test_keys_of_the_terminal(make_session):
    items = make_items(9)
    for item in items[4:7]:
        item.suggestion, item.probability = "plant", 0.6
    session = make_session(items)
    shown = run_keys(session, "1ux" + "2" + "y" + "nmetal\n" + "zz" + "3s1q")
    assert answers_of(session) == {
        "text number 0": "animal",
        "text number 1": "unsure",
        "text number 2": "skip",
        "text number 3": "plant",
        "text number 4": "stone",
        "text number 5": "animal",
    }
    assert session.classes == [*CLASSES, "metal"] and "Enter or y plant" in shown and "4 metal" in shown
    assert [row["answer"] for row in read_rows(session.store.path)].count("undo") == 2
    assert session.store.answers["text number 3"].role == "measure"


def test_more_than_nine_classes_have_two_digits(make_session):
    session = make_session(make_items(4), [f"class {n}" for n in range(1, 13)])
    shown = run_keys(session, "12" + "99" + "0x" + "01q")
    assert answers_of(session) == {"text number 0": "class 12", "text number 1": "class 1"}
    assert "01 class 1" in shown and "no class has the key 99" in shown


def test_no_key_of_the_terminal_runs_what_a_text_or_a_class_holds(make_session):
    hostile = "red \x1b[31m\x07 text \u202e"
    items = [Item(n, f"{n} {hostile}", cluster="1", suggestion=hostile) for n in range(9)]
    session = make_session(items, [hostile, "b"])
    shown = run_keys(session, "1" + "y" + "c1y" + "q")
    assert set(answers_of(session).values()) == {hostile} and "rows as" in shown and "Enter or y" in shown
    assert "\x1b" not in shown and "\x07" not in shown


PAGE_DOWN, DELETE, F1, LEFT = "\x1b[6~", "\x1b[3~", "\x1bOP", "\x1b[1;2D"


def test_a_key_that_sends_several_characters_labels_nothing(make_session):
    session = make_session(make_items(9))
    run_keys(session, PAGE_DOWN + DELETE + F1 + LEFT + "1" + f"nme{DELETE}{LEFT}tal\n" + "\x1b2" + "nstone\x1b3q")
    assert list(answers_of(session).values()) == ["animal", "metal", "plant", "stone"]


def test_keys_of_a_terminal_are_read_as_they_are_typed(make_session):
    """Escape alone closes the line at once, and those of other keys are read whole."""
    session, out = make_session(make_items(9)), io.StringIO()
    keyboard, terminal = pty.openpty()
    with open(terminal, encoding="utf-8") as source:
        thread = threading.Thread(target=Terminal(session, source, out).run, daemon=True)
        thread.start()
        for keys, expected in (
            ("", "text number 0"),
            (f"{PAGE_DOWN}1", "text number 1"),
            (f"n{DELETE}caf\u00e9\n", "text number 2"),
            ("nstone\x1b", "class: stone\n"),
            ("2", "text number 3"),
        ):
            os.write(keyboard, keys.encode())
            deadline = time.monotonic() + 20
            while expected not in out.getvalue():
                assert time.monotonic() < deadline, (keys, out.getvalue())
                time.sleep(0.01)
        os.write(keyboard, b"q")
        thread.join(20)
        assert not thread.is_alive()
    os.close(keyboard)
    assert list(answers_of(session).values()) == ["animal", "caf\u00e9", "plant"]


def test_a_suggestion_is_no_answer_and_not_shown_on_rows_to_measure_by(make_session):
    items = [Item(0, "a", "measure", suggestion="plant"), Item(1, "b", suggestion="plant"), Item(2, "c")]
    session = make_session(items)
    shown = run_keys(session, "yyuq")
    assert shown.count("Enter or y plant") == 1 and answers_of(session) == {"a": "unsure"}
    shown = run_keys(make_session(items, [], suggest=False), "ssyq")
    assert "plant" not in shown and "s suggestions" not in shown


def test_a_cluster_is_labeled_at_once_after_it_is_confirmed(make_session):
    items = make_items(12)
    for item in items:
        item.cluster = str(item.id % 2)
    session = make_session(items)
    run_keys(session, "c2nq")
    assert not session.store.answers, "not confirmed"
    run_keys(session, "c2yq")
    expected = {item.text: "plant" for item in items if item.cluster == "0" and item.role == "train"}
    assert answers_of(session) == expected and len(expected) == 6 and len(session.steps) == 1
    assert len({row["time"] for row in read_rows(session.store.path)}) == 1
    with pytest.raises(RefusedError, match="the cluster has changed"):
        session.answer_cluster(session.current().id, "plant", 99)
    session.undo()
    assert not session.store.answers and session.current().id == 0


def test_a_large_cluster_is_taken_back_at_once(make_session):
    items = [Item(number, f"text {number}", cluster="1") for number in range(15_000)]
    session = make_session(items)
    session.answer_cluster(0, "plant", len(items))
    start = time.process_time()
    assert session.undo() and session.current().id == 0
    assert time.process_time() - start < 2


def test_of_a_large_cluster_a_random_sample_is_shown(make_session):
    items = make_items(200)
    for item in items:
        item.cluster = "selection"
    session = make_session(items)
    sample, again = session.sample_cluster(0), session.sample_cluster(0)
    positions = [item.id for item in sample]
    assert sample == again and sample[0] is session.current() and len(set(positions)) == 24
    assert positions == sorted(positions) and max(positions) > 150, "not the first ones"
    assert all(item.role == "train" for item in sample)
    shown = run_keys(session, "c1nq")
    assert "which class for all 150 rows?" in shown and "and 140 more; these were drawn at random" in shown
    assert len(session.sample_cluster(0, 500)) == 150


def test_an_answer_about_another_row_is_refused(make_session):
    session = make_session(make_items(3))
    session.answer(0, "label", "plant")
    for wrong in ((0, "label", "plant"), (1, "maybe", ""), (1, "label", "  "), (1, "label", "x" * 101)):
        with pytest.raises(RefusedError):
            session.answer(*wrong)
    assert answers_of(session) == {"text number 0": "plant"}


def test_a_class_of_the_task_is_taken_as_it_is(make_session):
    classes = ["two  spaces", "x" * 101]
    session = make_session(make_items(3), classes)
    run_keys(session, "12q")
    assert list(answers_of(session).values()) == classes == session.classes


def test_a_file_that_is_gone_is_a_message_of_the_terminal(make_session):
    session = make_session(make_items(3))
    session.store.path.unlink()
    shown = run_keys(session, "1q")
    assert "No such file or directory" in shown and not session.store.answers


def test_a_session_goes_on_where_it_ended_and_ends_after_the_answers_asked_for(make_session):
    first = make_session(make_items(10), num_answers=3)
    run_keys(first, "1111111")
    assert len(answers_of(first)) == 3 and first.current() is None
    second = make_session(make_items(10), num_answers=3)
    assert second.current().id == 3 and second.progress()["labeled"] == 3 and second.progress()["answered"] == 0
    run_keys(second, "22z22q")
    assert len(answers_of(second)) == 6


def test_suspect_labels_are_shown_again_with_the_label_they_have(make_session):
    session = make_session([Item(0, "old", "measure")])
    run_keys(session, "1")
    time.sleep(0.01)
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
    session = make_session([Item(0, "old", "train", "suspect"), Item(1, "new")], queue_time=later)
    shown = run_keys(session, "2")
    assert "labeled as animal, is that right?" in shown and answers_of(session) == {"old": "plant"}
    assert session.store.answers["old"].role == "measure", "rows to measure by stay that"


def test_a_suspect_label_that_is_taken_back_is_shown_again(make_session):
    """Also in a later session; a further undo takes back the answer given before, not the label."""
    first = make_session(make_items(2))
    run_keys(first, "12q")
    time.sleep(0.002)
    queue_time = now()
    time.sleep(0.002)
    suspects = [Item(0, "text number 0", "train", "suspect")]
    session = make_session(suspects, queue_time=queue_time)
    run_keys(session, "3q")
    assert session.current() is None and session.undo() and session.current() is suspects[0]
    session = make_session(suspects, queue_time=queue_time)
    assert session.current() is suspects[0] and "labeled as animal, is that right?" in run_keys(session, "q")
    run_keys(session, "zq")
    assert answers_of(session) == {"text number 0": "animal"} == answers_of(make_session(suspects))


def test_a_label_of_another_file_is_shown(make_session, tmp_path):
    write_queue(tmp_path / "queue.csv", [Item(0, "old", "train", "suspect", label="=plant"), Item(1, "new")])
    items = read_items(Label(queue="queue.csv"), None, "mine", Path("x"))
    assert [item.label for item in items] == ["=plant", ""]
    shown = run_keys(make_session(items), "1q")
    assert shown.count("is that right?") == shown.count("labeled as =plant, is that right?") == 1
    assert "is that right?" not in run_keys(make_session([items[0]]), "q"), "answered here"


def test_the_queue_gives_the_order_and_without_it_rows_are_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("".join(f"line number {n}\n\n" for n in range(40)) + "LINE number  3\n")
    config = Label(source={"files": "texts.txt"})
    items = read_items(config, None, "texts", Path("labels/texts.csv"))
    assert items == read_items(config, None, "texts", Path("x")) and len(items) == 40
    assert sum(item.role == "measure" for item in items) == 10 and [item.id for item in items] != list(range(40))
    assert [item.role for item in draw(["a"] * 8, 0.25, 0)] == (["train"] * 3 + ["measure"]) * 2
    Path("lines.txt").write_text("one thing\nand another\n")
    lines = read_items(Label(source={"files": "lines.txt"}), None, "lines", Path("x"))
    assert {item.text for item in lines} == {"one thing", "and another"}
    queued = make_items(5)
    queued[1].text, queued[2].cluster, queued[2].suggestion, queued[2].probability = "=SUM(A1)", "7", "plant", 0.25
    queued[0].probability, queued[3].probability = float("nan"), float("inf")
    write_queue(Path("out/explore/mine/queue.csv"), queued)
    queued[0].probability = queued[3].probability = None
    assert read_items(Label(), None, "mine", Path("x")) == queued


def test_labels_that_a_file_has_already_are_counted_in_a_note(tmp_path, caplog):
    path = tmp_path / "texts.csv"
    path.write_text("text,label\na,good\nb,\nc,bad\n")
    with caplog.at_level("INFO"):
        assert len(read_items(Label(source={"files": str(path)}), None, "texts", Path("x"))) == 3
    assert f"{path}: its column 'label' has 2 labels, which are not read; a task with" in caplog.text
    path.write_text("text,label\na,\nb,\n")
    caplog.clear()
    with caplog.at_level("INFO"):
        read_items(Label(source={"files": str(path)}), None, "texts", Path("x"))
    assert not caplog.text


def test_texts_are_labeled_in_the_order_of_their_map_and_not_of_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "mine.csv").write_text("text\n" + "".join(f"text number {n}\n" for n in range(9)))
    queued = make_items(5)
    write_queue(Path("out/explore/mine/queue.csv"), queued)
    report = Path("out/explore/mine/report.json")
    for source, is_used in (({"files": str(tmp_path / "a/mine.csv"), "text": "text"}, True), (None, False)):
        report.write_text(json.dumps({"config": {"source": source}}))
        items = read_items(Label(source={"files": "a/mine.csv"}), None, "mine", Path("x"))
        assert (items == queued) == is_used
    report.write_text(json.dumps({"config": {"source": {"files": "a/mine.csv"}}}))
    assert len(read_items(Label(source={"files": "b/mine.csv"}), None, "mine", Path("x"))) == 9
    monkeypatch.setattr("sys.stdin", io.StringIO("na\nq"))
    main(["queue=out/explore/mine/queue.csv", "terminal=true"])
    assert [row["text"] for row in read_rows(Path("labels/mine.csv"))] == ["text number 0"]
    shown = capsys.readouterr().out.rstrip()
    assert shown.endswith('ENCODER=minilm ARGS="task.unlabeled.files=out/explore/mine/queue.csv"')


def test_a_queue_in_the_current_folder_has_the_name_of_the_folder(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    write_queue(folder / "queue.csv", make_items(5))
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.stdin", io.StringIO("na\nq"))
    main(["queue=queue.csv", "terminal=true"])
    assert [path.name for path in Path("labels").glob("*.csv")] == ["mine.csv"]


def test_a_tasks_own_rows_without_a_label_are_labeled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text("body,label\n" + "".join(f"text {n},{'ab'[n % 2] * (n < 20)}\n" for n in range(60)))
    files = {"files": ["data.csv", "labels/t.csv"], "rename": {"body": "text"}}
    task = Task(name="t", train=files, role="role", classes=["a", "b"])
    session, _ = open_session(Label(num_answers=None), task, "t")
    assert session.store.path == Path("labels/t.csv") and session.classes == ["a", "b"]
    assert {item.text for item in session.items} == {f"text {n}" for n in range(20, 60)}
    while item := session.current():
        session.answer(item.id, "label", "ab"[int(item.text[5:]) % 2])
    splits, unlabeled = read_all(task, needs_validation=False)
    assert sum(map(len, splits.values())) == 60 and not unlabeled
    assert {example.texts[0] for example in splits["test"]} == {i.text for i in session.items if i.role == "measure"}


def test_rows_that_a_tool_has_annotated_are_not_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    choice = {"type": "choices", "value": {"choices": ["a"]}, "from_name": "c"}
    tasks = [
        {"id": n, "data": {"text": f"text {n}"}, "annotations": [{"result": [choice]}] if n < 3 else []}
        for n in range(8)
    ]
    Path("tasks.json").write_text(json.dumps(tasks))
    task = Task(name="t", train={"files": ["tasks.json", "labels/t.csv"]}, classes=["a", "b"])
    items = read_items(Label(), task, "t", Path("labels/t.csv"))
    assert {item.text for item in items} == {f"text {n}" for n in range(3, 8)}


@pytest.mark.parametrize("name", ["*.csv", "data/t[12].csv", "s3://bucket/train.csv", "https://x.example/a.csv"])
def test_answers_are_in_no_file_that_a_glob_or_an_address_names(name):
    assert choose_labels(Label(), Task(name="t", train={"files": name}), "t") == Path("labels/t.csv")
    assert choose_labels(Label(), Task(name="t", train={"files": "own/t.csv"}), "t") == Path("own/t.csv")


@pytest.mark.parametrize("name", ["*.csv", "@x.csv", "texts #2.csv", "- a.csv", "2024", "it's \U0001f600.csv"])
def test_a_file_may_have_any_name(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("named.csv" if name == "*.csv" else name).write_text("text\none\ntwo\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("na\nq"))
    main([f"file={name}", "terminal=true", "source.format=csv", "labels=answers.csv"])
    assert [row["label"] for row in read_rows(Path("answers.csv"))] == ["a"], capsys.readouterr().out


def test_images_are_labeled_by_their_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(16):
        Image.new("RGB", (24, 20), (number * 15, 90, 10)).save(f"photos/{number}.png")
    Path("task.yaml").write_text(
        "task: {name: p, modality: images, role: role, label: label, train: {files: labels/p.csv},"
        " unlabeled: {folder: photos}, pixels: {size: 16}}\n"
    )
    from label.run import load_task

    task = load_task(Path("task.yaml"))
    session, _ = open_session(Label(num_answers=None), task, "p")
    assert sorted(item.text for item in session.items) == sorted(f"photos/{n}.png" for n in range(16))
    while item := session.current():
        session.answer(item.id, "label", "even" if int(Path(item.text).stem) % 2 == 0 else "odd")
    splits, unlabeled = read_all(task, needs_validation=False)
    assert sum(map(len, splits.values())) == 16 and len(splits["test"]) == 4 and not unlabeled


def test_images_of_a_file_are_labeled_for_a_task_of_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos (1)").mkdir()
    for number in range(3):
        Image.new("RGB", (24, 20), (number * 15, 90, 10)).save(f"photos (1)/{number}.png")
    Path("photos (1)/table.csv").write_text("image\n" + "".join(f"{number}.png\n" for number in range(3)))
    task = ImageTask(name="p", train={"files": "labels/p.csv"}, label="label", pixels={"size": 16})
    for name in ("photos (1)/table.csv", "photos (1)"):
        items = read_items(Label(source={"files": name}), task, "p", Path("labels/p.csv"))
        assert sorted(item.text for item in items) == [f"photos (1)/{number}.png" for number in range(3)]


def test_classes_of_images_are_as_they_were_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = AnswerFile(Path("labels/p.csv"), "image")
    for number, label in enumerate("+-"):
        Image.new("RGB", (24, 20), (number * 15, 90, 10)).save(f"{number}.png")
        store.add([(f"{number}.png", label, "train", "label", 1.0)])
    task = ImageTask(name="p", train={"files": "labels/p.csv"}, label="label", pixels={"size": 16})
    assert [row.example.label for row in task.iter_rows(task.train, "train")] == ["+", "-"]


def test_the_nearest_rows_are_those_of_the_largest_similarity():
    texts = ["red apples and pears", "green apples", "blue sky today", "the sky is blue", "nothing in common 7"]
    found = Nearest(texts).find("blue apples", texts[:4])
    assert set(found) == set(texts[:4]) - {texts[0]} or len(found) == 3
    assert Nearest(texts).find(texts[2], texts[:4])[0] == texts[3] and not Nearest(texts).find("zzz", texts)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5, 8)).astype(np.float16)
    unit = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    scores = unit[1:] @ unit[0]
    expected = [texts[1 + row] for row in np.argsort(-scores) if scores[row] > 0][:3]
    assert Nearest(texts, vectors).find(texts[0], [*texts[1:], "unknown"]) == expected


@pytest.mark.parametrize("tool", ["label-studio", "doccano", "argilla"])
def test_a_tool_gets_the_queue_and_its_export_is_read(tool, tmp_path, monkeypatch, capsys):
    """The annotations are added as each tool does; suggestions are never labels, and none is on rows to measure by."""
    monkeypatch.chdir(tmp_path)
    items = make_items(24)
    for item in items:
        item.suggestion, item.probability = "plant", 0.5
    write_queue(Path("out/explore/mine/queue.csv"), items)
    Path("mine.yaml").write_text("task: {name: mine, train: {files: labels/mine.csv}, role: role}\n")
    main(["mine.yaml", f"export={tool}", "output=tool.json" if tool != "doccano" else "output=tool.jsonl"])
    assert "24 rows for" in capsys.readouterr().out
    path = Path("tool.jsonl" if tool == "doccano" else "tool.json")
    text = path.read_text()
    records = [json.loads(line) for line in text.splitlines()] if tool == "doccano" else json.loads(text)
    assert text.count("plant") == (0 if tool == "doccano" else 18)
    for number, record in enumerate(records):
        label = "ab"[number % 2]
        if tool == "label-studio":
            result = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
            record["annotations"] = [{"result": [result]}]
        elif tool == "doccano":
            record["label"] = [label]
        else:
            record["responses"] = {"label": [{"value": label, "status": "submitted"}]}
    path.write_text("\n".join(map(json.dumps, records)) if tool == "doccano" else json.dumps(records))
    splits, _ = read_all(Task(name="t", train={"files": str(path)}, role="role"), needs_validation=False)
    assert {example.texts[0] for example in splits["test"]} == {i.text for i in items if i.role == "measure"}
    assert {example.label for example in splits["train"]} == {"a", "b"} and sum(map(len, splits.values())) == 24


@pytest.mark.parametrize(
    "args, message",
    [
        (["task=nowhere"], "task: configs/finetune/nowhere.yaml does not exist"),
        (["terminal=true"], "no input: set task=NAME, file=texts.csv or queue=out/explore/NAME/queue.csv"),
        (["queue=q.csv"], "queue: q.csv does not exist; make explore writes it"),
        (["a.yaml"], "nothing to label: run make explore first, or set file=texts.csv or task.unlabeled.files"),
        (["a.yaml", "queue=q.csv"], "queue: q.csv does not exist; make explore writes it"),
        (["a.yaml", "terminall=true"], "terminall: no such key (nearest: terminal)"),
        (["number.yaml"], "task.problem_type: labeling gives one class to each text, not regression"),
        (["file=a.yaml"], "a.yaml: unknown extension"),
        (["file=lines.txt", "labels=folder"], "folder: cannot be used (Is a directory)"),
        (["file=lines.txt", "labels=a.yaml/x.csv"], "a.yaml: cannot be used (File exists)"),
        (["file=lines.txt", "labels=a.yaml/x/y.csv"], "a.yaml/x: cannot be used (Not a directory)"),
        (["file=lines.txt", "export=doccano", "output=folder"], "folder: cannot be used (Is a directory)"),
        (["file=table.csv"], "table.csv row 1: which column has the text? There are x, y; set rename"),
    ],
)
def test_mistakes_are_one_line(args, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("task: {name: a, train: {files: labels/a.csv}, role: role}\n")
    Path("number.yaml").write_text("task: {name: a, problem_type: regression, train: {files: labels/a.csv}}\n")
    Path("table.csv").write_text("x,y\n1,2\n")
    Path("lines.txt").write_text("one\ntwo\n")
    Path("folder").mkdir()
    (line,) = error_lines(main, args, capsys, monkeypatch)
    assert line.startswith(message)
    assert not Path("labels").exists()


def test_the_command_ends_with_the_next_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("text\n" + "".join(f"text {n}\n" for n in range(9)))
    monkeypatch.setattr("sys.stdin", io.StringIO("na\nnb\n12q"))
    main(["file=t.csv", "terminal=true"])
    out = capsys.readouterr().out
    assert "labels/t.csv: 4 rows labeled, 1 of them test rows; 4 answers now" in out
    command = 'make finetune LABELS=labels/t.csv{} ENCODER=minilm ARGS="task.unlabeled.files=t.csv"'
    assert out.rstrip().endswith(command.format(""))
    for number in (2, 3):
        Path("out/runs/t", *[f"../t-{number - 1}"] * (number > 2)).mkdir(parents=True)
        monkeypatch.setattr("sys.stdin", io.StringIO("q"))
        main(["file=t.csv", "terminal=true"])
        assert capsys.readouterr().out.rstrip().endswith(command.format(f" RUN=t-{number}"))
    Path("out/runs/mine/encoder").mkdir(parents=True)
    Path("lines.txt").write_text("one\ntwo\nthree\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("q"))
    main(["file=lines.txt", "terminal=true"])
    assert capsys.readouterr().out.rstrip().endswith("make finetune LABELS=labels/lines.csv"), "read as another unit"
    Path("t.yaml").write_text("task: {name: t, train: {files: t.csv}}\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("q"))
    main(["t.yaml", "terminal=true"])
    captured = capsys.readouterr()
    assert "task needs  role: role,  train: {files: labels/t.csv}" in captured.err
    assert os.path.isfile("labels/t.csv") and load_config(TaskFile, ["t.yaml"]).task.name == "t"
