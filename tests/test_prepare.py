"""prepare --input: every row is in a split or in the report; order changes nothing; nothing is half written."""

# ruff: noqa: S311 - random rows, no secrets
from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scalerl.cli import main
from scalerl.data import load_data
from scalerl.preparing.columns import REASONS, Columns, RowError, to_item
from scalerl.preparing.pipeline import Options, prepare_rows
from scalerl.preparing.readers import DataError
from scalerl.preparing.splits import split_groups

RAW = Path(__file__).parent.parent / "data" / "word-problems" / "raw.jsonl"
SPLITS = ("train", "eval", "test")


def raw_rows() -> list[dict]:
    return [json.loads(line) for line in RAW.read_text().splitlines()]


def prepared(folder: Path) -> dict[str, list[dict]]:
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in SPLITS}


def write_lines(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(path: Path, output: Path, **options) -> dict:
    report = prepare_rows(Options(inputs=(str(path),), **options), str(output)).content()
    assert json.loads((output / "report.json").read_text()) == json.loads(json.dumps(report))
    told = sum(entry["count"] for entry in report["rejected"].values())
    assert report["rows_read"] == told + sum(split["prompts"] for split in report["splits"].values())
    return report


def test_the_sample_is_what_its_script_makes():
    before = RAW.read_bytes()
    subprocess.run([sys.executable, RAW.with_name("make.py")], check=True)
    assert RAW.read_bytes() == before and len(before.splitlines()) == 40


def test_a_polaris_set_becomes_three_files_that_the_trainer_reads(tmp_path, capsys):
    out = tmp_path / "prompts"
    assert main(["prepare", "--input", str(RAW.parent), "--output", str(out)]) == 0
    assert "40 rows read" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {"train.json", "eval.json", "test.json", "report.json"}
    assert [p.name for p in tmp_path.iterdir()] == ["prompts"]
    items = list(itertools.chain(*prepared(out).values()))
    expected = {row["problem"]: row for row in raw_rows()}
    assert len(items) == 40 == len({item["prompt"] for item in items})
    for item in items:
        row = expected[item["prompt"]]
        assert item == {"prompt": row["problem"], **{k: v for k, v in row.items() if k != "problem"}}
    report = json.loads((out / "report.json").read_text())
    for name in SPLITS:
        assert load_data(out / f"{name}.json").sha256 == report["splits"][name]["sha256"]


def test_the_hashes_of_a_report_are_the_runs_own_with_columns_that_a_reward_reads(tmp_path):
    rows = [
        {"prompt": f"Add {n} to {n * n}.", "answer": "-", "tests": [{"input": str(n), "output": "2"}], "system": "x",
         "thinking": "So", "solution": "it is.", "difficulty": 0.5}
        for n in range(30)
    ]  # fmt: skip
    report = run(write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "out", near=None)
    for name in SPLITS:
        assert load_data(tmp_path / "out" / f"{name}.json").sha256 == report["splits"][name]["sha256"]


@pytest.mark.parametrize("options", [{}, {"shares": (0.2, 0.2)}, {"sizes": (20, 6, 7)}])
def test_the_order_of_the_rows_changes_nothing(tmp_path, options):
    rows = raw_rows()
    rows += [{**rows[3], "problem": rows[3]["problem"].upper()}, {**rows[4], "answer": "0"}]  # a copy, a conflict
    words = " ".join(f"w{n}" for n in range(60))
    rows += [{"problem": f"{words} {end}", "answer": str(n)} for n, end in enumerate(("one", "two", "three"))]
    made = []
    for seed in range(4):
        random.Random(seed).shuffle(rows)
        run(write_lines(tmp_path / f"{seed}.jsonl", rows), tmp_path / f"out{seed}", **options)
        made.append([(tmp_path / f"out{seed}" / f"{name}.json").read_bytes() for name in SPLITS])
    assert made[0] == made[1] == made[2] == made[3]
    other = write_lines(tmp_path / "again.jsonl", rows)
    run(other, tmp_path / "seed1", seed=1, **options)
    assert (tmp_path / "seed1" / "train.json").read_bytes() != made[0][0]


def test_the_same_call_writes_the_same_bytes_in_another_process(tmp_path):
    for name, hashseed in (("a", "1"), ("b", "2")):
        command = [
            sys.executable,
            "-m",
            "scalerl.cli",
            "prepare",
            "--input",
            str(RAW),
            "--output",
            str(tmp_path / name),
        ]
        subprocess.run(command, check=True, capture_output=True, env={"PYTHONHASHSEED": hashseed})
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_prompt_keeps_its_split_when_rows_are_added_and_shares_are_given(tmp_path):
    rows = [{"prompt": f"{a} + {b}", "answer": str(a + b)} for a in range(20) for b in range(20)]
    run(write_lines(tmp_path / "few.jsonl", rows[:200]), tmp_path / "few", shares=(0.2, 0.1))
    run(write_lines(tmp_path / "all.jsonl", rows), tmp_path / "all", shares=(0.2, 0.1))
    few, full = prepared(tmp_path / "few"), prepared(tmp_path / "all")
    for name in SPLITS:
        assert {item["prompt"] for item in few[name]} <= {item["prompt"] for item in full[name]}
    assert 60 < len(full["eval"]) < 100 and 20 < len(full["test"]) < 60


def test_sizes_are_met_and_the_rest_is_listed(tmp_path):
    report = run(RAW, tmp_path / "out", sizes=(10, 4, 3))
    assert [report["splits"][name]["prompts"] for name in SPLITS] == [10, 4, 3]
    assert report["rejected"]["not_drawn"]["count"] == 23
    report = run(RAW, tmp_path / "rest", sizes=(0, 4, 3))
    assert [report["splits"][name]["prompts"] for name in SPLITS] == [33, 4, 3]
    with pytest.raises(DataError, match=r"--sizes: 30 \+ 10 \+ 10 prompts are asked for and 40 are left"):
        run(RAW, tmp_path / "none", sizes=(30, 10, 10))
    assert not (tmp_path / "none").exists()


def test_a_group_is_never_divided():
    import numpy as np

    ranks = [bytes([7 * n % 256]) * 16 for n in range(30)]
    groups = np.array([n // 3 for n in range(30)])
    splits = split_groups(ranks, groups, sizes=(0, 6, 3))
    assert {name: len(found) for name, found in splits.items()} == {"train": 21, "eval": 6, "test": 3}
    where = {prompt: name for name, found in splits.items() for prompt in found}
    assert all(len({where[3 * g], where[3 * g + 1], where[3 * g + 2]}) == 1 for g in range(10))
    with pytest.raises(DataError, match="4 prompts for eval cannot be had without dividing a group"):
        split_groups(ranks, groups, sizes=(0, 4, 3))


BOXED = "So it is \\boxed{\\frac{1}{2}}."
ITEMS = [
    ({"question": " 1+1? ", "ground_truth": 2}, {"prompt": "1+1?", "answer": "2"}),
    (
        {"prompt": "x", "solution": "\\boxed{\\}1\\\\}. Done}"},
        {"prompt": "x", "answer": "\\}1\\\\", "solution": "\\boxed{\\}1\\\\}. Done}"},
    ),
    ({"instruction": "x", "final_answer": 2.0}, {"prompt": "x", "answer": "2"}),
    ({"prompt": "x", "answer": 0.5}, {"prompt": "x", "answer": "0.5"}),
    ({"prompt": "x", "answer": ["7"]}, {"prompt": "x", "answer": "7"}),
    ({"prompt": "x", "solution": BOXED}, {"prompt": "x", "answer": "\\frac{1}{2}", "solution": BOXED}),
    (
        {"question": "x", "answer": "3 + 4 = 7\n#### 7"},  # as GSM8K writes it
        {"prompt": "x", "answer": "7", "solution": "3 + 4 = 7"},
    ),
    (
        {  # as verl writes it
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2*3?"}],
            "reward_model": {"style": "rule", "ground_truth": "6"},
            "data_source": "mine",
        },
        {
            "prompt": "2*3?",
            "answer": "6",
            "system": "Be brief.",
            "data_source": "mine",
            "reward_model": {"style": "rule", "ground_truth": "6"},
        },
    ),
    (
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "2*"}, {"type": "text", "text": "3?"}]}],
            "answer": 6,
        },
        {"prompt": "2*3?", "answer": "6"},
    ),
    ({"prompt": "x", "answer": "1", "reward": 0.25}, {"prompt": "x", "answer": "1", "difficulty": 0.25}),
    (
        {"prompt": "x", "answer": "1", "difficulty": "3/8", "reward": 1},
        {"prompt": "x", "answer": "1", "difficulty": "3/8", "recorded_reward": 1},
    ),
    (
        {"prompt": "x", "answer": "1", "tests": ["assert f(1) == 2"], "level": 3, "nothing": None, "odd": float("nan")},
        {"prompt": "x", "answer": "1", "level": 3, "tests": ["assert f(1) == 2"]},
    ),
]


