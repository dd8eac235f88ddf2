"""The media manifest: what is read from each form, and what is said of each fault."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusecache.cache import InputError
from fusecache.extract import read_manifest

Maker = Callable[..., Path]


def table(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_csv_gives_typed_rows(tmp_path: Path, wav: Maker) -> None:
    wav("a.wav")
    path = table(
        tmp_path / "m.csv",
        "key,audio,text,start,end,split,group,position,label.digit,value.score,tags.mood\n"
        'a,a.wav,"one, two",0.1,0.4,train,ann,3,10,0.5,glad|calm\n'
        "b,,zwei,,,test,,,9,,\n",
    )
    media = read_manifest(path)
    first, second = media.rows
    assert (first.files, first.text, first.start, first.end, first.position) == (
        {"audio": "a.wav"},
        "one, two",
        0.1,
        0.4,
        3,
    )
    assert first.labels == {"digit": "10", "score": 0.5, "mood": ("glad", "calm")}
    assert (second.files, second.labels, second.streams) == ({}, {"digit": "9"}, ("text",))
    assert media.splits == ("train", "test")
    assert [(c.name, c.kind, c.classes) for c in media.labels] == [
        ("digit", "class", ("9", "10")),  # numeric order
        ("score", "float", ()),
        ("mood", "multilabel", ("calm", "glad")),
    ]


def test_jsonl_and_parquet_read_like_csv(tmp_path: Path, wav: Maker) -> None:
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    wav("a.wav")
    rows = [
        {"key": "a", "audio": "a.wav", "start": 0.25, "tags.m": ["x", "y"]},
        {"key": "b", "text": "t", "start": None},
    ]
    lines = table(tmp_path / "m.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    names = ("key", "audio", "start", "tags.m", "text")
    columns = {name: [row.get(name) for row in rows] for name in names}
    parquet.write_table(arrow.table(columns), tmp_path / "m.parquet")
    for path in (lines, tmp_path / "m.parquet"):
        a, b = read_manifest(path).rows
        assert (a.key, a.start, a.labels["m"], b.text, b.start) == ("a", 0.25, ("x", "y"), "t", None)


def test_folder_groups_files_by_stem(tmp_path: Path, wav: Maker, png: Maker, video: Maker) -> None:
    wav("x/a.wav")
    png("x/a.png")
    video("b.mp4", seconds=0.2)
    (tmp_path / "x" / "a.txt").write_text("hello")
    (tmp_path / "notes.pdf").write_text("left out")
    rows = {row.key: row for row in read_manifest(tmp_path).rows}
    assert rows["x/a"].files == {"audio": "x/a.wav", "image": "x/a.png", "text": "x/a.txt"}
    assert rows["b"].files == {"video": "b.mp4", "audio": "b.mp4"}
    assert rows["b"].soundtrack
    assert not rows["x/a"].soundtrack


def test_a_named_audio_column_turns_soundtracks_off(tmp_path: Path, video: Maker) -> None:
    video("b.mp4", seconds=0.2)
    (row,) = read_manifest(table(tmp_path / "m.csv", "key,video,audio\nb,b.mp4,\n")).rows
    assert row.files == {"video": "b.mp4"}
    (row,) = read_manifest(table(tmp_path / "m.csv", "key,video\nb,b.mp4\n")).rows
    assert row.files == {"video": "b.mp4", "audio": "b.mp4"}


def test_every_bad_row_is_named(tmp_path: Path, wav: Maker) -> None:
    wav("a.wav")
    path = table(
        tmp_path / "m.csv",
        "key,audio,start,end,value.x,position\n"
        "a,a.wav,zero,,,\n"
        "a,a.wav,,,,\n"
        "a,a.wav,,,,\n"
        "c,,,,,\n"
        "d,a.wav,2,1.5,,\n"
        "e,a.wav,,,inf,1.5\n"
        ",a.wav,,,,\n",
    )
    with pytest.raises(InputError) as caught:
        read_manifest(path)
    text = str(caught.value)
    for part in (
        "line 2, column 'start': must be a number, got 'zero'",
        "line 4: key 'a' is taken by line 3",
        "line 5 (key 'c'): no media; fill one of audio",
        "line 6, column 'end': must be after start (2.0 s), got '1.5'",
        "line 7, column 'value.x': must be a number, got 'inf'",
        "line 7, column 'position': must be a whole number, got '1.5'",
        "line 8, column 'key': a key must have 1 to 65536 bytes, got 0",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("key,adio\na,b\n", r"column 'adio' is unknown; did you mean 'audio'\?"),
        ("audio\nb\n", "there is no column 'key'"),
        ("key,label.Digit,text\na,b,c\n", r"column 'label.Digit': label name 'Digit' cannot be used"),
        ("key,label.x,value.x,text\na,b,1,c\n", "label 'x' is given by several"),
        ("key,text,text\na,b,c\n", "column 'text' appears twice"),
        ("key,text\na,b,c\n", "line 2: 2 cells are needed, got 3"),
        ("key,text\n", "it has no rows"),
        ("", "a header with column names is needed"),
        (b"key,text\na,ok\nb,caf\xe9\n", r"byte 0xe9 at offset 19 \(line 3\)"),
        ("key,audio\na,gone.wav\nb,gone2.wav\n", r"None of the 2 files .* exists, such as .*gone.wav"),
        ("key,label.x,text\na,,t\n", "column 'label.x': not one row has a value"),
    ],
)
def test_faults_of_the_table(tmp_path: Path, text: str | bytes, match: str) -> None:
    with pytest.raises(InputError, match=match):
        read_manifest(table(tmp_path / "m.csv", text))


def test_other_faults(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.csv does not exist"):
        read_manifest(tmp_path / "nowhere.csv")
    with pytest.raises(
        InputError, match=r"must end in .csv, .jsonl, .ndjson, .parquet or be a folder, got .*m.xlsx"
    ):
        read_manifest(table(tmp_path / "m.xlsx", "x"))
    with pytest.raises(InputError, match=r"line 2: not JSON"):
        read_manifest(table(tmp_path / "m.jsonl", '{"key": "a", "text": "b"}\n{oops\n'))
    with pytest.raises(InputError, match=r"line 1, column 'start': must be a number, got True"):
        read_manifest(table(tmp_path / "m.jsonl", '{"key": "a", "text": "b", "start": true}\n'))
    with pytest.raises(InputError, match=r"not a readable Parquet file"):
        read_manifest(table(tmp_path / "m.parquet", "x"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"holds no media: files must end in one of .wav"):
        read_manifest(empty)


def test_a_missing_file_is_noted_not_raised(tmp_path: Path, wav: Maker) -> None:
    wav("a.wav")
    media = read_manifest(table(tmp_path / "m.csv", "key,audio\na,a.wav\nb,gone.wav\n"))
    assert media.stamps["gone.wav"] is None
    stamp = media.stamps["a.wav"]
    assert stamp is not None
    assert stamp.size == (tmp_path / "a.wav").stat().st_size


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        (
            "m.jsonl",
            '{"key": "a", "text": "t", "split": NaN}',
            r"line 1: not JSON \(NaN is not a JSON number",
        ),
        ("m.jsonl", '{"key": "a", "text": "t", "value.y": Infinity}', r"Infinity is not a JSON number"),
        (
            "m.jsonl",
            '{"key": 1e999, "text": "t"}',
            r"column 'key': must be a word or a finite number, got inf",
        ),
        ("m.jsonl", '{"key": "a", "key": "b", "text": "t"}', r"the name 'key' comes more than once"),
        ("m.jsonl", '{"key": ' + "9" * 5000 + ', "text": "t"}', r"line 1: not JSON"),
        (
            "m.jsonl",
            '{"key": "a", "text": "t", "start": ' + "9" * 400 + "}",
            r"'start': must be a number, got 99",
        ),
        ("m.csv", "key,text,start\na,t,1_0\n", r"line 2, column 'start': must be a number, got '1_0'"),
        ("m.csv", "key,text,start\na,t,\uff11\n", r"column 'start': must be a number"),
        ("m.csv", "key,text,position\na,t,1e300\n", r"column 'position': must be a whole number, got .1e300"),
        ("m.csv", "key,text,split\na,t, train\n", r"column 'split': must not begin or end with a blank, got"),
        ("m.csv", "key,text,label.y\na,t,x \n", r"column 'label.y': must not begin or end with a blank"),
        ("m.csv", "key,text,group\na,t,x \n", r"column 'group': must not begin or end with a blank"),
        ("m.csv", "key,text\n a,t\n", r"column 'key': must not begin or end with a blank"),
        ("m.csv", "key,text,tags.y\na,t,x | y\n", r"column 'tags.y': classes must not begin or end with"),
        (
            "m.csv",
            "key,text,split\na,t,Train\nb,t,train\n",
            r"split: 'Train' and 'train' differ only in case",
        ),
        ("m.csv", "key,text,label.y\na,t,é\nb,t,e\u0301\n", r"label 'y': 'e\\u0301' and '\\xe9' differ only"),
    ],
)
def test_values_that_look_right_and_are_not(tmp_path: Path, name: str, text: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        read_manifest(table(tmp_path / name, text))


def test_numbers_of_every_usual_form(tmp_path: Path) -> None:
    lines = "\n".join(f"k{i},t,{text}" for i, text in enumerate(("1", " 2.5 ", "+3.", ".5", "-1e-3", "4E+2")))
    media = read_manifest(table(tmp_path / "m.csv", f"key,text,value.y\n{lines}\n"))
    assert [row.labels["y"] for row in media.rows] == [1, 2.5, 3, 0.5, -0.001, 400]


def test_a_label_that_is_not_a_number_in_parquet(tmp_path: Path) -> None:
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    columns = {"key": ["a", "b"], "text": ["t", "t"], "label.y": [1.0, float("nan")]}
    parquet.write_table(arrow.table(columns), tmp_path / "m.parquet")
    with pytest.raises(
        InputError, match=r"row 2, column 'label.y': must be a word or a finite number, got nan"
    ):
        read_manifest(tmp_path / "m.parquet")
