"""Tasks: splits never overlap, the checker compares everything, demonstrations show the procedure and slip."""

from __future__ import annotations

import json
import os
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.curriculum import PromptPool
from scalerl.data import DataError, encode_prompts, load_data, prepare
from scalerl.runlog import UserError
from scalerl.tasks import SPLIT_SHARES, get_task, split_of

TASKS = ("chain", "long-chain", "addition")


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=20, deadline=None)
@given(seeds=st.lists(st.integers(0, 2**32), min_size=4, max_size=4))
def test_splits_never_overlap_for_any_seeds(name, seeds):
    task = get_task(name)
    drawn = [
        {item["prompt"] for item in islice(task.prompts(split, seed), 200)}
        for split, seed in zip(SPLIT_SHARES, seeds, strict=True)
    ]
    for i, one in enumerate(drawn):
        assert len(one) > 100
        for other in drawn[i + 1 :]:
            assert not one & other


def test_prepared_files_do_not_overlap_and_the_warm_up_shows_none_of_them(tmp_path):
    prepare("chain", str(tmp_path), sizes=(300, 50, 50))
    files = {
        name: {i["prompt"] for i in json.loads((tmp_path / f"{name}.json").read_text())}
        for name in ("train", "eval", "test")
    }
    assert {name: len(found) for name, found in files.items()} == {"train": 300, "eval": 50, "test": 50}
    assert not files["train"] & files["eval"] | files["train"] & files["test"] | files["eval"] & files["test"]
    shown = {item["prompt"] for item in islice(get_task("chain").prompts("warmup", 0), 3000)}
    assert not shown & (files["train"] | files["eval"] | files["test"])


def test_split_shares_are_met():
    counts = dict.fromkeys(SPLIT_SHARES, 0)
    for number in range(20_000):
        counts[split_of(str(number))] += 1
    for split, share in SPLIT_SHARES.items():
        assert abs(counts[split] / 20_000 - share / 100) < 4 * np.sqrt(0.25 / 20_000)


def running_values(prompt: str) -> str:
    """Chain arithmetic left to right, every operation written out."""
    value, out = int(prompt[0]), ""
    for place in range(1, len(prompt) - 1, 2):
        digit = int(prompt[place + 1])
        if prompt[place] == "+":
            value = (value + digit) % 10
        elif prompt[place] == "-":
            value = (value + 10 - digit) % 10
        else:
            value = sum([value] * digit) % 10
        out += str(value)
    return out


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_chain_answers_are_right_and_nothing_else_is(seed):
    task = get_task("chain")
    item = next(task.prompts("train", seed))
    answer = running_values(item["prompt"])
    assert item["answer"] == answer
    worked = item["thinking"] + item["solution"]
    assert task.score(item, worked)
    assert worked.count("#") == 1 and worked.endswith("#" + answer)
    wrong = str((int(answer[-1]) + 1) % 10)
    for bad in (answer, "#" + answer[:-1] + wrong, worked + "0", worked + "#", worked + "<pad>", "", worked[:-1], "#"):
        assert not task.score(item, bad)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_addition_answers_are_right(seed):
    task = get_task("addition")
    item = next(task.prompts("train", seed))
    a, b = map(int, item["prompt"].removesuffix("=").split("+"))
    assert item["answer"] == str(a + b)
    assert task.score(item, item["thinking"] + item["solution"])
    assert not task.score(item, "#" + str(a + b + 1))


@pytest.mark.parametrize(("name", "low", "high"), [("chain", 0.03, 0.2), ("addition", 0.03, 0.3)])
def test_demonstrations_slip_so_that_few_are_right(name, low, high):
    task, rng = get_task(name), np.random.default_rng(0)
    items = list(islice(task.prompts("warmup", 1), 1000))
    right = sum(task.score(item, task.demonstration(item, rng)) for item in items) / 1000
    assert low < right < high


