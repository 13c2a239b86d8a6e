"""Uploading a folder over real HTTP: a new repository, changes, and failures of the network, the hub and the user."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hub import TOKEN, HubServer, Repository, sha256
from huggingface_hub import constants

from engine.errors import ConfigError, HubError
from publish.config import Destination
from publish.hub import upload as uploading

LARGE, SMALL = bytes(range(256)) * 1200, b"\x89PNG small"
CARD = (
    "---\nlicense: mit\nmodel-index:\n- name: m\n  results:\n  - task: {type: x}\n    dataset: {type: d, name: d}\n"
    "    metrics: [{type: accuracy, value: 0.5}]\n---\n# A card\n"
)


@pytest.fixture
def hub(monkeypatch):
    """A hub and this process's token for it; `hub.sleeps` collects the seconds that would be waited."""
    with HubServer() as hub:
        hub.sleeps = []
        monkeypatch.setattr(time, "sleep", hub.sleeps.append)
        monkeypatch.setattr(uploading, "ENDPOINT", hub.url)
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


def upload(folder: Path, repo: str = "me/new", **options) -> tuple[uploading.UploadResult, list[str]]:
    """Return (the result, the lines printed)."""
    lines: list[str] = []
    return uploading.upload(folder, Destination(repo=repo, **options), "Publish it", "run-1", lines.append), lines


def is_uploaded(hub: HubServer, folder: Path, revision: str = "main") -> bool:
    """Whether the repository holds exactly the files of the folder."""
    remote = hub.repositories["models/me/new"].files(revision)
    remote.pop(".gitattributes")
    local = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return remote == local


def test_only_changes_are_uploaded(hub, folder):
    result, _ = upload(folder)
    repository = hub.repositories["models/me/new"]
    assert result == (f"{hub.url}/me/new", 5)
    assert is_uploaded(hub, folder) and not repository.private
    assert repository.messages == ["initial commit", "Publish it"]
    assert repository.tags == {"run-1": repository.branches["main"]}

    hub.requests.clear()
    assert upload(folder)[0].num_changed_files == 0
    assert not hub.count_requests("^(?!GET)"), hub.requests

    (folder / "README.md").write_text(CARD + "more\n")
    (folder / "label-efficiency.png").unlink()
    assert upload(folder)[0].num_changed_files == 2
    assert is_uploaded(hub, folder) and len(repository.messages) == 3
    assert repository.tags["run-1"] != repository.branches["main"], "a tag stays at its commit"
    assert not hub.count_requests("PUT"), "the weights are unchanged"


def test_private_branch(hub, folder):
    result, _ = upload(folder, revision="try", private=True)
    repository = hub.repositories["models/me/new"]
    assert repository.private and result.url.endswith("/me/new/tree/try")
    assert is_uploaded(hub, folder, "try")
    assert repository.files("main").keys() == {".gitattributes"}
    assert upload(folder, revision="try", private=True)[0].num_changed_files == 0


# ---- network failures -----------------------------------------------------------------------------------------------


def test_upload_resumes_after_the_connection_broke(hub, folder):
    large = f"PUT /lfs/{sha256(LARGE)}"
    hub.cut_connection(large, after=100_000, times=1000)
    with pytest.raises(HubError, match=f"{hub.url}: the connection failed"):
        upload(folder)
    repository = hub.repositories["models/me/new"]
    assert repository.messages == ["initial commit"] and not repository.tags, "a partial upload is visible"
    assert sum(hub.sleeps) > 15 and hub.count_requests(large) > 5, "it was not retried"
    hub.faults.clear()
    hub.requests.clear()
    assert upload(folder)[0].num_changed_files == 5
    assert is_uploaded(hub, folder) and repository.messages[1:] == ["Publish it"]
    assert hub.count_requests("PUT") == 1 and hub.count_requests(large) == 1, "a finished file was uploaded again"


def test_short_network_failure_is_retried(hub, folder):
    hub.cut_connection("PUT /lfs/", after=1000, times=2)
    assert upload(folder)[0].num_changed_files == 5
    assert is_uploaded(hub, folder)


def test_commit_with_a_lost_response_is_not_repeated(hub, folder):
    hub.lose_response("POST .*/commit/main")
    _, lines = upload(folder)
    repository = hub.repositories["models/me/new"]
    assert repository.messages == ["initial commit", "Publish it"]
    assert repository.tags and is_uploaded(hub, folder)
    assert any("the connection failed" in line for line in lines)


def test_unreachable_hub(hub, folder, monkeypatch):
    monkeypatch.setattr(uploading, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="http://127.0.0.1:9: the connection failed"):
        upload(folder)
    assert hub.sleeps == [1, 2, 4, 8]


# ---- errors of the hub ----------------------------------------------------------------------------------------------


def test_server_errors_are_retried(hub, folder):
    hub.fail_requests("POST .*/commit/main", 500, times=3)
    _, lines = upload(folder)
    assert is_uploaded(hub, folder)
    assert hub.repositories["models/me/new"].messages[1:] == ["Publish it"]
    assert hub.sleeps == [1, 2, 4]
    assert sum("server error (500)" in line for line in lines) == 3


