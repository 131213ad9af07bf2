"""Tasks of reasoning-gym: prompts in splits that never overlap, scored by the package itself."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from scalerl.data import load_data, prepare
from scalerl.rewards import gym
from scalerl.runlog import UserError
from scalerl.tasks import get_task

reasoning_gym = pytest.importorskip("reasoning_gym", reason="the extra gym is opt-in")


def test_prepared_splits_are_apart_and_the_package_scores_them(tmp_path):
    name = "reasoning-gym:basic_arithmetic"
    prepare(name, str(tmp_path), sizes=(40, 12, 12))
    sets = [load_data(tmp_path / f"{split}.json").items for split in ("train", "eval", "test")]
    prompts = [{item["prompt"] for item in items} for items in sets]
    assert [len(found) for found in prompts] == [40, 12, 12] and not prompts[0] & prompts[1] | prompts[0] & prompts[2]
    again = list(islice(get_task(name).prompts("train", 0), 40))
    assert again == sets[0] and again != list(islice(get_task(name).prompts("train", 1), 40))
    oracle = reasoning_gym.create_dataset("basic_arithmetic", size=1, seed=0)
    for item in sets[0]:
        entry = {"question": item["prompt"], "answer": item["answer"], "metadata": item["metadata"]}
        for text in (item["answer"], item["answer"] + "1", "no idea"):
            assert gym.judge("basic_arithmetic")(item, text) == oracle.score_answer(text, entry)
            assert gym.judge(None)(item, text) == oracle.score_answer(text, entry)  # by the item's own metadata
            assert get_task(name).score(item, f"hm 77</think> {text}") == oracle.score_answer(text, entry)


def test_metadata_may_be_json_text_as_some_files_have_it():
    item = next(iter(get_task("reasoning-gym:leg_counting").prompts("train", 0)))
    assert gym.judge(None)({**item, "metadata": json.dumps(item["metadata"])}, item["answer"]) == 1


def test_what_cannot_be_used_is_named():
    with pytest.raises(UserError, match=r"no data set 'basic_arithmetics'; did you mean basic_arithmetic"):
        get_task("reasoning-gym:basic_arithmetics")
    with pytest.raises(UserError, match=r"graph_color cannot be used: its items do not survive being written"):
        next(iter(get_task("reasoning-gym:graph_color").prompts("train", 0)))
    with pytest.raises(ValueError, match="no source_dataset"):
        gym.judge(None)({"prompt": "1", "answer": "1"}, "1")