def test_the_warm_up_leaves_lengths_to_be_found_out():
    task = get_task("chain")
    shown = {len(i["prompt"]) // 2 for i in islice(task.prompts("warmup", 0), 500)}
    asked = {len(i["prompt"]) // 2 for i in islice(task.prompts("train", 0), 500)}
    assert max(asked) - max(shown) == 2 and min(asked) == min(shown)


def test_prompts_use_the_tasks_alphabet():
    for name in TASKS:
        task = get_task(name)
        text = "".join("".join(item.values()) for item in islice(task.prompts("train", 0), 200))
        assert set(text) <= set(task.characters) and len(set(task.characters)) == len(task.characters)


def test_unknown_task_lists_those_there_are():
    with pytest.raises(UserError, match=r"no task 'chian'; there are addition, chain"):
        get_task("chian")


def test_epochs_without_replacement():
    def draws(seed: int) -> list[int | None]:
        pool = PromptPool(7, seed=seed)
        return [pool.draw() for _ in range(28)]

    drawn = draws(3)
    epochs = [drawn[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert draws(3) == drawn and draws(4) != drawn
    for before in range(28):  # any draw is a function of seed and place alone
        pool = PromptPool(7, seed=3)
        pool.restore({"place": before, "history": {}})
        assert [pool.draw() for _ in range(28 - before)] == drawn[before:]


def test_prompts_over_their_budget_are_dropped_counted_and_not_in_the_hash(tmp_path):
    items = [{"prompt": "1" * n, "answer": "1"} for n in (3, 9, 4, 5, 8)]
    (tmp_path / "train.json").write_text(json.dumps(items))
    (tmp_path / "short.json").write_text(json.dumps([items[0], items[2], items[3]]))
    data = load_data(tmp_path / "train.json")

    def encode(item: dict) -> tuple[int, ...]:
        return tuple(map(int, item["prompt"]))

    kept, prompts = encode_prompts(data, encode, prompt_tokens=5, unknown_id=None)
    assert [len(item["prompt"]) for item in kept.items] == [3, 4, 5] == [len(ids) for ids in prompts]
    assert kept.dropped == 2 and kept.sha256 == load_data(tmp_path / "short.json").sha256 != data.sha256
    kept, prompts = encode_prompts(data, encode, prompt_tokens=9, unknown_id=None)
    assert kept == data and kept.dropped == 0 and len(prompts) == 5
    with pytest.raises(DataError, match="all 5 prompts are longer than prompt_tokens = 2 tokens"):
        encode_prompts(data, encode, prompt_tokens=2, unknown_id=None)
    with pytest.raises(DataError, match=r"5 of 5 prompts are empty or hold text .* the first is item 0: '111'"):
        encode_prompts(data, encode, prompt_tokens=9, unknown_id=1)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_where_thinking_ends_and_what_ends_it_by_force(name):
    task = get_task(name)
    assert task.end_of_thinking in task.interruption and set(task.interruption) <= set(task.characters)
    for item in islice(task.prompts("train", 0), 100):
        assert task.end_of_thinking not in item["prompt"] + item["thinking"] + item["answer"]
        assert task.score(item, item["thinking"][:3] + task.interruption + item["answer"])  # cut short, then answered


def test_prepare_writes_over_nothing(tmp_path):
    (tmp_path / "eval.json").write_text("mine")
    with pytest.raises(DataError, match=r"eval\.json: exists already"):
        prepare("chain", str(tmp_path), sizes=(2, 2, 2))
    assert [p.name for p in tmp_path.iterdir()] == ["eval.json"] and (tmp_path / "eval.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{}", "expected a list of items"),
        ("[]", "expected a list of items"),
        ('[{"prompt": "1"}]', "item 0: no text under 'answer'"),
        ('[{"prompt": "1", "answer": "2"}, {"prompt": 3, "answer": "2"}]', "item 1: no text under 'prompt'"),
        ('[{"prompt": "1", "answer": "2"}, {"prompt": "1", "answer": "3"}]', "item 1 has the prompt of item 0"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_bad_data_files_are_named(tmp_path, text, message):
    path = tmp_path / "train.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_data(path)
    assert str(path) in str(caught.value)


def test_a_task_that_runs_out_of_prompts_says_so(monkeypatch):
    from scalerl.data import _distinct

    with pytest.raises(DataError, match=r"not many more than \d+ distinct prompts"):
        _distinct(iter([{"prompt": str(n % 7), "answer": "1"} for n in range(5000)]), 8)


def test_a_pipe_is_no_data_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="no regular file"):
        load_data(tmp_path / "fifo")


def test_missing_data_file():
    with pytest.raises(UserError, match=r"nowhere\.json: cannot be read"):
        load_data("nowhere.json")