def test_permanent_server_error_is_reported(hub, folder):
    hub.fail_requests("POST .*/commit/main", 500, times=1000)
    with pytest.raises(HubError, match=r"server error \(500\)$"):
        upload(folder)
    assert hub.repositories["models/me/new"].messages == ["initial commit"]


@pytest.mark.parametrize("request_line", ["POST /api/repos/create", "POST .*/commit/", "PUT /lfs/", "POST .*/tag/"])
def test_rate_limit_waits_as_long_as_the_hub_asks(hub, folder, request_line):
    hub.fail_requests(request_line, 429, Retry_After="7")
    upload(folder)
    assert is_uploaded(hub, folder) and hub.repositories["models/me/new"].tags
    assert hub.sleeps[0] in (7, 8), "huggingface_hub adds a second of its own"


def test_rate_limit_of_an_hour_is_reported_at_once(hub, folder):
    hub.fail_requests("POST /api/repos/create", 429, Retry_After="3600")
    with pytest.raises(HubError, match="asks to wait 3,600 s"):
        upload(folder)
    assert not hub.sleeps


def test_a_wait_in_digits_of_another_script_is_not_read(hub, folder):
    hub.fail_requests("POST /api/repos/create", 429, Retry_After="\xb2")
    upload(folder)
    assert is_uploaded(hub, folder) and hub.sleeps == [1]


def test_a_commit_that_is_answered_but_not_made_is_an_error(hub, folder):
    answer = {"success": True, "commitOid": "1" * 40, "commitUrl": f"{hub.url}/me/new/commit/1"}
    hub.fail_requests("POST .*/commit/main", 200, body=json.dumps(answer).encode())
    with pytest.raises(HubError, match=r"me/new: the hub accepted the commit, but does not have it \(1_Pooling"):
        upload(folder)


def test_permanent_errors_are_reported_at_once(hub, folder, monkeypatch):
    """Status codes 401, 403, 404 and 409, no token, and offline mode."""

    def check_refused(line: str, repo: str = "me/new", **options) -> None:
        with pytest.raises(HubError) as error:
            upload(folder, repo, **options)
        assert str(error.value).startswith(line), error.value
        assert len(str(error.value).splitlines()) == 1, error.value
        assert not hub.sleeps, "a permanent error was retried"

    check_refused("you/new: no permission to write", "you/new")
    hub.repositories["models/you/old"] = Repository()
    hub.repositories["models/you/old"].commit("main", {"record.json": b"{}"}, "theirs")
    check_refused("you/old: no permission to write", "you/old")
    del hub.repositories["models/you/old"]
    hub.fail_requests("POST /api/repos/create", 409)
    check_refused("me/new: the name is taken")
    hub.fail_requests("GET|POST", 404)
    check_refused("me/new: not found; is http")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    check_refused(f"{hub.url}: unknown token")
    assert not hub.repositories
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(uploading, "get_token", lambda: None)
    check_refused(f"{hub.url}: no token; log in")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check_refused(f"{hub.url}: not contacted, because HF_HUB_OFFLINE is set")


def test_concurrent_commit_is_retried(hub, folder):
    upload(folder)
    (folder / "record.json").write_text('{"a": 1}')
    hub.fail_requests("POST .*/commit/main", 412)
    assert upload(folder)[0].num_changed_files == 1
    assert is_uploaded(hub, folder)


def test_front_matter_that_the_hub_rejects(hub, folder):
    (folder / "README.md").write_text("---\nlicense: other\n---\n")
    with pytest.raises(HubError, match="me/new: Invalid metadata in README.md.*license_name"):
        upload(folder)
    assert not hub.count_requests("PUT")
    assert hub.repositories["models/me/new"].messages == ["initial commit"]


# ---- repository names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["new", "me/a/b", "me/-x", "me/x--y", "me/ü", "me/x.git"])
def test_invalid_names(hub, folder, name):
    with pytest.raises(ConfigError, match="^repo: "):
        upload(folder, name)
    assert not hub.requests


def test_repository_with_other_files_is_not_overwritten(hub, folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "model.py").write_text("print()")
    with HubServer({"models/me/new": other}) as full:
        hub.repositories |= full.repositories
    with pytest.raises(HubError, match="me/new: the name is taken; it holds 1 files"):
        upload(folder)
    with pytest.raises(HubError, match="me/new: exists and is public"):
        upload(folder, private=True)
    assert upload(folder, replace=True)[0].num_changed_files == 6
    assert "model.py" not in hub.repositories["models/me/new"].files()


def test_a_license_file_is_sent_once_and_one_of_the_hub_stays(hub, folder):
    (folder / "LICENSE").write_text("a license")
    assert upload(folder)[0].num_changed_files == 6
    assert is_uploaded(hub, folder)
    assert upload(folder)[0].num_changed_files == 0
    (folder / "LICENSE").unlink()
    assert upload(folder)[0].num_changed_files == 0
    assert hub.repositories["models/me/new"].files("main")["LICENSE"] == b"a license"
