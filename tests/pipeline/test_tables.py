"""What is printed: nothing of a shared cache drives the terminal, and JSON is JSON."""

import json

import pytest

from fusecache.tables import print_json, print_table, say


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("licence: \x1b]0;owned\x07\x1b[2J")
    print_table("title", ("key",), [("a\x1b[31mred",), ("b\nc",)])
    out = capsys.readouterr().out
    assert "\x1b" not in out.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert "\x07" not in out
    assert "a\ufffd[31mred" in out


def test_square_brackets_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("", ("encoder",), [("wavlm-base [random:0 weights]",)])
    assert "wavlm-base [random:0 weights]" in capsys.readouterr().out


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("nan"), "b": [1.0, float("inf")], "c": {"d": "é"}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.0, None], "c": {"d": "é"}}
