"""What a run decides by itself: the rules, against torch's scheduler and a made-up machine."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.config import ConfigError, ScaleRLConfig, load_config
from scalerl.controllers import ABOVE, BatchSize, Controllers, LearningRate, next_batch_size
from tests.made_rates import torch_rates

RATES = st.lists(st.sampled_from([0.0, 0.1, 0.11, 0.2, 0.205, 0.5, 1.0]), max_size=40)


def our_rates(config, series):
    rate, found = LearningRate(config), []
    for step, value in enumerate(series):
        before, said = rate.peak, rate.watch(step, value)
        assert (said is not None) == (rate.peak < before)
        assert said is None or (said["old"], said["new"]) == (before, rate.peak)
        found.append(rate.peak)
    return found


@settings(max_examples=300, deadline=None)
@given(
    RATES,
    st.builds(
        lambda patience, factor, floor, gain: ScaleRLConfig(
            lr_schedule="plateau", learning_rate=1e-6, warmup_steps=0, plateau_patience=patience,
            plateau_factor=factor, plateau_floor=floor, plateau_min_gain=gain,
        ),
        st.integers(1, 6), st.sampled_from([0.5, 0.9]), st.sampled_from([1e-8, 3e-7, 1e-6]),
        st.sampled_from([0.0, 0.01]),
    ),
)  # fmt: skip
def test_a_plateau_is_torchs(series, config):
    assert our_rates(config, series) == torch_rates(config, series)


def test_a_rising_pass_rate_never_lowers_the_learning_rate_and_a_flat_one_halves_it_every_five():
    config = ScaleRLConfig(lr_schedule="plateau", warmup_steps=0)
    rising, flat, falling = ([0.1 + s * n / 100 for n in range(31)] for s in (1, 0, -0.1))
    assert our_rates(config, rising) == torch_rates(config, rising) == [5e-7] * 31
    for series in (flat, falling):
        expected = [max(1e-8, 5e-7 / 2 ** (n // 5)) for n in range(31)]
        assert our_rates(config, series) == torch_rates(config, series) == expected
    assert expected[-1] == 1e-8, "the floor"
    constant = ScaleRLConfig(warmup_steps=0)
    assert our_rates(constant, flat) == [5e-7] * 31


def test_evaluations_of_the_warm_up_set_the_best_and_do_not_count():
    rate = LearningRate(ScaleRLConfig(lr_schedule="plateau", warmup_steps=10, plateau_patience=2))
    said = [rate.watch(step, value) for step, value in [(0, 0.5), (4, 0.1), (8, 0.1), (12, 0.1), (16, 0.4)]]
    assert [s is not None for s in said] == [False] * 4 + [True]
    assert said[-1]["reason"] == "2 evaluations did not beat the pass rate of 0.5 at step 0"


# ---- batch size


@given(st.data(), st.sampled_from([1, 4, 16, 100]), st.floats(0, 2), st.floats(0.05, 0.9))
def test_a_batch_is_an_int_a_multiple_and_moves_the_right_way(data, generations, efficiency, target):
    groups, least, more = (data.draw(st.integers(*bounds)) for bounds in ((1, 300), (1, 50), (0, 200)))
    low, high = least, least + more + generations  # at least one multiple lies between
    size = min(max(groups, -(-low // generations)), high // generations) * generations
    new = next_batch_size(size, efficiency, target=target, generations=generations, least=low, most=high)
    assert type(new) is int and new % generations == 0 and low <= new <= high
    if efficiency < target:
        assert new > size or size + generations > high
    elif efficiency > ABOVE * target:
        assert new < size or size - generations < low
    else:
        assert new == size


def test_the_factors_and_limits_are_those_that_people_expect():
    config = load_config([], ["dynamic_batch_size=true"])
    assert (config.batch_size_min, config.batch_size_max, config.dynamic_batch_size) == (256, 2048, True)
    shape = {"target": 0.7, "generations": 16, "least": 256, "most": 2048}
    sizes = [768]
    while len(sizes) < 12:
        sizes.append(next_batch_size(sizes[-1], 0.5, **shape))
    assert sizes == [768, 928, 1120, 1344, 1616, 1936, 2048, 2048, 2048, 2048, 2048, 2048]
    while len(sizes) < 24:
        sizes.append(next_batch_size(sizes[-1], 0.9, **shape))
    assert sizes[12:] == [1632, 1312, 1056, 848, 672, 544, 432, 352, 288, 256, 256, 256]
    assert next_batch_size(768, 0.7, **shape) == next_batch_size(768, 0.77, **shape) == 768


def machine(config, seconds, updates, lag=0):
    """Run the controller on a machine that takes `seconds(size)` for an update of one FLOP a completion."""
    control, sizes, said, wall, flops = BatchSize(config), [], [], 0.0, 0.0
    queue = [config.batch_size] * lag
    for update in range(updates):
        queue.append(control.size)
        size = queue.pop(0)
        wall, flops = wall + seconds(size), flops + size
        sizes.append(size)
        if (event := control.watch(size, wall, flops)) is not None:
            said.append((update, event))
        if update % 7 == 3:  # a kill
            kept = json.loads(json.dumps(control.state()))
            control = BatchSize(config)
            control.restore(kept)
    return control, sizes, said


@pytest.mark.parametrize("lag", [0, 3, 8])
def test_a_batch_settles_where_the_speed_is_at_the_target_whatever_the_lag(lag):
    """An update that takes 100 s and one more each completion is b / (100 + b) of full speed at b completions."""
    config = load_config([], ["dynamic_batch_size=true", "batch_size=2048", "batch_size_every=5"])
    control, sizes, said = machine(config, lambda b: 100.0 + b, 400, lag)
    fastest = 2048 / 2148
    assert {size: speeds[0] for size, speeds in control.speeds.items()} == pytest.approx(
        {size: size / (100 + size) for size in sizes}
    )
    settled = control.size
    assert 0.8 <= settled / (100 + settled) / fastest <= 0.88 and sizes[-100:] == [settled] * 100
    for _, event in said:
        assert event["efficiency"] == pytest.approx(event["old"] / (100 + event["old"]) / fastest), "of that size alone"
    assert all(later - earlier >= 5 + lag for (earlier, _), (later, _) in pairwise(said))


def test_a_machine_that_is_busy_now_and_then_does_not_drive_the_batch_up():
    """Speeds that vary by 5 % (sd) from window to window: over 20 runs the batch stays near the target's."""
    config = load_config([], ["dynamic_batch_size=true"])
    ends = []
    for seed in range(20):
        noise = np.random.default_rng(seed).lognormal(0, 0.05, 500).repeat(20)
        place = iter(noise)
        ends += machine(config, lambda b, place=place: (100.0 + b) * next(place), 1000)[1][-200:]
    assert 256 < np.mean(ends) < 450


