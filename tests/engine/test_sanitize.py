"""Control characters and credentials in what is printed and stored."""

import pytest

from engine.cli import print_once
from engine.errors import DataError
from engine.html import escape_markdown
from engine.log import get_logger
from engine.sanitize import escape_controls, redact_credentials


@pytest.mark.parametrize(
    "address, expected",
    [
        ("https://alice:s3cret@example.org/a.csv", "https://***@example.org/a.csv"),
        ("https://s3cret@example.org/a.csv", "https://***@example.org/a.csv"),
        ("s3://key:s3cret@bucket/a.csv", "s3://***@bucket/a.csv"),
        (
            "https://b.example/a?X-Amz-Date=1&X-Amz-Signature=s3cret",
            "https://b.example/a?X-Amz-Date=1&X-Amz-Signature=***",
        ),
        ("https://b.example/a?sv=2&sig=s3cret%2F&se=3", "https://b.example/a?sv=2&sig=***&se=3"),
        ("https://b.example/a?access_token=s3cret#x", "https://b.example/a?access_token=***#x"),
        ("hf://datasets/owner/name@main/a.csv", "hf://datasets/owner/name@main/a.csv"),
        ("hf://name@main/a.csv", "hf://name@main/a.csv"),
        ("https://example.org/a@b.csv?page=2", "https://example.org/a@b.csv?page=2"),
        ("mail alice@example.org", "mail alice@example.org"),
    ],
)
def test_credentials_of_addresses_are_left_out(address, expected):
    assert redact_credentials(address) == expected == redact_credentials(expected)
    assert redact_credentials({"a": [f"see {address} please"]}) == {"a": [f"see {expected} please"]}
    assert str(DataError(f"{address}: no such file")) == f"{expected}: no such file"


def test_controls_are_escaped_and_letters_are_not():
    text = "été \u05d0\ttab\nline \x1b[31m \x07 \u202eback\u2069 \x9b"
    assert escape_controls(text) == "été \u05d0\ttab\nline \\x1b[31m \\x07 \\u202eback\\u2069 \\x9b"
    assert escape_markdown("a\x1b[2J\u202eb") == "a\\\\x1b\\[2J\\\\u202eb"


def test_messages_to_the_terminal_hold_neither(capsys):
    message = "\x1b]0;title\x07 https://alice:s3cret@example.org/\u202e"
    print_once(message)
    assert capsys.readouterr().err == "\\x1b]0;title\\x07 https://***@example.org/\\u202e\n"
    get_logger("test").info(message)
    assert capsys.readouterr().out == "\\x1b]0;title\\x07 https://***@example.org/\\u202e\n"
