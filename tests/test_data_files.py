"""load_data and prepare read the same rows from every format; the hash of a JSON file is what it always was."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from scalerl.data import DataError, load_data
from scalerl.preparing.pipeline import Options, prepare_rows
from scalerl.preparing.readers import Source, find_sources, read_rows

SAVED = Path(__file__).parent / "saved_to_disk"
"""Six word problems as datasets 5.2.0 saved them: a DatasetDict, train in two files, test in one."""
ITEMS = [
    {"prompt": "1 + 1", "answer": "2", "level": 3, "share": 0.5, "tests": [{"in": "1", "out": "2"}], "note": "é"},
    {"prompt": "2 + 2", "answer": "4", "level": None, "share": 0.25, "tests": [], "note": "\u2028"},
    {"prompt": "3 + 3", "answer": "6", "level": 1, "share": None, "tests": [{"in": "", "out": "x"}], "note": ""},
]


def write_json(path: Path) -> None:
    path.write_text(json.dumps(ITEMS, indent=1))


def write_jsonl(path: Path) -> None:
    path.write_text("\n".join(json.dumps(item, ensure_ascii=False) for item in ITEMS), encoding="utf-8")


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ITEMS), path)


def write_stream(path: Path) -> None:
    table = pa.Table.from_pylist(ITEMS)
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def write_arrow_file(path: Path) -> None:
    table = pa.Table.from_pylist(ITEMS)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


FORMATS = [
    ("d.json", write_json),
    ("d.jsonl", write_jsonl),
    ("lines.json", write_jsonl),
    ("d.parquet", write_parquet),
    ("d.arrow", write_stream),
    ("file.arrow", write_arrow_file),
]


@pytest.mark.parametrize("cell", [b"\x00picture", [{"at": date(2026, 1, 2)}]])
def test_a_cell_that_json_cannot_hold_is_named_with_its_row(tmp_path, cell):
    rows = [{"prompt": "1 + 1", "answer": "2"}, {"prompt": "2 + 2", "answer": "4", "extra": cell}]
    path = tmp_path / "d.parquet"
    pq.write_table(pa.Table.from_pylist([{"extra": None, **row} for row in rows]), path)
    kind = type(cell).__name__
    with pytest.raises(DataError, match=rf"d.parquet:2: column 'extra' holds {kind}, which JSON has not; .* prepare"):
        load_data(path)
    sizes = {"sizes": (0, 1, 1), "near": None}
    third = pa.Table.from_pylist([{"extra": cell, "prompt": "3 + 3", "answer": "6"}])
    pq.write_table(third, tmp_path / "e.parquet")
    report = prepare_rows(Options(inputs=(str(path), str(tmp_path / "e.parquet")), **sizes), str(tmp_path / "out"))
    assert report.columns_left_out == {"extra": 2} and load_data(tmp_path / "out" / "train.json").items


@pytest.mark.parametrize(("name", "write"), FORMATS, ids=[name for name, _ in FORMATS])
def test_every_format_holds_the_same_rows(tmp_path, name, write):
    write(tmp_path / name)
    rows = [row for source in find_sources([str(tmp_path / name)])[0] for row in read_rows(source)]
    assert [row.number for row in rows] == [1, 2, 3] and not any(row.problem for row in rows)
    assert [{"level": None, "share": None, **row.value} for row in rows] == ITEMS
    if name == "lines.json":  # a data set under .json is a list, as ever
        with pytest.raises(DataError, match="not JSON"):
            load_data(tmp_path / name)
        return
    data = load_data(tmp_path / name)
    assert [{"level": None, "share": None, **item} for item in data.items] == ITEMS
    rest = ("level", "share", "tests", "note")
    found = [[i["prompt"], i["answer"], {k: i[k] for k in sorted(rest) if i[k] is not None}] for i in ITEMS]
    assert data.sha256 == hashlib.sha256(json.dumps(found).encode()).hexdigest()
    assert load_data(tmp_path / name, limit=2).items == data.items[:2]


def test_the_hash_of_a_prepared_task_is_what_it_was(prompts):
    """The runs that ship and every run.json name such hashes."""
    assert load_data(prompts / "train.json").sha256[:16] == "e3e72973fd0393b5"


def test_a_folder_of_datasets_is_read_without_datasets(tmp_path):
    lines = (Path(__file__).parent.parent / "data" / "word-problems" / "raw.jsonl").read_text().splitlines()
    expected = [json.loads(line) for line in lines[:6]]
    sources, left_out = find_sources([str(SAVED)])
    assert left_out == [str(SAVED / "test")]
    assert [row.value for source in sources for row in read_rows(source)] == expected[:4]
    sources, left_out = find_sources([str(SAVED)], "test")
    assert [row.value for source in sources for row in read_rows(source)] == expected[4:]
    sources, left_out = find_sources([str(SAVED / "test")])
    assert left_out == [] and len(sources) == 1
    with pytest.raises(DataError, match="there is no split 'eval'; --split takes one of test, train"):
        find_sources([str(SAVED)], "eval")
    report = prepare_rows(Options(inputs=(str(SAVED),), sizes=(0, 1, 1)), str(tmp_path / "out"))
    assert report.files == {str(SAVED / "train" / f"data-0000{n}-of-00002.arrow"): 2 for n in (0, 1)}
    assert report.passed_over == [str(SAVED / "test")]


def test_a_saved_folder_is_trained_on_as_it_is(tmp_path):
    table = pa.Table.from_pylist([{"prompt": "a", "answer": "b"}])
    with pa.ipc.new_stream(str(tmp_path / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    assert load_data(tmp_path).items == [{"prompt": "a", "answer": "b"}]
    for state, message in (
        ('{"_data_files": [{"filename": "../x.arrow"}]}', "names no Arrow files beside it"),
        ("{}", "names no Arrow files"),
        ("[", "not JSON"),
        (
            '{"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_data_files": [{}]}',
            "chosen by an index",
        ),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', r"gone\.arrow: cannot be read"),
    ):
        (tmp_path / "state.json").write_text(state)
        with pytest.raises(DataError, match=message):
            load_data(tmp_path)


def test_folders_are_read_at_any_depth_in_a_fixed_order_without_hidden_files(tmp_path):
    for name in ("b/2.jsonl", "b/1.json", "a.parquet", ".cache/x.jsonl", ".x.jsonl", "README.md", "b/link.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("[]")
    sources, left_out = find_sources([str(tmp_path)])
    assert [str(s.path.relative_to(tmp_path)) for s in sources] == [
        "a.parquet",
        "b/1.json",
        "b/2.jsonl",
        "b/link.jsonl",
    ]
    assert left_out == [str(tmp_path / "README.md")]
    with pytest.raises(DataError, match="named twice"):
        find_sources([str(tmp_path), str(tmp_path / "b" / "1.json")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no file that ends in \.json"):
        find_sources([str(tmp_path / "empty")])


BAD = [
    (
        "d.json",
        b'[{"prompt": "1", "answer": "2"}, {"prompt": "2", "answer": "3", "answer": "4"}]',
        r"d\.json: item 1: an object with two columns of one name",
    ),
    (
        "d.json",
        b'[{"prompt": "1", "answer": "2", "tests": [{"in": 1, "in": 2}]}]',
        r"d\.json: item 0: an object with two",
    ),
    (
        "d.jsonl",
        b'{"prompt": "1", "answer": "2"}\n{"prompt": "2", "answer": "3", "answer": "4"}',
        r"d\.jsonl:2: an object with two columns of one name",
    ),
    ("d.jsonl", b'{"prompt": "1", "answer": "2"}\n{"prompt": "2"', r"d\.jsonl:2: no JSON"),
    ("d.jsonl", b'{"prompt": "1", "answer": "\xff"}', r"d\.jsonl:1: bytes that are no UTF-8"),
    ("d.jsonl", b'{"prompt": "1", "answer": 2}', "item 0: no text under 'answer'"),
    *(
        ("d.jsonl", b'{"prompt": "1", "answer": "2", "system": %s}' % system, f"item 0: 'system' {told}")
        for system, told in (
            *((bad, "is no text; give text, or null for none") for bad in (b"0", b"0.0", b"[]", b"{}", b"false", b"7")),
            (b'"\\ud800"', "holds half a character"),
        )
    ),
    ("d.jsonl", b'{"prompt": "1", "answer": "2"}\n' * 2, "item 1 has the prompt of item 0"),
    ("d.jsonl", b'{"prompt": "\\ud800", "answer": "2"}', "half a character"),
    ("d.jsonl", b"", "expected a list of items"),
    ("d.parquet", b"", "cannot be read"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_what_is_wrong_with_a_data_set_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_data(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_cell_that_is_no_text_costs_its_row_only(tmp_path):
    text = pa.Array.from_buffers(pa.string(), 3, pa.array([b"one", b"tw\xff", b"six"]).buffers())
    pq.write_table(pa.table({"prompt": text, "answer": ["1", "2", "3"]}), tmp_path / "raw.parquet")
    rows = list(read_rows(Source(tmp_path / "raw.parquet", "parquet")))
    assert [row.problem for row in rows] == ["", "encoding", ""]
    assert rows[2].value == {"prompt": "six", "answer": "3"} and rows[2].number == 3
    content = json.dumps(ITEMS).encode().replace(b"2 + 2", b"2 \xff 2")
    (tmp_path / "raw.json").write_bytes(content)
    assert [row.problem for row in read_rows(Source(tmp_path / "raw.json", "json"))] == ["", "encoding", ""]


@pytest.mark.parametrize("missing", ["pyarrow", "datasketch"])
def test_a_missing_package_is_one_line(tmp_path, missing):
    write_parquet(tmp_path / "raw.parquet")
    (tmp_path / "raw.jsonl").write_text("".join(f'{{"prompt": "{n}", "answer": "1"}}\n' for n in range(30)))
    raw = tmp_path / ("raw.parquet" if missing == "pyarrow" else "raw.jsonl")
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from scalerl.cli import main; "
        f"sys.exit(main(['prepare', '--input', {str(raw)!r}, '--output', {str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert re.search(rf"{missing}, which is missing: pip install 'scalerl\[data\]'", done.stderr)
    assert not (tmp_path / "out").exists()


def test_preparing_loads_no_torch_and_json_no_pyarrow(tmp_path):
    (tmp_path / "raw.jsonl").write_text("".join(f'{{"prompt": "{n}", "answer": "1"}}\n' for n in range(30)))
    code = (
        "import sys; from scalerl.cli import main; "
        f"main(['prepare', '--input', {str(tmp_path / 'raw.jsonl')!r}, '--output', {str(tmp_path / 'out')!r}]); "
        "print([m for m in ('torch', 'transformers', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
