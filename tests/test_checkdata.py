"""`scalerl check-data`: what the model will see, how long it is, and whether the reward knows its own answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scalerl.checkdata import _wrong
from scalerl.cli import main


@pytest.fixture
def file(prompts, tmp_path):
    """A copy of the train prompts that a test may change: (path, items)."""
    items = json.loads((prompts / "train.json").read_text())
    return tmp_path / "mine.json", items


def checked(path, items, *more, capsys):
    path.write_text(json.dumps(items))
    code = main(["check-data", "--data", str(path), "--config", "demo", *more])
    return code, capsys.readouterr().out


def test_prompts_lengths_and_scores_are_told(file, chain_model, capsys):
    path, items = file
    code, told = checked(path, items, "--model", str(chain_model), "--n", "2", capsys=capsys)
    assert code == 0
    assert told.count("reference '") == 2
    assert told.splitlines()[1] == "scored by       task chain (no reward set)"
    assert items[0]["prompt"] in told and items[2]["prompt"] not in told
    assert "24 of 24 right" in told and "0 of 24 taken for right" in told


def test_the_json_has_the_same_and_the_quantiles_are_numpys(file, chain_model, capsys):
    path, items = file
    more = ["--model", str(chain_model), "--set", "prompt_tokens=14", "--json", "--n", "1"]
    code, told = checked(path, items, *more, capsys=capsys)
    found, lengths = json.loads(told), [len(item["prompt"]) for item in items]  # a character is a token
    assert code == 0
    assert found["scored_by"] == "task chain (no reward set)"
    assert found["tokens"]["median"] == np.quantile(lengths, 0.5, method="higher")
    assert (found["tokens"]["least"], found["tokens"]["most"]) == (min(lengths), max(lengths))
    assert found["over"] == sum(length > 14 for length in lengths) > 0
    assert found["rendered"][0]["tokens"] == lengths[0]


def test_a_reference_that_does_not_score_ends_with_1(file, capsys):
    path, items = file
    items[3]["solution"] = "#" + items[3]["answer"] + "0"
    code, told = checked(path, items, capsys=capsys)
    assert code == 1
    assert "23 of 24 right: item 3" in told
    assert "not known without --model" in told


def test_a_reward_that_takes_any_answer_ends_with_1(file, capsys, monkeypatch):
    path, items = file
    monkeypatch.setattr("scalerl.tasks.chain.Chain.score", lambda *_: True)
    code, told = checked(path, items, capsys=capsys)
    assert code == 1
    assert "24 of 24 taken for right: item 0, 1, 2, ..." in told


def test_a_broken_reward_is_told_with_its_reason(file, tmp_path, capsys):
    path, items = file
    (tmp_path / "own.py").write_text(
        "def broken(item, text):\n    return item['gold']\n\n"
        "def picky(item, text):\n    assert text == item['answer'], 'another'\n    return 1\n"
    )
    items = [{"prompt": item["prompt"], "answer": str(n)} for n, item in enumerate(items[:6])]
    own = ["--set", f"reward_path={tmp_path}", "--set", "reward_workers=1"]
    code, told = checked(path, items, *own, "--set", "reward=own:broken", capsys=capsys)
    assert code == 1 and "0 of 6 right" in told
    assert (
        "reward          of the reference answers 6 of 6 scores failed and count as wrong, the first: KeyError: 'g"
        in told
    )
    assert told.count("failed") == 1
    code, told = checked(path, items, *own, "--set", "reward=own:broken", "--json", capsys=capsys)
    found = json.loads(told)
    assert code == 1 and (found["reward_errors"], found["reward_errors_wrong"]) == (6, 6)
    assert found["reward_error"] == "KeyError: 'gold'" and not found["usable"]
    code, told = checked(path, items, *own, "--set", "reward=own:picky", capsys=capsys)
    assert code == 0 and "6 of 6 right" in told
    assert "of the wrong answers 6 of 6 scores failed and count as wrong, the first: AssertionError: another" in told
    assert "of the reference answers" not in told


def test_a_task_that_raises_costs_its_completions_their_scores(file, capsys, monkeypatch):
    path, items = file

    def score(self, item, text):
        raise KeyError("no column")

    monkeypatch.setattr("scalerl.tasks.chain.Chain.score", score)
    code, told = checked(path, items, capsys=capsys)
    assert code == 1 and "24 of 24 scores failed and count as wrong, the first: KeyError: 'no column'" in told


def test_thinking_and_solution_are_joined_as_the_warm_up_joins_them(tmp_path, capsys):
    """Without the mark an exact reward would take the thinking for part of the answer."""
    items = [
        {"prompt": f"{n}?", "answer": f"{n}", "thinking": "Not 99. ", "solution": f"{mark}{n}"}
        for n, mark in ((1, ""), (2, "</think>"), (3, ""))
    ]
    code, told = checked(tmp_path / "d.json", items, "--set", "reward=exact", capsys=capsys)
    assert code == 0 and "3 of 3 right" in told
    assert "reference 'Not 99. </think>1'" in told and "reference 'Not 99. </think>2'" in told


def test_of_code_without_a_program_the_tests_are_read(tmp_path, capsys):
    tests = [{"input": "2", "output": "4"}]
    program = "```python\nprint(2 * int(input()))\n```"
    items = [
        {"prompt": "Double it.", "answer": "-", "tests": tests},
        {"prompt": "Double it!", "answer": "-", "tests": tests, "solution": program},
        {"prompt": "Twice.", "answer": "```python\ny = 3\n```", "tests": "assert y == 3", "solution": "Multiply by 2."},
        {"prompt": "Again.", "answer": "-", "tests": json.dumps(tests)},
    ]
    more = ["--set", "reward=code", "--set", "reward_allow_network=true"]
    code, told = checked(tmp_path / "d.json", items, *more, capsys=capsys)
    assert code == 0 and "4 of 4 right, 2 by tests that can be read, not run" in told
    assert told.count("no reference program: tests can be read") == 2
    items[3]["tests"] = "[]"
    code, told = checked(tmp_path / "d.json", items, *more, capsys=capsys)
    assert code == 1 and "3 of 4 right, 2 by tests that can be read, not run: item 3" in told
    assert "no reference program: tests CANNOT be read" in told


def test_the_wrong_answer_is_the_next_other_one_and_found_in_one_pass():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 30):
        items = [{"prompt": str(i), "answer": str(a)} for i, a in enumerate(rng.integers(0, 3, n) // 2)]
        names = [str(i) for i in range(n)]
        plain = [
            next((names[(i + k) % n] for k in range(1, n) if items[(i + k) % n]["answer"] != item["answer"]), "")
            for i, item in enumerate(items)
        ]
        assert _wrong(items, names) == plain
    many = [{"answer": "-"}] * 200_000
    assert set(_wrong(many, ["x"] * len(many))) == {""}  # minutes, where every pair is compared


def test_prompts_that_cannot_be_read_or_are_all_too_long_end_with_1(file, chain_model, capsys):
    path, items = file
    model = ["--model", str(chain_model)]
    code, told = checked(path, items, *model, "--set", "prompt_tokens=3", capsys=capsys)
    assert code == 1 and "24 over prompt_tokens 3" in told
    items[5]["prompt"] = "what is 1+1?"
    code, told = checked(path, items, *model, capsys=capsys)
    assert code == 1 and "unread          1 prompts" in told


def test_one_answer_for_all_makes_an_empty_completion_the_wrong_one(file, capsys):
    path, items = file
    same = [item for item in items if item["answer"] == items[0]["answer"]][:1]
    code, told = checked(path, same, capsys=capsys)
    assert code == 0 and "0 of 1 taken for right" in told


def test_mistakes_are_one_line(tmp_path, capsys):
    for argv, message in (
        (["--data", str(tmp_path / "no.json")], "no.json: cannot be read"),
        (["--data", str(tmp_path / "no.json"), "--model", str(tmp_path)], "no model directory"),
        (["--data", str(tmp_path / "no.json"), "--set", "task=chess"], "cannot be read"),
    ):
        assert main(["check-data", *argv]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
