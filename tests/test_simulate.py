"""Runs on devices that are not there: against sums written out, an account kept tick by tick, and real runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.cli import main
from scalerl.commands import simulate as command
from scalerl.runlog import LOG_FILE, UserError, read_log
from scalerl.simulate import Setup, follow, simulate, splits
from scalerl.simulate.engine import Simulation
from scalerl.simulate.examples import EXAMPLES, PAPER, THOUSAND
from scalerl.simulate.measured import measure
from scalerl.simulate.outcome import cut_mean, sliced
from scalerl.simulate.setup import FIELDS, SECONDS
from scalerl.simulate.splits import least_s, over_k, propose
from tests.test_schedule import LENGTHS, SETTINGS, UPDATES, walk

RATES = (*SECONDS, "kept_share")


def even(**fields):
    """Completions of one length: four prompts of four, 21 tokens each."""
    shape = {"slots": 16, "batch_size": 16, "generations_per_prompt": 4, "updates": 12, "length_mean": 21}
    return Setup(**{**shape, "length_sd": 0, "prompt_length": 10, "token_s": 0.02, "slot_s": 0.005, **fields})


def made(setting, lengths, **fields):
    """The setup and the lengths, by number, of what `walk` plays: the first token is the prompt's."""
    setup = Setup(
        slots=setting["slots"], batch_size=setting["prompts"] * setting["generations"],
        generations_per_prompt=setting["generations"], off_policy=setting["scheme"], off_policy_steps=setting["k"],
        lead=setting["lead"], updates=UPDATES, **{"token_s": 1.0, **fields},
    )  # fmt: skip
    count = (UPDATES + setting["k"] + 2) * setup.batch_size + setting["slots"] * setup.generators
    return setup, [lengths[number % len(lengths)] + 1 for number in range(count)]


@settings(max_examples=100, deadline=None)
@given(SETTINGS, LENGTHS)
def test_in_turn_every_update_is_that_of_a_loop_that_goes_token_by_token(setting, lengths):
    """Lag, versions and the tick of every update, from the account that `walk` keeps of each token."""
    out = walk(setting, lengths)
    setup, known = made(setting, lengths, in_turn=True)
    rows = follow(setup, known)
    size = setup.batch_size
    for u, row in enumerate(rows):
        batch = range(u * size, (u + 1) * size)
        versions = [[out.versions[number][0], *out.versions[number]] for number in batch]
        lags = [u - version for of in versions for version in of]
        assert row.lag_mean == pytest.approx(sum(lags) / len(lags))
        assert row.lag_max == max(lags)
        assert row.versions_mean == pytest.approx(sum(len(set(of)) for of in versions) / size)
        assert row.batch_tokens == len(lags)
    if setting["scheme"] == "pipeline":  # where always something is in work
        assert [row.ticks for row in rows] == out.fired


SIDES = st.fixed_dictionaries(
    {
        "generators": st.integers(1, 3),
        "learners": st.integers(1, 3),
        "feeding": st.booleans(),
        "in_turn": st.booleans(),
        "slot_s": st.sampled_from([0.0, 0.3]),
        "train_token_s": st.sampled_from([0.0, 0.01, 0.5]),
        "update_s": st.sampled_from([0.0, 2.5]),
        "start_s": st.sampled_from([0.0, 0.3]),
        "prefill_s": st.sampled_from([0.0, 0.05]),
        "sync_s": st.sampled_from([0.0, 0.7]),
        "prompt_length": st.just(4.0),
    }
)


@settings(max_examples=100, deadline=None)
@given(SETTINGS, LENGTHS, SIDES)
def test_whatever_the_devices_the_lag_holds_every_completion_trains_once_and_no_work_is_lost(setting, lengths, sides):
    setup, known = made(setting, lengths, **sides)
    rows = follow(setup, known)
    assert len(rows) == UPDATES
    bound = setting["k"] - 1 if setting["scheme"] == "ppo" else setting["k"]
    assert all(0 <= row.lag_mean <= row.lag_max <= bound for row in rows)
    assert rows[-1].tokens == sum(known[: UPDATES * setup.batch_size])
    times = [0.0, *(row.at_s for row in rows)]
    assert times == sorted(times)
    last = rows[-1]
    held = last.at_s * setup.generators * (1 + 1e-9)
    prompts_s = 1.0 + setup.start_s + 4 * setup.prefill_s
    begun = setup.generators * setup.slots * prompts_s  # passes with prompts that started, not ended
    assert last.generating_s + last.training_s * (setup.generators if setup.in_turn else 0) <= held + begun
    assert last.training_s <= last.at_s * (1 + 1e-9)
    trained = sum(known[: UPDATES * setup.batch_size]) * setup.train_token_s
    shared = setup.generators if setup.in_turn else setup.learners
    assert last.training_s == pytest.approx(UPDATES * (setup.update_s + setup.sync_s) + trained / shared)
    work = last.ticks * setup.token_s + last.decoded * setup.slot_s + last.prefilled * setup.prefill_s
    work += (last.passes - last.ticks) * (setup.start_s or setup.token_s)
    assert last.generating_s == pytest.approx(work)