@pytest.mark.parametrize(("row", "item"), ITEMS)
def test_columns_under_their_many_names(row, item):
    assert to_item(row, Columns(), {}) == item


BAD = [
    ([1], "not_an_object"),
    ({}, "missing_prompt"),
    ({"prompt": None, "answer": "1"}, "missing_prompt"),
    ({"prompt": " \n", "answer": "1"}, "empty_prompt"),
    ({"prompt": 3, "answer": "1"}, "prompt_not_text"),
    ({"prompt": ["a"], "answer": "1"}, "prompt_not_text"),
    ({"prompt": [{"role": "user", "content": [{"type": "image"}]}], "answer": "1"}, "prompt_not_text"),
    ({"prompt": [{"role": "assistant", "content": "a"}], "answer": "1"}, "conversation"),
    ({"prompt": [{"role": "user", "content": "a"}] * 2, "answer": "1"}, "conversation"),
    ({"prompt": [], "answer": "1"}, "conversation"),
    ({"prompt": "x"}, "missing_answer"),
    ({"prompt": "x", "solution": "no box"}, "missing_answer"),
    ({"prompt": "x", "answer": "  "}, "empty_answer"),
    ({"prompt": "x", "answer": {"a": 1}}, "answer_not_text"),
    ({"prompt": "x", "answer": True}, "answer_not_text"),
    ({"prompt": "x", "answer": "1", "note": ["\ud800"]}, "half_character"),
    ({"prompt": "x\0", "answer": "1"}, "nul"),
    ({"prompt": "x", "answer": "1", "note": "a" * (8 * 2**20 + 1)}, "too_long"),
]


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_what_makes_a_row_unusable(row, reason):
    with pytest.raises(RowError, match=f"^{reason}$"):
        to_item(row, Columns(), {})


