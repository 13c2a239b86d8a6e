"""The page of labeling: who may reach it, that no text is read as HTML, and a hundred rows by the keys of a browser."""

from __future__ import annotations

import errno
import http.client
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import Browser
from helpers import environment
from PIL import Image
from tiny_labels import CLASSES, make_items, read_rows

from label.items import Item, image_loader
from label.server import Pages, Server

HOSTILE = "<img src=x onerror=alert(1)><script>alert(1)</script>&amp; \"' </textarea>"


class Client:
    """Requests to a server, with the right token and headers unless others are given."""

    def __init__(self, server: Server):
        self.server = server

    def request(self, path: str, body: object = None, token: str | None = None, **headers: str) -> tuple:
        """Return (status, body, headers)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=30)
        token = self.server.token if token is None else token
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named = ({"Content-Type": "application/json"} if body is not None else {}) | named
        connection.request("GET" if body is None else "POST", f"/{token}/{path}", content, named)
        response = connection.getresponse()
        found = response.status, response.read().decode("utf-8", "replace"), dict(response.getheaders())
        connection.close()
        return found

    def state(self) -> dict:
        """Return the state."""
        return json.loads(self.request("state")[1])


@contextmanager
def served(session):
    with Server(Pages(session, "Label mine")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield Client(server)
        server.shutdown()
        thread.join()


def test_only_the_address_with_the_token_is_answered(make_session):
    session = make_session(make_items(3))
    with served(session) as client:
        assert client.server.server_address[0] == "127.0.0.1" and len(client.server.token) >= 32
        assert client.request("")[0] == client.request("state")[0] == 200
        port, answer = client.server.server_port, {"id": 0, "answer": "label", "label": "plant"}
        forbidden = [
            client.request("state", token="x"),
            client.request("state", token=client.server.token[:-1]),
            client.request("answer", answer, token="%C3%A9"),
            client.request("answer", answer, token=""),
            client.request("state", Host=f"attacker.example:{port}"),
            client.request("answer", answer, Host="127.0.0.1.attacker.example"),
            client.request("answer", answer, Origin="https://attacker.example"),
            client.request("answer", answer, Origin="null"),
            client.request("answer", answer, Origin="http://["),
        ]
        assert {status for status, *_ in forbidden} == {403} and not session.store.answers
        assert client.request("state", Host=f"localhost:{port + 1}")[0] == 200, "by a tunnel of ssh"
        for _, _, headers in (client.request(""), forbidden[0]):
            assert not [name for name in headers if name.lower().startswith("access-control")]
            assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
            assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_what_is_no_action_changes_nothing(make_session, tmp_path):
    Image.new("RGB", (2000, 30)).save(tmp_path / "a.png")
    (tmp_path / "secret.txt").write_text("secret")
    items = [Item(0, str(tmp_path / "a.png"), load=image_loader(str(tmp_path / "a.png"))), *make_items(3)[1:]]
    session = make_session(items)
    with served(session) as client:
        status, content, headers = client.request("image/0")
        assert status == 200 and headers["Content-Type"] == "image/jpeg" and "secret" not in content
        paths = "image/1 image/-1 image/../secret.txt image/%2e%2e%2fsecret.txt ../secret.txt image//etc/passwd"
        for path in f"{paths} page.js labels/mine.csv cluster/x".split():
            status, content, _ = client.request(path)
            assert status == 404 and "secret" not in content, path
        for body in (b"{", b"[]", b"x" * 2**17, {"id": 0}, {"id": 0, "answer": "label", "label": ["a"] * 99}, {}):
            assert client.request("answer", body)[0] in (400, 404, 409)
        assert client.request("answer", {"id": 0, "answer": "skip"}, Content_Type="text/plain")[0] == 400
        assert client.request("answer", {"id": 0, "answer": "skip"}, Content_Length="9" * 5_000)[0] == 400
        assert client.request("nothing", {})[0] == 404 and not session.store.answers
        (tmp_path / "a.png").write_text("no image")
        assert client.request("image/0")[0] == 500
        status, message, _ = client.request("answer", {"id": 9, "answer": "skip"})
        assert (status, message) == (409, "this row was answered already") and client.state()["item"]["id"] == 0


def test_a_picture_that_the_browser_drops_is_no_error(make_session, capsys):
    is_read, is_closed, is_handled = threading.Event(), threading.Event(), threading.Event()

    def load() -> Image.Image:
        is_read.set()
        assert is_closed.wait(20)
        return Image.effect_noise((640, 640), 99)

    with served(make_session([Item(0, "a.png", load=load)])) as client:
        shutdown = client.server.shutdown_request
        client.server.shutdown_request = lambda request: (shutdown(request), is_handled.set())
        connection = socket.create_connection(client.server.server_address)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # as if it had crashed
        connection.sendall(f"GET /{client.server.token}/image/0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert is_read.wait(20)
        connection.close()
        is_closed.set()
        assert is_handled.wait(20) and capsys.readouterr().err == ""


def test_texts_are_in_no_page_and_answers_are_stored_before_the_response(make_session):
    session = make_session([Item(0, HOSTILE), *make_items(3)[1:]])
    with served(session) as client:
        page = client.request("")[1]
        assert "alert(1)" not in page and not re.findall(r"(?:src|href)=|@import|url\(|https?://", page)
        assert client.state()["item"]["text"] == HOSTILE
        status, content, _ = client.request("answer", {"id": 0, "answer": "label", "label": "=new <b>"})
        assert status == 200 and json.loads(content)["item"]["id"] == 1
        assert json.loads(content)["classes"][-1]["name"] == "=new <b>"
        (row,) = read_rows(session.store.path)
        assert (row["text"], row["label"], row["answer"]) == (HOSTILE, "'=new <b>", "label")


@pytest.fixture
def browser(tmp_path):
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


def labels_by_text(items: list[Item], classes: list[str]) -> dict[str, str]:
    chosen = random.Random(0)
    return {item.text: chosen.choice(classes) for item in items}


@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_rows_by_the_keys_of_a_browser(make_session, browser, count):
    """By digits, Enter for right suggestions, u and x, and taken back; all texts and classes are hostile."""
    classes = [f"class {number} {HOSTILE[:number]}".strip() for number in range(1, 13)]
    items = [Item(n, f"{n} {HOSTILE}", "measure" if n % 4 == 3 else "train", "spread") for n in range(count + 10)]
    expected = labels_by_text(items, classes)
    for item in items[::5]:
        item.suggestion, item.probability = expected[item.text], 0.5
    session = make_session(items, classes, num_answers=count)
    with served(session) as client:
        browser.open(client.server.address)
        browser.wait_for("state && state.item.id === 0")
        assert browser.evaluate("document.querySelectorAll('#text img, #text script, #classes img').length") == 0
        assert HOSTILE in browser.evaluate("document.getElementById('text').textContent")
        for number, item in enumerate(items[:count]):
            label = expected[item.text]
            keys = f"{classes.index(label) + 1:02}"
            if number % 10 == 7:  # a wrong key first
                wrong = classes[(classes.index(label) + 1) % len(classes)]
                for key in f"{classes.index(wrong) + 1:02}":
                    browser.press(key)
                browser.wait_for(f"!busy && state.progress.answered === {number + 1}")
                browser.press("z")
                browser.wait_for(f"!busy && state.progress.answered === {number}")
            if number % 10 in (8, 9):
                keys, expected[item.text] = ("u", "") if number % 10 == 8 else ("x", "")
            elif item.suggestion and item.role == "train":
                keys = ["Enter"]
            for key in keys:
                browser.press(key)
            browser.wait_for(f"!busy && state.progress.answered === {number + 1}")
        assert browser.evaluate("state.item") is None and "All answers are given" in browser.evaluate(
            "document.body.innerText"
        )
        own = [url for url in browser.requests if url.startswith(client.server.address)]
        assert len(own) > count and {url.rpartition("/")[2] for url in set(browser.requests) - set(own)} <= {
            "favicon.ico"
        }
        browser.press("Enter")
        browser.wait_for("state === null")
        assert client.server.pages.finished.wait(5)
    answers = session.store.answers
    assert {text: answers[text].label for text in answers} == {item.text: expected[item.text] for item in items[:count]}
    rows = read_rows(session.store.path)
    assert len(rows) == count + count // 5 and all(float(row["seconds"]) >= 0 for row in rows)


def test_a_long_text_begins_at_its_start(make_session, browser):
    session = make_session([Item(n, f"{n} a line\n" * 200) for n in range(3)])
    with served(session) as client:
        browser.open(client.server.address)
        browser.wait_for("state && state.item.id === 0")
        browser.evaluate("document.getElementById('text').scrollTop = 200")
        browser.press("Escape")
        assert browser.evaluate("document.getElementById('text').scrollTop") == 200, "of the same text"
        browser.press("1")
        browser.wait_for("!busy && state.item.id === 1")
        assert browser.evaluate("document.getElementById('text').scrollTop") == 0


def test_a_refused_answer_shows_the_row_that_is_next(make_session, browser):
    """As after an answer in another tab, or one that lost its response."""
    items = make_items(6)
    for item in items:
        item.cluster = "1"
    session = make_session(items)
    with served(session) as client:
        browser.open(client.server.address)
        browser.wait_for("state && state.item.id === 0")
        note = "document.getElementById('note').textContent"
        session.answer(0, "label", "stone")
        browser.press("1")
        browser.wait_for("!busy && state.item.id === 1")
        assert "this row was answered already" in browser.evaluate(note)
        assert browser.evaluate("document.getElementById('text').textContent") == "text number 1"
        browser.press("c")
        browser.wait_for("!busy && dialog")
        session.answer(1, "label", "stone")
        browser.press("2")
        browser.press("Enter")
        browser.wait_for("!busy && state.item.id === 2 && !dialog")
        browser.press("c")
        browser.wait_for("!busy && dialog")
        browser.press("Escape")
        session.answer(2, "label", "stone")
        browser.press("c")
        browser.wait_for("!busy && state.item.id === 3 && failed && !dialog")
        browser.press("3")
        browser.wait_for("!busy && state.item.id === 4 && !failed")
    assert [answer.label for answer in session.store.answers.values()] == ["stone"] * 4


def test_a_page_that_cannot_be_read_says_why(make_session, browser):
    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error", "a.csv")

    with served(make_session(make_items(3))) as client:
        client.server.pages.state = fail
        browser.open(client.server.address)
        browser.wait_for("document.body && document.body.innerText.includes('a.csv: cannot be used')")
        assert browser.evaluate("document.getElementById('note').classList.contains('error')")


def test_enter_and_space_press_the_button_that_has_the_focus(make_session, browser):
    items = make_items(6)
    for item in items:
        item.suggestion = "plant"
    session = make_session(items)
    with served(session) as client:
        browser.open(client.server.address)
        browser.wait_for("state && state.item.id === 0")
        for number, key in enumerate(("Enter", " ")):
            browser.evaluate("document.querySelectorAll('#classes button')[2].focus()")
            browser.press(key)
            browser.wait_for(f"!busy && state.item.id === {number + 1}")
        browser.press("Enter")
        browser.wait_for("!busy && state.item.id === 3")
    assert [answer.label for answer in session.store.answers.values()] == ["stone", "stone", "plant"]


def test_a_label_of_another_file_is_on_the_page(make_session):
    session = make_session([Item(0, "a", reason="suspect", label="stone"), Item(1, "b")])
    with served(session) as client:
        assert client.state()["item"]["before"] == "stone"
        client.request("answer", {"id": 0, "answer": "label", "label": "plant"})
        assert "before" not in client.state()["item"]


def test_names_clusters_and_the_switch_by_keys(make_session, browser):
    items = make_items(12)
    for item in items:
        item.cluster, item.suggestion = "1", "plant"
    session = make_session(items, [])
    with served(session) as client:
        browser.open(client.server.address)
        browser.wait_for("state && document.body.innerText.includes('No classes yet')")
        browser.press("n")
        browser.wait_for("document.activeElement.tagName === 'INPUT'")
        for key in "stone":
            browser.press(key)
        browser.press("Enter")
        browser.wait_for("state.progress.answered === 1 && !dialog")
        assert "take the suggestion: plant" in browser.evaluate("document.body.innerText")
        browser.press("s")
        browser.wait_for("!document.body.innerText.includes('take the suggestion')")
        browser.press("Enter")
        browser.press("c")
        browser.wait_for("dialog && dialog.kind === 'cluster'")
        browser.press("1")
        browser.wait_for("document.body.innerText.includes('Label 8 rows as stone?')")
        browser.press("Escape")
        browser.wait_for("!dialog")
        assert len(session.store.answers) == 1
        for key, condition in (("c", "dialog"), ("1", "dialog.label"), ("Enter", "state.progress.answered === 2")):
            browser.press(key)
            browser.wait_for(condition)
    labeled = {item.text: "stone" for item in items if item.role == "train"}
    assert {text: answer.label for text, answer in session.store.answers.items()} == labeled


def test_a_killed_command_loses_no_confirmed_answer_and_a_second_labeler_waits(tmp_path):
    (tmp_path / "texts.csv").write_text("text\n" + "".join(f"text {n}\n" for n in range(30)))
    command = [sys.executable, "-m", "label", "file=texts.csv"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    process = subprocess.Popen(command, env=environment(), **options)
    lines = iter(process.stdout.readline, "")
    address = next(found[0] for line in lines if (found := re.search(r"http://127\S+", line)))
    second = subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert second.returncode == 2 and second.stderr.startswith("labels/texts.csv: in use by process"), second.stderr
    place, answered = urlsplit(address), []
    for _ in range(12):
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
        connection.request("GET", f"{place.path}state")
        item = json.loads(connection.getresponse().read())["item"]
        body = json.dumps({"id": item["id"], "answer": "label", "label": CLASSES[len(answered) % 3]})
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
        connection.request("POST", f"{place.path}answer", body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 200
        answered.append(item["text"])
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert [row["text"] for row in read_rows(Path(tmp_path / "labels/texts.csv"))] == answered