def test_on_policy_an_update_is_generation_and_then_training():
    """16 completions at once: a pass with 4 prompts, 20 more, 336 tokens to train, new weights."""
    setup = even(off_policy_steps=0, prefill_s=0.01, train_token_s=0.03, update_s=0.5, completion_s=0.01, sync_s=0.25)
    generate = 0.02 + 4 * 10 * 0.01 + 20 * (0.02 + 16 * 0.005)
    train = 0.5 + 16 * 0.01 + 336 * 0.03 + 0.25
    for one in (setup, replace(setup, in_turn=True), replace(setup, feeding=True)):
        found = simulate(one)
        assert found.wall_s == pytest.approx(12 * (generate + train))
        assert found.lag_max == found.lag_mean == 0
        assert found.learner_idle_share == pytest.approx(generate / (generate + train))
        assert found.generator_idle_share == pytest.approx(train / (generate + train))
        assert found.gpu_hours == pytest.approx(one.devices * found.wall_s / 3600)
        assert found.generator_gpu_hours + found.learner_gpu_hours == pytest.approx(found.gpu_hours)
    faster = simulate(replace(setup, learners=4))
    assert faster.wall_s == pytest.approx(12 * (generate + train - 336 * 0.03 * 0.75))


@pytest.mark.parametrize("k", [1, 3])
def test_ppo_generates_k_batches_with_one_policy_and_then_trains_them(k):
    setup = even(off_policy="ppo", off_policy_steps=k, train_token_s=0.03, update_s=0.5, updates=12)
    generate, train = k * (0.02 + 20 * (0.02 + 16 * 0.005)), 0.5 + 336 * 0.03
    found = simulate(setup)
    assert found.wall_s == pytest.approx(12 / k * (generate + k * train))
    assert found.lag_mean == pytest.approx((k - 1) / 2) and found.lag_max == k - 1


@pytest.mark.parametrize(("train_token_s", "slower"), [(0.001, "generating"), (0.02, "training")])
def test_with_room_to_run_ahead_the_slower_role_sets_the_pace(train_token_s, slower):
    setup = even(off_policy_steps=8, feeding=True, lead="eager", train_token_s=train_token_s, updates=400)
    generate, train = 0.02 + 20 * (0.02 + 16 * 0.005), 336 * train_token_s
    assert (generate > train) == (slower == "generating")
    assert 3600 / simulate(setup).updates_per_hour == pytest.approx(max(generate, train), rel=0.02)
    stops = simulate(replace(setup, sync_s=0.5))  # both stand still while new weights are on their way
    assert 3600 / stops.updates_per_hour == pytest.approx(max(generate, train) + 0.5, rel=0.02)


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "off_policy_steps": st.integers(0, 4),
            "generators": st.integers(1, 3),
            "learners": st.integers(1, 3),
            "train_token_s": st.sampled_from([0.001, 0.02]),
            "lead": st.sampled_from(["eager", "full"]),
            "feeding": st.booleans(),
        }
    )
)
def test_no_setup_is_faster_than_its_work_evenly_shared(fields):
    """The bound that prunes the search; first tokens come with the prompt, so 20 are decoded one by one."""
    setup = even(updates=20, **fields)
    one_by_one = replace(setup, length_mean=20.0, train_token_s=setup.train_token_s * 21 / 20)
    assert simulate(setup).wall_s >= 20 * least_s(one_by_one) * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([*SECONDS, "prompt_length"]), st.floats(1.0, 4.0), st.booleans())