def test_named_columns_and_what_is_left_out_for_them():
    left_out: dict[str, int] = {}
    row = {"q": "x", "prompt": "other", "a": [1, 2], "answer": "1", "thinking": 3, "picture": b"png"}
    assert to_item(row, Columns("q", "a"), left_out) == {"prompt": "x", "answer": "[1, 2]", "a": [1, 2]}
    assert left_out == {"prompt": 1, "answer": 1, "thinking": 1, "picture": 1}


@pytest.mark.parametrize("told", [3, 0.375, "3/8", ".375", " 2e-1 ", "37%", "-1", 0])
def test_a_difficulty_that_is_a_number_is_kept_as_it_stands(told):
    left_out: dict[str, int] = {}
    assert to_item({"prompt": "x", "answer": "1", "difficulty": told}, Columns(), left_out)["difficulty"] == told
    assert left_out == {}


@pytest.mark.parametrize("told", ["hard", "1/", "3/8/2", "Level 5", True, [1], "nan"])
@pytest.mark.parametrize("column", ["difficulty", "reward"])
def test_a_difficulty_that_is_no_number_is_left_out_and_counted(told, column, tmp_path):
    left_out: dict[str, int] = {}
    assert to_item({"prompt": "x", "answer": "1", column: told}, Columns(), left_out) == {"prompt": "x", "answer": "1"}
    assert left_out == {column: 1}


