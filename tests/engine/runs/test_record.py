"""Records of other programs count as none, with one line; damaged ones are errors."""

import copy
import json

import pytest

from engine.errors import DataError
from engine.log import get_logger
from engine.runs import record as records
from engine.runs.record import read_record

CONFIG = {"train": {"lr": 1e-3}, "dropout": 0.1, "seed": 0, "objective": {"name": "mlm"}, "corpus": {"name": "c"}}
ENCODER = {"kind": "encoder", "run": "r", "steps": 4, "init": None, "init_record": {}, "eval": {}, "config": CONFIG}


def changed(path: str, value: object) -> dict:
    """Return the record with another value at a dotted path."""
    record = copy.deepcopy(ENCODER)
    *parents, last = path.split(".")
    place = record
    for key in parents:
        place = place[key]
    place[last] = value
    return record


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    lines = []
    monkeypatch.setattr(get_logger("engine.log"), "warning", lines.append)
    return lines


def test_a_record_is_read_with_keys_that_are_not_known(tmp_path, warnings):
    (tmp_path / "record.json").write_text(json.dumps(changed("later", 1)))
    assert read_record(tmp_path)["later"] == 1 and not warnings
    assert read_record(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    "record, mistake",
    [
        ({"hello": 1}, "kind: Field required"),
        (changed("kind", "toaster"), "kind: Input should be"),
        (changed("config", "fast"), "config"),
        (changed("config.train.lr", "1e9"), "config.train.lr"),
        (changed("config.train.lr", -1), "config.train.lr"),
        (changed("config.corpus", ["a"]), "config.corpus"),
        (changed("config.corpus.sources", {"files": "a"}), "config.corpus.sources"),
        (changed("init", {"name": "a"}), "init"),
        (changed("quality", {"before": {"agreement": "high"}}), "quality.before.agreement"),
        (changed("init_record", {"hello": 1}), "kind: Field required"),
        (changed("licenses", {"corpus": [1]}), "licenses.corpus"),
    ],
)
def test_a_foreign_record_counts_as_none_with_one_line(tmp_path, warnings, record, mistake):
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert read_record(tmp_path) == read_record(tmp_path) == {}
    (line,) = warnings
    assert f"{tmp_path}/record.json: not a record of Headstart ({mistake}" in line


def test_a_huge_record_is_not_read(tmp_path, warnings, monkeypatch):
    monkeypatch.setattr(records, "MAX_BYTES", 1000)
    (tmp_path / "record.json").write_text(json.dumps(changed("notes", "x" * 1000)))
    assert read_record(tmp_path) == {} and "not a record of Headstart (0 MB)" in warnings[0]


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "[1]"])
def test_a_damaged_record_is_an_error(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(DataError):
        read_record(tmp_path)