def test_on_policy_nothing_that_gets_slower_makes_a_run_faster(name, times, in_turn):
    slow = {"prefill_s": 0.01, "train_token_s": 0.02, "update_s": 0.5, "completion_s": 0.01, "sync_s": 0.25}
    setup = even(off_policy_steps=0, in_turn=in_turn, length_sd=5, **slow)
    slower = replace(setup, **{name: getattr(setup, name) * times})
    assert simulate(slower).wall_s >= simulate(setup).wall_s * (1 - 1e-12)


def test_the_same_setup_comes_to_the_same_and_another_seed_to_about_the_same():
    setup = even(length_sd=8, train_token_s=0.01, updates=60)
    assert simulate(setup) == simulate(setup)
    other = simulate(setup, seed=1)
    assert other != simulate(setup) and other.wall_s == pytest.approx(simulate(setup).wall_s, rel=0.05)


def test_a_slice_and_the_first_updates_tell_of_the_whole():
    setup = replace(THOUSAND, generators=40, learners=10, batch_size=1024, updates=60)
    whole = simulate(setup, completions=10**9)
    assert whole.share == 1 and whole.simulated == 60
    part = simulate(setup, completions=10_000)
    assert part.share < 1 and part.simulated < 60
    for name, tolerance in {"wall_s": 0.03, "lag_mean": 0.03, "tokens": 0.03}.items():
        assert getattr(part, name) == pytest.approx(getattr(whole, name), rel=tolerance), name
    assert sliced(setup, 1) == setup


def test_the_proposal_is_the_best_of_all_splits(monkeypatch):
    setup = Setup(
        slots=32, batch_size=64, generations_per_prompt=8, off_policy_steps=2, updates=30, length_mean=60, length_sd=20,
        token_s=0.01, slot_s=0.001, train_token_s=0.0007, feeding=True,
    )  # fmt: skip
    every = {n: simulate(replace(setup, generators=n, learners=7 - n)) for n in range(1, 7)}
    best = propose(setup, 7)
    assert best[0].wall_s == min(one.wall_s for one in every.values())
    assert {one.setup.generators for one in best[1:]} <= {best[0].setup.generators - 1, best[0].setup.generators + 1}
    with monkeypatch.context() as patch:  # from a bad first guess its neighbours lead there, too
        patch.setattr(splits, "least_s", lambda one: 1e9 - one.learners)
        assert propose(setup, 7)[0] == best[0]
    alone = propose(setup, 1)
    assert len(alone) == 1 and alone[0].setup.in_turn
    cheap = propose(setup, 7, cheapest=True)[0]
    assert cheap.gpu_hours <= best[0].gpu_hours and cheap.setup.devices <= 7
    with pytest.raises(UserError, match=r"^--devices: 0"):
        propose(setup, 0)


def test_what_k_costs_goes_down_with_k_and_its_lag_up():
    told = over_k(even(length_sd=6, train_token_s=0.004, updates=200, feeding=True), ks=(0, 1, 4))
    assert [one.lag_max for one in told] == [0, 1, 4]
    assert told[0].updates_per_hour < told[1].updates_per_hour <= told[2].updates_per_hour * 1.01
    assert [one.setup.off_policy_steps for one in over_k(even(off_policy="ppo", off_policy_steps=1), ks=(0, 1))] == [1]


def test_the_paper_s_devices_come_out_as_the_example_says():
    """Ten minutes and 13.3 GPU-hours an update of 2,048 on 64 + 16, which is the best split of 80 there."""
    found = simulate(replace(PAPER, batch_size=2048), completions=20_000)
    assert 80 / found.updates_per_hour == pytest.approx(13.3, rel=0.05)
    assert max(found.generator_idle_share, found.learner_idle_share) < 0.15 and found.lag_max == 8
    assert set(EXAMPLES) == set(command.EXAMPLES)
    assert (PAPER.generators, PAPER.learners, THOUSAND.devices) == (64, 16, 1000)


# Real runs.