def test_what_is_left_out_is_counted_in_the_report_and_on_the_terminal(tmp_path, capsys):
    rows = [{**row, "difficulty": "hard" if n % 4 == 0 else n} for n, row in enumerate(good(20))]
    path = write_lines(tmp_path / "raw.jsonl", rows)
    assert run(path, tmp_path / "out")["columns_left_out"] == {"difficulty": 5}
    assert main(["prepare", "--input", str(path), "--output", str(tmp_path / "again")]) == 0
    assert "columns left out in some rows: difficulty (5)" in capsys.readouterr().out


def good(count: int) -> list[dict]:
    return [{"prompt": f"What is {n} times {n + 1}?", "answer": str(n * (n + 1))} for n in range(count)]


def test_broken_lines_cost_themselves_only_and_are_listed(tmp_path):
    deep = "[" * 100_000
    bad = [
        (b'{"prompt": "a', "not_json"),
        (b'{"prompt": "a", "answer": "1"} {}', "not_json"),
        (deep.encode(), "not_json"),
        (b'{"prompt": "a", "answer": ' + b"[" * 500 + b"]" * 500 + b"}", "not_json"),
        (b'{"prompt": "caf\xe9", "answer": "1"}', "encoding"),
        (b"7", "not_an_object"),
        (b'{"prompt": "\\ud83d", "answer": "1"}', "half_character"),
        (b'{"prompt": "a\\u0000", "answer": "1"}', "nul"),
        (b'{"prompt": "' + b"a" * (9 * 2**20) + b'", "answer": "1"}', "too_long"),
        (b'{"prompt": "' + b"a " * 5000 + b'", "answer": "1"}', "over_budget"),
    ]
    lines = [json.dumps(row).encode() for row in good(20)]
    content = b"\xef\xbb\xbf" + b"\n".join([*lines, b"", *(line for line, _ in bad)]) + b"\r\n" + lines[0]
    (tmp_path / "raw.jsonl").write_bytes(content)
    report = run(tmp_path / "raw.jsonl", tmp_path / "out")
    listed = {row["row"]: reason for reason, entry in report["rejected"].items() for row in entry["rows"]}
    expected = {f"{tmp_path}/raw.jsonl:{22 + n}": reason for n, (_, reason) in enumerate(bad)}
    assert listed == {**expected, f"{tmp_path}/raw.jsonl:32": "duplicate"}
    assert sum(split["prompts"] for split in report["splits"].values()) == 20


def fuzzed_line(rng: random.Random, number: int) -> bytes:
    """Return a row that is damaged in one way or another, or sometimes whole."""

    def value(depth: int = 0):
        kinds = [
            "",
            " ",
            "x" * rng.randrange(50),
            "\ud800",
            "\0",
            "½ ≠ \U0001f600",
            None,
            True,
            3,
            -1.5,
            1e400,
            10**400,
        ]
        if depth < 3:
            kinds += [[value(depth + 1) for _ in range(2)], {"role": "user", "content": value(depth + 1)}, []]
        return rng.choice(kinds)

    names = ["prompt", "problem", "answer", "solution", "reward", "difficulty", "reward_model", "tests", "", "\ud800"]
    row = {name: value() for name in rng.sample(names, rng.randrange(len(names)))}
    if rng.random() < 0.4:
        row |= {"prompt": f"Problem {number // 2}: add {number}", "answer": str(number)}
    line = json.dumps(row, ensure_ascii=rng.random() < 0.5, allow_nan=True).encode(errors="surrogatepass")
    if rng.random() < 0.3:
        cut = rng.randrange(len(line))
        line = line[:cut] + bytes([rng.randrange(256)]) + line[cut + rng.randrange(3) :]
    return line.replace(b"\n", b" ")


