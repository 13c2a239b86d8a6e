"""Downloads from hubs that lie: long waits, slow bytes, web pages, and content that is not what its hash promises."""

from __future__ import annotations

import time
from pathlib import Path

import hub as hubs
import pytest
from hub import HubServer
from huggingface_hub import constants

from data.encoders import download_encoder
from engine import hub_client
from engine.errors import DataError


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder/config.json").write_text("{}")
    (tmp_path / "encoder/model.safetensors").write_bytes(bytes(8))
    monkeypatch.chdir(tmp_path)
    with HubServer({"models/other/small": tmp_path / "encoder"}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield hub


def failure() -> str:
    with pytest.raises(DataError) as error:
        download_encoder("other/small")
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_an_honest_hub(hub):
    assert (download_encoder("other/small") / "config.json").read_text() == "{}"


def test_a_long_wait_is_refused_and_a_short_one_is_announced(hub, monkeypatch, capsys):
    hub.fail_requests("GET /api/models", 429, times=9, Retry_After="599")
    assert "asks to wait 599 s; try again later (429)" in failure()
    hub.faults.clear()
    sleeps = []
    monkeypatch.setattr(time, "sleep", sleeps.append)
    hub.fail_requests("GET .*/resolve/", 429, Retry_After="9")
    assert download_encoder("other/small") and sleeps == [10]
    assert "asks to wait 9 s (429)" in capsys.readouterr().out


def test_bytes_without_end_are_given_up(hub, monkeypatch):
    monkeypatch.setattr(hub_client, "RATE_SECONDS", 0.3)
    body = b"{" + b" " * 2000 + b"}"
    hub.fail_requests("GET .*/resolve/", 200, times=9, body=body, seconds_per_byte=0.05)
    start = time.monotonic()
    assert "are too slow; try again later" in failure() and time.monotonic() - start < 10


def test_the_page_of_a_network_is_recognized(hub):
    hub.fail_requests("GET /api/models", 200, times=9, body=b"<html>Welcome", Content_Type="text/html; charset=utf-8")
    assert "answered with a web page; is this network behind a login page?" in failure()


def test_content_that_does_not_match_its_hash_is_refused_and_removed(hub, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(hubs, "sha256", lambda content: "0" * 64)
        reason = "what the hub sent does not match its hash; removed, so try again"
        assert failure() in (f"{name}: {reason}" for name in ("config.json", "model.safetensors"))
    assert not list(Path("cache").rglob("0" * 64))