@pytest.fixture(scope="module")
def real(tmp_path_factory, prompts):
    """Train, and keep the length of every trained completion: rows of the log, lengths by number, configuration."""
    from scalerl import describe, train
    from scalerl.config import load_config
    from scalerl.start import train as train_run

    def make(recipe="scalerl", **fields):
        small = {"batch_size": 32, "generations_per_prompt": 4, "eval_every": 100, "eval_generations": 1,
                 "eval_prompts": 2, "max_steps": 10, "no_positive_resampling": "false", **fields}  # fmt: skip
        config = load_config([recipe, "demo"], [f"{key}={value}" for key, value in small.items()])
        lengths = []

        def keep(completions, version):
            lengths.extend(len(c.tokens) for c in completions)
            return describe.completion_fields(completions, version)

        folder = tmp_path_factory.mktemp("real") / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "completion_fields", keep)
            train_run(config, str(prompts / "train.json"), str(prompts / "eval.json"), str(folder))
        rows = [row for row in read_log(folder / LOG_FILE).rows if row["kind"] == "step"]
        return folder, rows, lengths

    return make


@pytest.mark.parametrize(
    "fields",
    [
        {"off_policy_steps": 2, "slots": 24},
        {"off_policy_steps": 3, "lead": "eager", "slots": 96},
        {"off_policy": "ppo", "off_policy_steps": 2, "slots": 40},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_a_real_run_in_turn_has_the_lags_versions_and_completions_in_flight_of_its_lengths(fields, real):
    folder, rows, lengths = real(**fields)
    setup = measure(str(folder)).setup
    # The batches that were not trained any more have lengths that nobody knows; they start, and end no batch.
    found = follow(replace(setup, token_s=1.0, updates=10 - setup.off_policy_steps - 2), lengths)
    assert len(found) >= 5
    for row, told in zip(found, rows, strict=False):
        assert row.lag_mean == pytest.approx(told["lag_mean"], abs=1e-12)
        assert (row.lag_max, row.in_flight) == (told["lag_max"], told["in_flight"])
        assert row.versions_mean == pytest.approx(told["versions_mean"], abs=1e-12)
        assert row.batch_tokens == pytest.approx(told["length_mean"] * 32)


# The command.


def test_the_command_says_what_a_run_would_take(capsys):
    few = ["--set", "updates=20", "--set", "batch_size=128"]
    assert main(["simulate", "--run", "data/runs/scalerl", "--devices", "3", "--set", "off_policy_steps=2", *few]) == 0
    told = capsys.readouterr().out
    for text in ("data/runs/scalerl (110 updates)", "held against that run", "3 devices, pipeline-2", "what k costs"):
        assert text in told
    assert main(["simulate", "--example", "paper", "--json", "--set", "updates=5", "--set", "batch_size=64"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "simulate/1" and told["splits"][0]["generators"] == 64 and len(told["k"]) == 6
    assert set(told["setup"]) == set(FIELDS) and not told["proposed"] and "assumed" in told["findings"][0]
    speeds = ["--set", "tokens_per_s=2000", "--set", "train_token_s=1e-4", "--set", "length_p50=90"]
    assert main(["simulate", "--cheapest", "--devices", "2", *few, *speeds, "--set", "length_p95=200"]) == 0
    assert "fewest GPU-hours" in capsys.readouterr().out


def test_the_fewest_devices_that_are_about_as_fast_are_told_with_how_to_run_them(capsys):
    """Most of an update is what nobody can share: many learners are no faster than a few."""
    fields = {
        "updates": 40, "batch_size": 256, "slots": 256, "length_mean": 100, "length_sd": 0, "prompt_length": 20,
        "slot_s": 1e-5, "train_token_s": 1e-5, "update_s": 1, "off_policy_steps": 4,
    }  # fmt: skip
    many = ["--devices", "60", *(word for name in fields for word in ("--set", f"{name}={fields[name]}"))]
    assert main(["simulate", *many, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    best, less = told["splits"][0], told["fewer"]
    assert less["learners"] < 20 < best["learners"] and less["generators"] < best["generators"]
    assert best["wall_hours"] <= less["wall_hours"] <= 1.02 * best["wall_hours"]
    assert main(["simulate", *many]) == 0
    told = capsys.readouterr().out
    assert f"within 2 % of its time on {less['generators'] + less['learners']} devices: the last line" in told
    assert "the last line: torchrun --n" in told
    a_node = max(n for n in range(1, 9) if best["learners"] % n == 0)
    assert f"--nnodes {best['learners'] // a_node} --nproc-per-node {a_node} -m" in told


@pytest.mark.parametrize("learners", [1, 3, 4, 6, 16, 64, 200])
def test_the_busiest_learner_has_as_much_as_in_the_trainer(learners, monkeypatch):
    from types import SimpleNamespace

    from scalerl import sharded
    from scalerl.completions import Completion

    made = [Completion(i, (0,) * 20, (0,) * n, (0.0,) * n, (0,) * n, 0.0, False) for i, n in enumerate([28] * 150)]
    config = SimpleNamespace(config=SimpleNamespace(micro_batch_tokens=2048))
    monkeypatch.setattr(sharded, "world_size", lambda: learners)
    had = []
    for rank in range(learners):
        monkeypatch.setattr(sharded, "rank", lambda rank=rank: rank)
        shares = sharded.ShardedLearner._shares(config, made)  # type: ignore[arg-type]
        had.append(sum(28 * len(chosen) for chosen, counts in shares if counts))
    setup = Setup(micro_batch_tokens=2048, prompt_length=20)
    assert 28 * 150 * float(setup.busiest(28 * 150, 150, learners)) == pytest.approx(max(had), rel=0.2, abs=28)


def test_learners_compute_whole_micro_batches():
    """16 completions of 31 tokens with their prompts: three in a micro-batch of 100, then one for every learner."""
    setup = even(in_turn=False, off_policy_steps=0, train_token_s=0.03, micro_batch_tokens=100, updates=6)
    for learners, share in (
        (1, 1),
        (2, 3 / 6),
        (3, 2 / 6),
        (5, 2 / 6),
        (6, 1 / 6),
        (7, 3 / 16),
        (16, 1 / 16),
        (50, 1 / 16),
    ):
        rows = follow(replace(setup, learners=learners), [21] * 16 * 8)
        assert rows[0].training_s == pytest.approx(336 * 0.03 * share)
        took = simulate(replace(setup, learners=learners)).wall_s / 6
        assert least_s(replace(setup, learners=learners)) < 1.05 * took  # a first token takes no pass of its own
    many = replace(setup, generators=16, learners=16, batch_size=4096, slots=256, micro_batch_tokens=6400, updates=3)
    whole, thin = follow(many, [21] * 4096 * 5), Simulation(sliced(many, 16), [21] * 256 * 5, prompts=1024).run(3)
    assert len(whole) == len(thin) and thin[-1].training_s == pytest.approx(whole[-1].training_s)


def test_what_takes_too_long_to_simulate_is_left_out_where_nobody_asked_for_it(capsys, monkeypatch):
    monkeypatch.setattr("scalerl.simulate.outcome.MOST", 2000)
    few = ["--set", "batch_size=256", "--set", "slots=256", "--set", "slot_s=1e-6", "--set", "updates=2"]
    assert main(["simulate", *few, "--set", "off_policy_steps=1", "--json"]) == 0
    assert [one["k"] for one in json.loads(capsys.readouterr().out)["k"]] == [0, 1, 2, 4]
    assert main(["simulate", *few, "--set", "off_policy_steps=8", "--json"]) == 2
    assert "2,560 completions would have to be simulated" in capsys.readouterr().err


def test_fields_are_listed_and_read_from_yaml(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("slots: 48\ntoken_s: 2e-2\nin_turn: true\n")
    assert main(["simulate", "--fields", "--config", str(tmp_path / "mine.yaml"), "--set", "slots=96"]) == 0
    told = capsys.readouterr().out
    assert "slots = 96" in told and "token_s = 0.02" in told and "in_turn = True" in told and "tokens_per_s" in told
    assert all(f"{name} = " in told and field.metadata["what"] in told for name, field in FIELDS.items())
    assert main(["simulate", "--fields", "--json", "--set", "slots=96"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        told["schema"] == "simulate-fields/1" and set(told["fields"]) == set(FIELDS) and told["fields"]["slots"] == 96
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "speeds are not known"),
        (["--set", "slots"], "'slots' is not key=value"),
        (["--set", "slot=4"], "did you mean slots?"),
        (["--set", "token_s=fast", "--set", "slots=1.5"], "token_s: 'fast' is not a number"),
        (["--set", "token_s=0.1", "--set", "batch_size=17"], "batch_size: 17 completions are no whole number"),
        (["--set", "token_s=-1"], "token_s: -1.0 is not a finite number from 0"),
        (["--set", "token_s=nan"], "token_s: nan is not a finite"),
        (["--set", "token_s=1", "--set", "off_policy=dapo"], "off_policy: 'dapo' is none of pipeline, ppo"),
        (["--set", "length_p50=5"], "length_p50, length_p95: give both"),
        (["--set", "token_s=1", "--set", "tokens_per_s=1e9"], "tokens_per_s: 1e+09 is more than token_s"),
        (["--example", "paper", "--cheapest"], "--cheapest: read with --devices alone"),
        (["--example", "paper", "--devices", "0"], "--devices: 0 is not a number of devices"),
        (["--run", "nowhere"], "nowhere"),
        (["--run", "data/logs/trl-grpo_s0"], "data/logs/trl-grpo_s0"),
        (["--config", "pyproject.toml"], "pyproject.toml:"),
    ],
)
def test_mistakes_are_one_line_each(argv, message, capsys):
    assert main(["simulate", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and all(line.startswith("scalerl: ") for line in error.splitlines())


def test_nothing_heavy_is_imported():
    heavy = "{'torch', 'transformers', 'pandas', 'scipy', 'pydantic', 'yaml', 'matplotlib'}"
    code = (
        "import sys; from scalerl.cli import main; "
        "code = main('simulate --run data/runs/scalerl --set updates=5 --json'.split()); "
        f"sys.exit(code or ', '.join({heavy} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_answers_that_take_time_leave_slots_empty_for_as_long():
    """One slot: after each completion of 20 ticks the next one waits for an answer; training takes no time."""
    setup = even(slots=1, batch_size=1, generations_per_prompt=1, off_policy_steps=8, lead="eager", updates=200)
    found = simulate(replace(setup, reply_s=0.3))
    assert 3600 / found.updates_per_hour == pytest.approx(0.02 + 20 * (0.02 + 0.005) + 0.3)
    assert found.generator_idle_share == pytest.approx(0.3 / (0.02 + 20 * 0.025 + 0.3), rel=0.02)


def test_what_the_filter_leaves_varies_as_prompts_do():
    """Of 4 prompts a half each with probability a half: training takes 0, 1, 2, 3 or 4 quarters of all."""
    setup = even(
        off_policy_steps=0, in_turn=True, train_token_s=0.03, kept_share=0.5, updates=400, token_s=0.001, slot_s=0
    )
    rows = follow(setup, [21] * 16 * 401)
    took = [b.training_s - a.training_s for a, b in pairwise(rows)]
    quarters = [round(seconds / (336 * 0.03 / 4), 6) for seconds in took]
    assert set(quarters) == {0, 1, 2, 3, 4}
    assert sum(quarters) / len(quarters) == pytest.approx(2, abs=0.2)


def test_the_bound_that_prunes_the_search_holds_where_lengths_are_cut():
    """Half of the completions reach the limit: the mean of what is generated is far below that of the lengths."""
    setup = even(updates=40, length_mean=200.0, length_sd=400.0, max_new_tokens=60, off_policy_steps=2)
    one_by_one = replace(setup, max_new_tokens=59, train_token_s=setup.train_token_s)
    assert simulate(setup).wall_s >= 40 * least_s(one_by_one) * 0.97  # a mean of few draws
    assert cut_mean(setup) < 50 < setup.max_new_tokens


def test_updates_that_are_made_at_one_instant_have_the_rate_of_the_whole_run():
    found = simulate(Setup(token_s=0.02, slots=8000, updates=8, generators=1, learners=1))
    assert 0 < found.updates_per_hour == pytest.approx(3600 * 8 / found.wall_s)


def test_a_million_devices_are_split_where_the_schedule_has_work_for_them():
    """At most three batches of 16 completions are in flight, so a 49th generator would never get one."""
    setup = even(generators=1, off_policy_steps=2, updates=10, feeding=True)
    assert propose(setup, 10**6)[0].setup.generators <= 48
    assert {one.generators for one in splits._splits(setup, 10**6)} == set(range(2, 49, 2))


@pytest.mark.parametrize(
    ("fields", "completions"), [({"batch_size": 10**8}, "1,400,000,000"), ({"off_policy_steps": 10**6}, "16,000,192")]
)
def test_what_nobody_could_wait_for_is_told(fields, completions):
    with pytest.raises(UserError, match=rf"^{completions} completions would have to be simulated, .* lower off_policy"):
        simulate(even(**{"off_policy_steps": 2, **fields}))