@pytest.mark.parametrize("seed", [0, 1])
def test_five_thousand_fuzzed_rows_are_counted_and_none_is_a_crash(tmp_path, seed):
    sys.set_int_max_str_digits(4300)
    rng = random.Random(seed)
    lines = [fuzzed_line(rng, number) for number in range(5000)]
    (tmp_path / "raw.jsonl").write_bytes(b"\n".join(lines))
    report = run(tmp_path / "raw.jsonl", tmp_path / "out")
    assert report["rows_read"] == sum(1 for line in lines if line.strip())
    kept = sum(split["prompts"] for split in report["splits"].values())
    assert 400 < kept < 2500 and {"not_json", "encoding", "missing_prompt", "half_character"} <= set(report["rejected"])
    for name in SPLITS:
        assert load_data(tmp_path / "out" / f"{name}.json").items


WHOLE_FILE = [
    ("raw.json", b"[1, 2", "not JSON, near row 2"),
    ("raw.json", b'[{"prompt": "a"},\n {"prompt": ]', r"raw\.json:2:13: not JSON, near row 2"),
    ("raw.json", b"[" * 100_000, "nested too deeply"),
    ("raw.json", b'[{"prompt": "a"}] x', "the list does not end here"),
    ("raw.json", b'{\n"a": [1]}', "not JSON with a list of rows, nor one row a line"),
    ("raw.json", b"", "not JSON with a list"),
    ("raw.json", b"[]", "no row is usable: there are no rows"),
    ("raw.jsonl", b"", "no row is usable: there are no rows"),
    ("raw.jsonl", '{"prompt": "a"}'.encode("utf-16"), "is UTF-16"),
    ("raw.json", "[]".encode("utf-16"), "is UTF-16"),
    ("raw.parquet", b"PAR1 no", "cannot be read"),
    ("raw.arrow", b"no", "cannot be read"),
    ("raw.csv", b"a,b", r"of no known kind; there are \.json"),
    ("raw.jsonl", b'{"q": "a", "a": "b"}', "1 missing_prompt .*columns: a, q; --prompt-column"),
]