def test_a_machine_without_overhead_takes_the_smallest_batch_and_one_that_slows_down_a_larger():
    config = load_config([], ["dynamic_batch_size=true", "batch_size_every=3"])
    control, _, said = machine(config, float, 200)
    assert control.size == 256 and said[0][1]["old"] == 768 and said[0][1]["new"] == 608
    assert said[0][1]["reason"] == "efficiency 1 is above 0.88"
    while control.size == 256:
        control.watch(256, control.window.wall_s + 1e6, control.window.flops + 256)
    assert control.size == 304 and [speed < 0.001 for speed in control.speeds[256]] == [False] * 2 + [True] * 3
    off, _, said = machine(load_config(), lambda b: 100.0 + b, 100)
    assert off.size == 768 and not said


@given(st.lists(st.floats(0, 1), max_size=30), st.integers(0, 30))
def test_all_that_is_remembered_is_in_the_state(series, cut):
    config = load_config(
        [], ["lr_schedule=plateau", "plateau_patience=2", "early_stopping_patience=3", "warmup_steps=5"]
    )

    def run(cut):
        control, said = Controllers(config), []
        for step, rate in enumerate(series):
            if step == cut:
                kept = json.loads(json.dumps(control.state()))
                control = Controllers(config)
                control.restore(kept)
            said.append((control.learning_rate.watch(step, rate), control.best.watch(step, rate)))
            control.stopping.watch(step, rate)
            said.append((control.stopping.stopped, control.stopping.fields()))
        return said

    assert run(cut) == run(None)


# ---- configuration


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["lr_schedule=plateau", "plateau_floor=1e-6"], "plateau_floor: 1e-06 is more than learning_rate"),
        (["lr_schedule=cosine"], "lr_schedule: 'cosine'"),
        (["plateau_factor=1.5"], "plateau_factor: 1.5"),
        (["plateau_patience=0"], "plateau_patience: 0"),
        (["dynamic_batch_size=true", "batch_size=128"], "batch_size: 128 lies outside batch_size_min"),
        (["efficiency_target=0.95"], "efficiency_target: 0.95"),
        (["early_stopping_patience=0"], "early_stopping_patience: 0"),
        (["keep_best=best"], "keep_best: 'best'"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        load_config([], fields)
