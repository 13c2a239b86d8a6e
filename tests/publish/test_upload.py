"""Sending a folder over real HTTP: the first time, again, and with everything that can go wrong on the way."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hub import TOKEN, HubServer, Repository, sha256
from huggingface_hub import constants

from engine.errors import ConfigError, HubError
from publish.config import Destination
from publish.hub import upload as sending

LARGE, SMALL = bytes(range(256)) * 1200, b"\x89PNG small"
CARD = (
    "---\nlicense: mit\nmodel-index:\n- name: m\n  results:\n  - task: {type: x}\n    dataset: {type: d, name: d}\n"
    "    metrics: [{type: accuracy, value: 0.5}]\n---\n# A card\n"
)


@pytest.fixture
def hub(monkeypatch):
    """A hub, this process's own token for it, and `hub.slept`: the seconds that were to be waited."""
    with HubServer() as hub:
        hub.slept = []
        monkeypatch.setattr(time, "sleep", hub.slept.append)
        monkeypatch.setattr(sending, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(LARGE)
    (tmp_path / "label-efficiency.png").write_bytes(SMALL)
    (tmp_path / "README.md").write_text(CARD)
    (tmp_path / "record.json").write_text("{}")
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text("{}")
    return tmp_path


def send(folder: Path, repo: str = "me/new", **more) -> tuple[sending.UploadResult, list[str]]:
    told: list[str] = []
    return sending.upload(folder, Destination(repo=repo, **more), "Publish it", "run-1", told.append), told


def holds(hub: HubServer, folder: Path, revision: str = "main") -> bool:
    """Whether the repository holds just what the folder does."""
    there = hub.repositories["models/me/new"].files(revision)
    there.pop(".gitattributes")
    return there == {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_first_then_unchanged_then_changed(hub, folder):
    sent, _ = send(folder)
    made = hub.repositories["models/me/new"]
    assert sent == (f"{hub.url}/me/new", 5) and holds(hub, folder) and not made.private
    assert made.messages == ["initial commit", "Publish it"] and made.tags == {"run-1": made.branches["main"]}

    hub.requests.clear()
    assert send(folder)[0].num_changed_files == 0
    assert not hub.count_requests("^(?!GET)"), hub.requests

    (folder / "README.md").write_text(CARD + "more\n")
    (folder / "label-efficiency.png").unlink()
    assert send(folder)[0].num_changed_files == 2 and holds(hub, folder) and len(made.messages) == 3
    assert made.tags["run-1"] != made.branches["main"], "a tag stays at the commit that it was given"
    assert not hub.count_requests("PUT"), "the weights were there"


def test_a_branch_and_private(hub, folder):
    sent, _ = send(folder, revision="try", private=True)
    made = hub.repositories["models/me/new"]
    assert made.private and sent.url.endswith("/me/new/tree/try") and holds(hub, folder, "try")
    assert made.files("main").keys() == {".gitattributes"}
    assert send(folder, revision="try", private=True)[0].num_changed_files == 0


def test_connection_cut_during_the_largest_file_and_resumed(hub, folder):
    large = f"PUT /lfs/{sha256(LARGE)}"
    hub.cut_connection(large, after=100_000, times=1000)
    with pytest.raises(HubError, match=f"{hub.url}: the connection failed"):
        send(folder)
    made = hub.repositories["models/me/new"]
    assert made.messages == ["initial commit"] and not made.tags, "half a model is never seen"
    assert sum(hub.slept) > 15 and hub.count_requests(large) > 5, "it did try again"
    hub.faults.clear()
    hub.requests.clear()
    assert send(folder)[0].num_changed_files == 5 and holds(hub, folder) and made.messages[1:] == ["Publish it"]
    assert hub.count_requests("PUT") == 1 and hub.count_requests(large) == 1, "what had arrived is not sent again"


def test_a_cut_that_passes_needs_nobody(hub, folder):
    hub.cut_connection("PUT /lfs/", after=1000, times=2)
    assert send(folder)[0].num_changed_files == 5 and holds(hub, folder)


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub, folder):
    hub.lose_response("POST .*/commit/main")
    _, told = send(folder)
    made = hub.repositories["models/me/new"]
    assert made.messages == ["initial commit", "Publish it"] and made.tags and holds(hub, folder)
    assert any("the connection failed" in line for line in told)


def test_500_three_times_then_success(hub, folder):
    hub.fail_requests("POST .*/commit/main", 500, times=3)
    _, told = send(folder)
    assert holds(hub, folder) and hub.repositories["models/me/new"].messages[1:] == ["Publish it"]
    assert hub.slept == [1, 2, 4] and sum("is in trouble (500)" in line for line in told) == 3


def test_500_for_ever(hub, folder):
    hub.fail_requests("POST .*/commit/main", 500, times=1000)
    with pytest.raises(HubError, match=r"is in trouble \(500\)$"):
        send(folder)
    assert hub.repositories["models/me/new"].messages == ["initial commit"]


@pytest.mark.parametrize("request_line", ["POST /api/repos/create", "POST .*/commit/", "PUT /lfs/", "POST .*/tag/"])
def test_429_waits_as_long_as_it_is_asked_to(hub, folder, request_line):
    hub.fail_requests(request_line, 429, Retry_After="7")
    send(folder)
    assert holds(hub, folder) and hub.repositories["models/me/new"].tags
    assert hub.slept[0] in (7, 8), "huggingface_hub adds a second of its own"


def test_429_that_asks_for_an_hour_is_told_at_once(hub, folder):
    hub.fail_requests("POST /api/repos/create", 429, Retry_After="3600")
    with pytest.raises(HubError, match=r"asks to wait \(429\)"):
        send(folder)
    assert not hub.slept


def test_401_403_404_409(hub, folder, monkeypatch):
    def refused(line: str, repo: str = "me/new", **more) -> None:
        with pytest.raises(HubError) as told:
            send(folder, repo, **more)
        assert str(told.value).startswith(line) and len(str(told.value).splitlines()) == 1, told.value
        assert not hub.slept, "what will not pass is not waited for"

    refused("you/new: no right to write there", "you/new")
    hub.repositories["models/you/old"] = Repository()
    hub.repositories["models/you/old"].commit("main", {"record.json": b"{}"}, "theirs")
    refused("you/old: no right to write there", "you/old")
    del hub.repositories["models/you/old"]
    hub.fail_requests("POST /api/repos/create", 409)
    refused("me/new: the name is taken")
    hub.fail_requests("GET|POST", 404)
    refused("me/new: not found; is http")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    refused(f"{hub.url}: does not know this token")
    assert not hub.repositories
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(sending, "get_token", lambda: None)
    refused(f"{hub.url}: no token; log in")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(f"{hub.url}: not asked, because HF_HUB_OFFLINE is set")


def test_no_network(hub, folder, monkeypatch):
    monkeypatch.setattr(sending, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="http://127.0.0.1:9: the connection failed"):
        send(folder)
    assert hub.slept == [1, 2, 4, 8]


@pytest.mark.parametrize("name", ["new", "me/a/b", "me/-x", "me/x--y", "me/ü", "me/x.git"])
def test_malformed_names(hub, folder, name):
    with pytest.raises(ConfigError, match="^repo: "):
        send(folder, name)
    assert not hub.requests


def test_a_name_that_holds_something_else(hub, folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "model.py").write_text("print()")
    with HubServer({"models/me/new": other}) as full:
        hub.repositories |= full.repositories
    with pytest.raises(HubError, match="me/new: the name is taken; 1 files are there"):
        send(folder)
    with pytest.raises(HubError, match="me/new: is there already and everybody sees it"):
        send(folder, private=True)
    assert send(folder, replace=True)[0].num_changed_files == 6
    assert "model.py" not in hub.repositories["models/me/new"].files()


def test_somebody_else_commits_in_between(hub, folder):
    send(folder)
    (folder / "record.json").write_text('{"a": 1}')
    hub.fail_requests("POST .*/commit/main", 412)
    assert send(folder)[0].num_changed_files == 1 and holds(hub, folder)


def test_front_matter_that_the_hub_refuses(hub, folder):
    (folder / "README.md").write_text("---\nlicense: other\n---\n")
    with pytest.raises(HubError, match="me/new: Invalid metadata in README.md.*license_name"):
        send(folder)
    assert not hub.count_requests("PUT") and hub.repositories["models/me/new"].messages == ["initial commit"]