@pytest.mark.parametrize(("name", "content", "message"), WHOLE_FILE)
def test_a_file_that_is_of_no_use_is_one_line_and_nothing_is_written(tmp_path, capsys, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert main(["prepare", "--input", str(tmp_path / name), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_nothing_is_written_over_and_an_empty_folder_is_fine(tmp_path):
    (tmp_path / "out").mkdir()
    run(RAW, tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(DataError, match="out: exists already"):
        run(RAW, tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sizes", "1", "0", "1"], "eval and test start at 1"),
        (["--shares", ".5", ".5"], "their sum below 1"),
        (["--shares", ".1", ".1", "--sizes", "1", "1", "1"], "one of them"),
        (["--near-duplicates", ".5"], "between .7 and 1, or off"),
        (["--prompt-tokens", "0"], "at least 1"),
        (["--decontaminate", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--model", "nowhere"], "--model: there is no directory nowhere"),
        (["--split", "x", "--prompt-column", "no"], "40 missing_prompt"),
    ],
)
def test_mistakes_in_the_call_are_told(tmp_path, capsys, argv, message):
    assert main(["prepare", "--input", str(RAW), "--output", str(tmp_path / "out"), *argv]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_options_of_own_data_are_refused_for_a_task(tmp_path, capsys):
    assert main(["prepare", "--task", "chain", "--output", str(tmp_path / "out"), "--shares", ".1", ".1"]) == 2
    assert "--shares: only with --input" in capsys.readouterr().err


def test_a_budget_in_tokens_is_counted_by_the_models_tokenizer(tmp_path, chain_model):
    rows = [{"prompt": "1" * n, "answer": "1"} for n in range(1, 31)]
    report = run(write_lines(tmp_path / "raw.jsonl", rows), tmp_path / "out", model=str(chain_model), prompt_tokens=20)
    over = report["rejected"]["over_budget"]
    assert over["count"] == 10 and over["rows"][0] == {"row": f"{tmp_path}/raw.jsonl:21", "detail": "21 tokens"}
    report = run(tmp_path / "raw.jsonl", tmp_path / "characters", prompt_tokens=5)
    assert report["rejected"]["over_budget"]["rows"][0]["detail"] == "21 characters"


def test_every_reason_is_explained():
    assert {reason for _, reason in BAD} <= set(REASONS)


@pytest.mark.parametrize("offset", [2**31 - 10, -(2**31)])
def test_an_arrow_file_whose_offsets_lead_out_of_it_is_one_line_and_leaves_nothing(tmp_path, offset):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.ipc

    prompts = [f"What is {number} + 1?" for number in range(30)]
    table = pa.table({"prompt": prompts, "answer": [str(number) for number in range(1, 31)]})
    sink = pa.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content = bytearray(sink.getvalue().to_pybytes())
    at = content.find((0).to_bytes(4, "little") + len(prompts[0]).to_bytes(4, "little"))
    content[at + 8 : at + 12] = offset.to_bytes(4, "little", signed=True)
    (tmp_path / "rows.arrow").write_bytes(content)
    argv = ["prepare", "--input", str(tmp_path / "rows.arrow"), "--output", str(tmp_path / "out")]
    ran = subprocess.run([sys.executable, "-m", "scalerl.cli", *argv], check=False, capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1 and "rows.arrow: cannot be read" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["rows.arrow"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": [{"role": ["user"], "content": "q"}], "answer": "1"}', "conversation"),
        ('{"prompt": "q", "answer": "1", "answer": "2"}', "name_twice"),
        ('{"prompt": "q", "answer": "1", "info": [{"a": 1, "a": 2}]}', "name_twice"),
    ],
)
def test_rows_that_cannot_be_meant_are_left_out_with_their_reason(tmp_path, line, reason):
    good = [json.dumps({"prompt": f"What is {n} + 1?", "answer": str(n + 1)}) for n in range(9)]
    for name, text in (("a.jsonl", "\n".join([line, *good])), ("b.json", f"[{','.join([line, *good])}]")):
        (tmp_path / name).write_text(text)
        report = run(tmp_path / name, tmp_path / f"out-{name}", near=None, sizes=(0, 1, 1))
        assert {key: entry["count"] for key, entry in report["rejected"].items()} == {reason: 1}


def test_damaged_folders_are_one_line(tmp_path, capsys):
    saved, loop = tmp_path / "saved", tmp_path / "loop.jsonl"
    saved.mkdir()
    (saved / "state.json").write_text('{"_data_files": 5}')
    loop.symlink_to(loop)
    for path in (saved, loop):
        assert main(["prepare", "--input", str(path), "--output", str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_time_of_a_zone_that_nobody_knows_costs_its_row_only(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    times = pa.array([None] * 9 + [0], pa.timestamp("s", tz="No/Where"))
    rows = {"prompt": [f"What is {n} + 1?" for n in range(10)], "answer": [str(n) for n in range(10)], "at": times}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    report = run(tmp_path / "rows.parquet", tmp_path / "out", near=None, sizes=(0, 1, 1))
    assert {key: entry["count"] for key, entry in report["rejected"].items()} == {"encoding": 1}
