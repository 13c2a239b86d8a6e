"""Runs read from their folders."""

from __future__ import annotations

import json

from publish.report.runs import load_run


def test_a_damaged_line_of_the_log_is_left_out(tmp_path):
    (tmp_path / "config.yaml").write_text("run: x\n")
    lines = [json.dumps({"step": step, "loss": 1.5}).encode() for step in (1, 2, 3)]
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([lines[0], b"\x00\xff", b"[1]", lines[1], lines[2][:9]]))
    assert load_run(tmp_path).log == [{"step": 1, "loss": 1.5}, {"step": 2, "loss": 1.5}]
