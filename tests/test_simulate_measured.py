"""Speeds read out of logs: of made ones they come back, of shipped ones they predict another run; doubts are said."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scalerl.cli import main
from scalerl.runlog import LOG_FILE, UserError
from scalerl.simulate import Setup, simulate
from scalerl.simulate.measured import measure
from scalerl.simulate.setup import SECONDS, changed
from tests.test_simulate import even


def test_speeds_of_one_shipped_run_predict_another():
    """ScaleRL's predict GRPO's and the other way round: no filter there, so twice the tokens to train; within 10 %."""
    runs = {name: measure(f"data/runs/{name}") for name in ("scalerl", "grpo")}
    for one, other in (("scalerl", "grpo"), ("grpo", "scalerl")):
        rates = {name: getattr(runs[one].setup, name) for name in SECONDS}
        found = simulate(replace(runs[other].setup, **rates), lengths=runs[one].lengths)
        truth = runs[other].truth
        assert found.wall_s == pytest.approx(truth.wall_s, rel=0.10)
        assert found.gpu_hours == pytest.approx(truth.gpu_hours, rel=0.10)
    ratio = runs["grpo"].truth.wall_s / runs["scalerl"].truth.wall_s
    assert ratio > 1.25, "or one wall time would do for both"


def log_of(folder, setup, updates, slots=None, *, clock=True):
    """A log as a run of this setup would leave it, were its devices exactly so fast."""
    import numpy as np

    from scalerl.simulate.engine import Simulation, Update
    from scalerl.simulate.outcome import Drawn

    setup = replace(setup, updates=updates, slots=slots or setup.slots)
    drawn = Drawn(setup, None, 3)
    rows = Simulation(setup, drawn).run(updates)
    folder.mkdir()
    config = {
        "batch_size": setup.batch_size, "generations_per_prompt": setup.generations_per_prompt, "slots": setup.slots,
        "off_policy": setup.off_policy, "off_policy_steps": setup.off_policy_steps, "lead": setup.lead,
        "thinking_tokens": setup.max_new_tokens - 10, "solution_tokens": 10, "prompt_tokens": int(setup.prompt_length),
        "generator": "inline" if setup.in_turn else "process",
    }  # fmt: skip
    devices = {"kind": "made", "count": setup.devices}
    header = {"schema_version": 1, "recipe": "made", "seed": 0, "devices": devices, "start_time": "", "config": config}
    (folder / "run.json").write_text(json.dumps(header))
    lines, before, wall_s = [], None, 0.0
    for i, row in enumerate(rows):
        # The share that the filter leaves changes, and tells seconds a token from seconds an update.
        kept = 0.3 + 0.5 * (i % 7) / 6 if setup.in_turn else 1.0
        train_s = setup.update_s + kept * row.batch_tokens * setup.train_token_s
        score_s = setup.completion_s * setup.batch_size
        busy = row.generating_s - (before.generating_s if before else 0.0)
        waited = busy if setup.in_turn else row.at_s - wall_s - score_s - train_s
        wall_s += waited + score_s + train_s
        lines.append(
            {
                "kind": "step", "step": i + 1, "gpu_hours": wall_s * setup.devices / 3600, "train_s": train_s,
                "generate_s": waited, "generator_busy_s": busy,
                "score_s": score_s, "reward_count": setup.batch_size,
                "length_mean": row.batch_tokens / setup.batch_size,
                "tokens_generated": row.decoded + row.prefilled / setup.prompt_length,
                "tokens_trained": (lines[-1]["tokens_trained"] if lines else 0) + kept * row.batch_tokens,
                "lag_mean": row.lag_mean,
            }
        )  # fmt: skip
        if clock:
            then = before or Update(*[0] * len(row))
            starts, prompts = row.passes - row.ticks - then.passes + then.ticks, row.prefilled - then.prefilled
            lines[-1]["prefill_s"] = starts * (setup.start_s or setup.token_s) + prompts * setup.prefill_s
        before = row
    (folder / LOG_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    numbers = [drawn[i] for i in range(400)]
    samples = [{"prompt": "x" * int(setup.prompt_length), "completion": "y" * n, "step": 0} for n in numbers]
    (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    assert np.mean(numbers) == pytest.approx(setup.length_mean, rel=0.1)
    return str(folder)


def test_speeds_come_back_out_of_a_log(tmp_path):
    """Two runs that differ in slots show what a token takes however few completions are in work."""
    true = Setup(
        in_turn=True, slots=64, batch_size=64, generations_per_prompt=8, off_policy_steps=2, length_mean=60,
        length_sd=15, max_new_tokens=200, prompt_length=60, token_s=0.02, slot_s=0.0005, prefill_s=0.001 / 3,
        train_token_s=0.001, update_s=0.3, completion_s=0.002,
    )  # fmt: skip
    runs = [log_of(tmp_path / f"run{slots}", true, 40, slots) for slots in (64, 16)]
    found = measure(*runs)
    for name in ("token_s", "slot_s", "train_token_s", "update_s", "completion_s", "prefill_s"):
        assert getattr(found.setup, name) == pytest.approx(getattr(true, name), rel=0.12), name
    assert not found.findings and found.setup.slots == 64 and found.truth.updates == 40
    alone = measure(runs[0])
    assert alone.setup.token_s == 0 and "token_s is 0" in alone.findings[0]
    assert simulate(alone.setup, lengths=alone.lengths).wall_s == pytest.approx(alone.truth.wall_s, rel=0.03)


@pytest.mark.parametrize("in_turn", [True, False])
def test_what_starting_takes_is_not_taken_for_decoding(tmp_path, in_turn):
    """With k = 2 slots are filled one by one, with k = 0 at once: seconds of starting are no seconds of a token."""
    true = Setup(
        in_turn=in_turn, slots=64, batch_size=64, generations_per_prompt=8, off_policy_steps=2, length_mean=60,
        length_sd=15, max_new_tokens=200, prompt_length=10, token_s=0.002, slot_s=0.0005, start_s=0.03,
        prefill_s=0.0001, train_token_s=0.0003, update_s=0.1,
    )  # fmt: skip
    fresh = replace(true, off_policy_steps=0, updates=40)
    takes = simulate(fresh).wall_s
    for clock in (True, False):
        runs = [log_of(tmp_path / f"{slots}-{clock}", true, 40, slots, clock=clock) for slots in (64, 16)]
        found = measure(*runs)
        rates = {name: getattr(found.setup, name) for name in SECONDS}
        if clock:
            assert found.setup.start_s == pytest.approx(true.start_s, rel=0.1)
            assert found.setup.slot_s == pytest.approx(true.slot_s, rel=0.1)
            assert simulate(replace(fresh, **rates)).wall_s == pytest.approx(takes, rel=0.05)
        else:
            assert found.setup.start_s == 0
            assert abs(found.setup.slot_s / true.slot_s - 1) > 0.1, "or the clock would not matter"


def test_a_run_beside_its_generator_is_measured_by_what_the_process_worked(tmp_path):
    true = Setup(
        slots=64, batch_size=64, generations_per_prompt=8, off_policy_steps=2, length_mean=60, length_sd=15,
        max_new_tokens=200, prompt_length=10, slot_s=0.0005, prefill_s=0.0002, train_token_s=0.0006, update_s=0.1,
    )  # fmt: skip
    found = measure(log_of(tmp_path / "run", true, 40))
    assert not found.setup.in_turn and (found.setup.generators, found.setup.learners) == (1, 1)
    assert found.setup.slot_s == pytest.approx(true.slot_s, rel=0.1)


def edited(run, change, kind=None):
    """A log with every row changed, and the kind of its devices."""
    from pathlib import Path

    rows = [json.loads(line) for line in (Path(run) / LOG_FILE).read_text().splitlines()]
    (Path(run) / LOG_FILE).write_text("".join(json.dumps({**row, **change(row)}) + "\n" for row in rows))
    if kind is not None:
        header = json.loads((Path(run) / "run.json").read_text())
        (Path(run) / "run.json").write_text(json.dumps({**header, "devices": {**header["devices"], "kind": kind}}))
    return run


def test_speeds_of_a_busy_machine_and_a_vague_share_of_an_update_are_told(tmp_path):
    import numpy as np

    true = Setup(
        in_turn=True, slots=64, batch_size=64, generations_per_prompt=8, off_policy_steps=2, length_mean=60,
        length_sd=15, max_new_tokens=200, prompt_length=60, slot_s=0.0005, train_token_s=0.001, update_s=0.3,
    )  # fmt: skip
    devices = 3600  # seconds of an hour, on one device
    for share, told in ((0.5, True), (0.95, False)):
        run = log_of(tmp_path / f"busy{share}", true, 40)
        edited(run, lambda row, share=share: {"cpu_s": share * row["gpu_hours"] * devices}, "cpu process")
        said = [one for one in measure(run).findings if "busy machine" in one]
        assert bool(said) == told and all(f"it had {share:.2f} s of a core" in one for one in said)
    assert not [one for one in measure(run).findings if "update_s" in one]
    slow = edited(
        run, lambda row: {"score_s": row["score_s"] + 1.0, "gpu_hours": row["gpu_hours"] + row["step"] / 3600}
    )
    assert not [one for one in measure(slow).findings if "busy machine" in one], "processes of their own score"
    noise = np.random.default_rng(0).normal(0.0, 3.0, 40)
    edited(run, lambda row: {"train_s": row["train_s"] + abs(noise[row["step"] - 1])})
    assert [one for one in measure(run).findings if "update_s" in one and "is known to +-" in one]


def test_updates_that_all_train_as_many_tokens_do_not_tell_what_an_update_takes_besides(tmp_path):
    run = log_of(tmp_path / "run", even(in_turn=True, max_new_tokens=60, train_token_s=0.01, length_mean=30), 8)
    edited(run, lambda row: {"tokens_trained": 100 * row["step"], "cpu_s": 1.0}, "H100")
    told = [one for one in measure(run).findings if "update_s" in one]
    assert "not told from tokens, of which all have as many" in told[0] and "inf" not in told[0]
    assert not [one for one in measure(run).findings if "busy" in one], "a GPU needs no core"


def test_a_short_log_is_no_length_of_a_run_to_predict(tmp_path, capsys):
    run = log_of(
        tmp_path / "run", Setup(in_turn=True, slots=64, batch_size=64, slot_s=0.0005, length_mean=60, length_sd=9), 12
    )
    for more, told in (([], True), (["--set", "updates=12"], False), (["--set", "updates=500"], False)):
        assert main(["simulate", "--run", run, *more]) == 0
        assert ("for 12 updates, as many as the run made" in capsys.readouterr().out) == told


def test_a_log_that_is_none_of_the_trainer_s_is_refused(tmp_path):
    true = even(in_turn=True, length_mean=30, max_new_tokens=60, length_sd=5)
    run = log_of(tmp_path / "run", true, 4)
    header = json.loads((tmp_path / "run/run.json").read_text())
    for config, message in ((None, "says no config"), ({"batch_size": 3}, "is not that of a run of scalerl train")):
        (tmp_path / "run/run.json").write_text(json.dumps({**header, "config": config}))
        with pytest.raises(UserError, match=message):
            measure(run)
    (tmp_path / "run/run.json").write_text(json.dumps({**header, "config": {**header["config"], "generator": "ray"}}))
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG_FILE).read_text().splitlines()]
    for rows, message in ((lines[:2], "2 updates; rates take 3"), ([{**r, "train_s": None} for r in lines], "train_s")):
        (tmp_path / "run" / LOG_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(UserError, match=message):
            measure(run)
    assert changed(true, {"slots": 3}).slots == 3
