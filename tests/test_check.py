"""`check`: each check fires on a log made for it and at its place, none on healthy runs; what lacks is unknown."""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import analysis as an
from analysis.checks import stepchecks
from analysis.checks.evalchecks import POWER
from analysis.checks.steps import Steps, moving_mean, read_steps
from analysis.cli import add_commands
from scalerl import guards
from scalerl.config import ScaleRLConfig
from scalerl.runlog import UserError
from tests.made import as_run, counted

ROOT = Path(__file__).parent.parent
HEALTHY = ROOT / "data" / "runs" / "scalerl"
DECAY = ROOT / "tests" / "data" / "qwen3_math_decay.csv"
NAMES = (
    *("truncation", "entropy", "ratio", "clipping", "mismatch", "gradient", "batch", "prompts", "reward", "lag"),
    *("decay", "evaluation-noise", "regimes", "utilisation", "lost-compute"),
)


def command(*argv):
    parser = argparse.ArgumentParser(prog="scalerl")
    add_commands(parser.add_subparsers(required=True))
    args = parser.parse_args([str(a) for a in argv])
    return args.run(args)


@pytest.fixture
def edited(tmp_path):
    """Copy a healthy run, as the trainer logs it now, with rows, header or events changed."""

    def make(step=None, evaluation=None, config=None, events=()):
        header = json.loads((HEALTHY / "run.json").read_text())
        header["config"] |= {"off_policy_steps": 8, **(config or {})}
        rows = [json.loads(line) for line in (HEALTHY / "log.jsonl").read_text().splitlines()]
        for row in rows:
            if row["kind"] == "step":
                row.update({"lag_max": 8, "retired": 0, "filtered_share": row["zero_variance_share"]})
                row.update(step(row) if step else {})
            elif row["kind"] == "eval":
                row.update(evaluation(row) if evaluation else {})
        (tmp_path / "run.json").write_text(json.dumps(header))
        (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *events]))
        return an.check(an.read(tmp_path))[0]

    return make


def late(**fields):
    """Change rows from update 60 on."""
    return lambda row: {k: f(row) for k, f in fields.items()} if row["step"] > 60 else {}


def to(value):
    return lambda _: value


SICK = {
    "truncation-rises": ("truncation", "error", {"truncation_rate": to(0.2)}, 0.2),
    "truncation-some": ("truncation", "warning", {"truncation_rate": to(0.12)}, 0.12),
    "entropy-low": ("entropy", "warning", {"entropy": to(0.01)}, None),
    "entropy-gone": ("entropy", "error", {"entropy": to(0.001)}, None),
    "entropy-rises": ("entropy", "warning", {"entropy": to(1.2)}, None),
    "ratio-lasts": ("ratio", "error", {"ratio_mean": to(1.8)}, 0.8),
    "ratio-once": ("ratio", "warning", {"ratio_mean": lambda row: 0.3 if row["step"] == 70 else 1.0}, 0.7),
    "clipping": ("clipping", "warning", {"clipped_share": to(0.7)}, 0.7),
    "mismatch": ("mismatch", "warning", {"logprob_diff_mean": to(0.5)}, 0.5),
    "gradient": ("gradient", "warning", {"grad_norm": lambda row: 30 * row["grad_norm"]}, None),
    "gradient-overflows": ("gradient", "error", {"skipped": to(True), "grad_norm": to(None)}, 50 / 110),
    "batch-shrinks": ("batch", "warning", {"zero_variance_share": to(0.8)}, 0.2),
    "batch-empty": ("batch", "error", {"zero_variance_share": to(1.0), "skipped": to(True)}, 0.0),
    "prompts-run-out": ("prompts", "warning", {"retired": lambda row: min(1500, 20 * row["step"])}, 1.0),
    "reward-lost": ("reward", "error", {"reward_sum": to(-400.0)}, None),
    "lag": ("lag", "error", {"lag_max": to(9)}, 9.0),
    "learning-rate-jumps": ("regimes", "warning", {"learning_rate": to(5e-5)}, 1.0),
    "idle": ("utilisation", "warning", {"generate_s": to(0.0)}, None),
    "slow-checker": ("utilisation", "warning", {"score_s": to(5.0)}, None),
    "generator-waits": ("utilisation", "warning", {"generator_busy_s": to(0.05)}, None),
}


@pytest.mark.parametrize("case", SICK)
def test_each_check_fires_on_a_log_made_for_it_and_names_figure_place_and_field(edited, case):
    name, status, fields, figure = SICK[case]
    health = edited(late(**fields))
    found = health[name]
    assert found.status == status, found
    assert figure is None or found.figure == pytest.approx(figure, rel=1e-6)
    if name != "utilisation":  # a share of the whole run has its end for a place
        assert found.where["step"] >= 60 and 0.0 < found.where["gpu_hours"] <= 0.0246
    assert found.field
    if name == "utilisation":  # the remedy of each cause names the fields that are listed
        assert all(field in found.message for field in found.field.split(", ")), found.message
    assert any(f.message.startswith(f"{name}: ") and f.severity == status for f in health.findings)


def test_the_healthy_run_fires_nothing_and_every_check_could_be_made(edited):
    health = edited()
    assert tuple(c.name for c in health.checks) == NAMES
    assert {c.status for c in health.checks} == {"ok"} and health.findings == () and health.status == "ok"


def test_a_packed_log_is_looked_at_like_any_other(tmp_path):
    for name in ("run.json", "log.jsonl"):
        content = (HEALTHY / name).read_bytes()
        packed = name == "log.jsonl"
        (tmp_path / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    ours, theirs = (an.check(an.read(folder)) for folder in (tmp_path, HEALTHY))
    assert [c.figure for c in ours[0].checks] == [c.figure for c in theirs[0].checks]
    assert sum(c.figure is not None for c in ours[0].checks) > 10


def test_shipped_runs_raise_no_false_alarm():
    for run in an.check(an.read(ROOT / "data" / "runs")):
        assert run.status == "ok"
        assert {c.name for c in run.checks if c.status == "unknown"} == {"prompts", "lag"}  # logged before these were


def test_a_figure_is_the_mean_over_ten_updates_and_stands_at_their_end(edited):
    spike = edited(lambda row: {"truncation_rate": 0.9 if row["step"] == 40 else 0.0})["truncation"]
    assert spike.status == "ok" and spike.figure == pytest.approx(0.09)
    assert 40 <= spike.where["step"] <= 49
    ramp = edited(lambda row: {"truncation_rate": row["step"] / 1000.0})["truncation"]
    assert ramp.status == "warning" and ramp.figure == pytest.approx(np.mean(np.arange(101, 111)) / 1000.0)
    assert ramp.where["step"] == 110


def test_the_lag_that_ppo_allows_is_one_less(edited):
    assert edited(config={"off_policy": "ppo"})["lag"].status == "error"
    assert edited(lambda _: {"lag_max": 7}, config={"off_policy": "ppo"})["lag"].status == "ok"


def test_a_reward_that_falls_with_the_retirement_of_prompts_is_no_collapse(edited):
    fallen = late(reward_sum=to(-400.0), retired=to(600))
    found = edited(fallen)["reward"]
    assert found.status == "unknown" and "retired" in found.message


def test_decay_is_found_with_the_place_of_the_peak_and_is_an_error_where_most_is_lost(edited):
    def falling(depth):
        return lambda row: {"pass_rate": row["pass_rate"] - depth * max(0, row["step"] - 60) / 50}

    warned = edited(evaluation=falling(0.2))["decay"]
    assert warned.status == "warning" and 50 <= warned.where["step"] <= 70 and warned.figure > 0.1
    assert edited(evaluation=falling(0.5))["decay"].status == "error"


def test_a_collapse_is_told_from_its_best_and_a_run_without_a_curve_has_no_decay():
    C, noise = np.arange(1, 31) / 5, np.random.default_rng(0).normal(0, 0.005, 30)
    collapse = np.r_[np.linspace(0.15, 0.63, 8), np.linspace(0.6, 0.058, 22)] + noise
    found = an.check(as_run(C, collapse))[0]["decay"]
    assert found.status == "error" and "from 0.63" in found.message and found.figure > 0.5
    falls = an.check(as_run(C, np.linspace(0.3, 0.05, 30) + noise))[0]["decay"]
    assert falls.status == "error" and "from 0.30" in falls.message
    still = an.check(as_run(np.zeros(30), 0.3 + noise))[0]
    assert still["decay"].status == "unknown" and "all 30 evaluations stand at gpu_hours 0" in still["decay"].message
    assert still.status != "ok"


def test_what_a_resume_lost_is_a_share_of_all_that_was_spent(edited):
    def resumed(hours):
        return [{"kind": "event", "event": "resume", "attempt": 2, "step": 50, "gpu_hours_lost": hours}]

    rows = [json.loads(line) for line in (HEALTHY / "log.jsonl").read_text().splitlines()]
    total = [row["gpu_hours"] for row in rows if row["kind"] == "step"][-1]
    found = edited(events=resumed(0.01))
    share = found["lost-compute"]
    assert share.status == "warning" and share.where == {"step": 50.0}
    assert share.figure == pytest.approx(0.01 / (0.01 + total)) and found.gpu_hours_by_phase["lost"] == 0.01
    assert edited(events=resumed(0.001))["lost-compute"].status == "ok"


def test_phases_are_sums_of_the_log_and_make_up_the_gpu_hours(edited):
    rows = [json.loads(line) for line in (HEALTHY / "log.jsonl").read_text().splitlines()]
    hours = edited().gpu_hours_by_phase
    for phase in ("generate", "score", "train"):
        assert hours[phase] == pytest.approx(sum(r[f"{phase}_s"] for r in rows if r["kind"] == "step") / 3600)
    last = [r for r in rows if r["kind"] == "step"][-1]["gpu_hours"]
    assert sum(hours[p] for p in ("generate", "score", "train", "other")) == pytest.approx(last)
    assert hours["evaluate"] == pytest.approx(sum(r["evaluate_s"] for r in rows if r["kind"] == "eval") / 3600)


def test_evaluation_noise_is_the_difference_that_two_evaluations_show_with_80_percent_power():
    rate = np.random.default_rng(0).uniform(0.1, 0.9, 100)
    found = an.check(counted(np.tile(rate, (12, 1)), k=16))[0]["evaluation-noise"]
    sd = math.sqrt((rate * (1 - rate)).sum() / 16 / 100**2)
    assert found.figure == pytest.approx(POWER * math.sqrt(2) * sd, rel=0.03)
    draws = np.random.default_rng(1).binomial(16, rate, (2, 4000, 100)).mean(axis=2) / 16
    shown = np.abs(draws[0] + found.figure - draws[1]) > 1.959964 * math.sqrt(2) * sd
    assert shown.mean() == pytest.approx(0.8, abs=0.03)


def test_noise_is_held_against_the_runs_gain_or_the_effect_that_is_asked_for():
    rate = np.linspace(0.2, 0.7, 12)[:, None] * np.ones(100)
    run = counted(rate, k=8)
    assert an.check(run)[0]["evaluation-noise"].status == "ok"
    asked = an.check(run, effect=0.02)[0]["evaluation-noise"]
    assert asked.status == "warning" and asked.limit == 0.02 and "eval_generations" in asked.field
    needed = int(asked.message.split("take ")[1].split()[0])
    assert needed == math.ceil(8 * (asked.figure / 0.02) ** 2)
    assert an.check(counted(rate, k=needed), effect=0.0205)[0]["evaluation-noise"].status == "ok"
    flat = an.check(counted(np.full((12, 30), 0.3), k=4))[0]["evaluation-noise"]
    assert flat.status == "warning"
    fallen = an.check(counted(rate[::-1], k=8))[0]["evaluation-noise"]
    assert fallen.status == "ok" and "; half of what the run fell by, 0.2" in fallen.message
    assert "half of the run's gain, 0.2" in an.check(run)[0]["evaluation-noise"].message
    a_little = an.check(counted(np.linspace(0.3, 0.2999, 12)[:, None] * np.ones(30), k=4))[0]["evaluation-noise"]
    assert ("gain" in a_little.message) == ("fell" not in a_little.message)


def test_a_table_of_evaluations_says_what_it_could_not_look_at():
    health = an.check(an.read(DECAY, y="eval_acc"))[0]
    assert health["decay"].status == "warning"
    assert {c.name for c in health.checks if c.status == "unknown"} == set(NAMES) - {"decay"}
    assert set(health.gpu_hours_by_phase.values()) == {None}
    note = health.findings[-1]
    assert note.code == "not-checked" and note.severity == "note" and "table of evaluations" in note.message
    assert an.check(as_run(np.linspace(0, 1, 4), np.linspace(0.1, 0.5, 4)))[0].status == "unknown"


@pytest.mark.parametrize("field", ["entropy", "grad_norm", "ratio_mean", "zero_variance_share", "score_s", "lag_max"])
def test_a_figure_that_is_null_throughout_is_unknown_and_not_ok(edited, field):
    health = edited(lambda _: {field: None})
    lost = [c for c in health.checks if c.status == "unknown"]
    assert lost and {c.figure for c in lost} == {None} and health.status == "ok"
    json.dumps(health.to_dict(), allow_nan=False)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=40), st.integers(1, 12))
def test_moving_means_are_means_of_whole_windows_without_the_unknown(cells, window):
    values = np.array([math.nan if c is None else c for c in cells])
    means, rows = moving_mean(values, window)
    width = min(window, len(cells))
    assert len(means) == len(rows) == len(cells) - width + 1
    for mean, row in zip(means, rows, strict=True):
        known = [c for c in cells[row - width + 1 : row + 1] if c is not None]
        if 2 * len(known) >= width:
            assert mean == pytest.approx(np.mean(known))
        else:
            assert math.isnan(mean)


def test_limits_that_the_trainer_guards_too_are_the_same():
    assert stepchecks.TRUNCATION == guards.TRUNCATION_RATE
    assert stepchecks.RATIO == guards.RATIO_DEVIATION
    assert stepchecks.REWARD_LEFT == guards.REWARD_SHARE
    assert stepchecks.ENTROPY < guards.ENTROPY_SHARE  # healthy runs come near the guard's
    assert an.check(an.read(HEALTHY))[0].steps.column("entropy") is not None


def test_every_field_that_a_check_names_is_one_of_the_configuration():
    known = set(ScaleRLConfig.model_fields)
    named = set()
    for file in ("stepchecks.py", "evalchecks.py"):
        for node in ast.walk(ast.parse((ROOT / "analysis" / "checks" / file).read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words = node.value.split(", ")
                if len(words) > 1 and all(word.isidentifier() and word.islower() for word in words):
                    named |= set(words)
    assert len(named) > 8 and named <= known, named - known


def test_reading_a_run_reads_no_updates_and_a_log_that_went_is_unknown(edited, tmp_path):
    edited()
    run = an.read(tmp_path)[0]
    assert len(read_steps(run)) == 110 and "entropy" not in run.data
    (tmp_path / "log.jsonl").unlink()
    gone = an.check(run)[0]
    assert gone["entropy"].status == "unknown" and "not there" in gone["entropy"].message
    assert gone["decay"].status == "ok"


def test_results_are_text_html_frame_and_json_and_findings_stand_first(edited):
    health = edited(late(truncation_rate=to(0.2)))
    lines = repr(health).splitlines()
    assert lines[0].endswith("error") and "truncation" in lines[1] and lines[1].split()[0] == "error"
    assert repr(health).index("20%") < repr(health).index("figure")
    frame = health.frame
    assert list(frame["name"]) == list(NAMES) and frame.loc[0, "figure"] == pytest.approx(0.2)
    assert frame["limit"].isna().sum() == 1
    import dataclasses

    evil = dataclasses.replace(health, name="<script>")
    assert "<script>" not in evil._repr_html_() and "&lt;script&gt;" in evil._repr_html_()
    with pytest.raises(KeyError, match="truncation"):
        health["nothing"]


def test_bad_calls_are_told_in_one_line():
    runs = an.read(HEALTHY)
    with pytest.raises(UserError, match="no run"):
        an.check([])
    with pytest.raises(UserError, match="no compute axis 'hours'"):
        an.check(runs, x="hours")
    for effect in (0.0, -0.1, 1.5, math.nan):
        with pytest.raises(UserError, match="effect"):
            an.check(runs, effect=effect)
    with pytest.raises(UserError, match="one run"):
        an.plot_health(an.check(an.read(ROOT / "data" / "runs")))


def test_command_prints_table_or_json_and_its_exit_code_says_error(edited, tmp_path, capsys):
    assert command("check", HEALTHY) == 0
    assert "scalerl/seed0   ok" in capsys.readouterr().out
    edited(late(truncation_rate=to(0.12)))
    assert command("check", tmp_path) == 0
    edited(late(truncation_rate=to(0.2)))
    assert command("check", tmp_path, "--json") == 1
    capsys.readouterr()
    command("check", tmp_path, "--json")
    said = json.loads(capsys.readouterr().out)
    assert next(iter(said)) == "schema" and said["schema"] == "check/1"
    (run,) = said["runs"]
    assert {"run", "checks", "gpu_hours_by_phase", "findings"} <= set(run)
    fields = {"name", "status", "figure", "limit", "where", "field", "message"}
    assert all(set(check) == fields for check in run["checks"])
    picture = tmp_path / "health.png"
    assert command("check", HEALTHY, "-o", picture) == 0 and picture.stat().st_size > 10_000
    with pytest.raises(UserError, match="exists"):
        command("check", HEALTHY, "-o", picture)
    with pytest.raises(UserError, match="one run"):
        command("check", ROOT / "data" / "runs", "-o", tmp_path / "two.png")


def artists(figure: Figure):
    return {a.get_gid(): a for a in figure.findobj() if a.get_gid()}


def test_figure_holds_the_logged_figures_their_means_limits_and_hours(edited):
    health = edited(late(truncation_rate=to(0.2)))
    drawn = artists(an.plot_health(health))
    columns = health.steps.columns
    expected = {
        "entropy": columns["entropy"],
        "truncation": columns["truncation_rate"],
        "gradient": columns["grad_norm"],
        "ratio": np.abs(columns["ratio_mean"] - 1.0),
        "clipped": columns["clipped_share"],
        "kept": 1.0 - columns["zero_variance_share"],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(drawn[name].get_xydata(), np.stack([columns["step"], values], axis=1))
        means, rows = moving_mean(values)
        np.testing.assert_array_equal(
            drawn[f"{name}-mean"].get_xydata(), np.stack([columns["step"][rows], means], axis=1)
        )
    assert drawn["truncation-limit"].get_ydata()[0] == health["truncation"].limit
    assert drawn["kept-limit"].get_ydata()[0] == health["batch"].limit
    for phase, hours in health.gpu_hours_by_phase.items():
        assert drawn[f"phase-{phase}"].get_width() == hours
    words = [ax.get_title(loc="right") for ax in an.plot_health(health).axes]
    assert words == ["ok", "error", "ok", "ok", "ok", "ok"]
    assert to_hex(drawn["entropy"].get_color()) == "#0072b2"


def test_figure_of_a_table_says_that_nothing_is_there():
    drawn = artists(an.plot_health(an.check(an.read(DECAY, y="eval_acc"))))
    assert {"entropy-none", "truncation-none", "gradient-none", "ratio-none", "kept-none", "phase-none"} <= set(drawn)
    assert len(Steps()) == 0


def test_the_worse_of_a_rise_and_a_collapse_of_entropy_is_said(edited):
    found = edited(late(entropy=lambda row: 1.2 if row["step"] < 80 else 0.001))["entropy"]
    assert found.status == "error" and "falls to" in found.message and "rises to" in found.message


def test_utilisation_shows_the_figure_that_passed_its_limit(edited):
    for fields in ({"score_s": to(5.0)}, {"generator_busy_s": to(0.05)}):
        found = edited(late(**fields))["utilisation"]
        assert found.status == "warning" and found.figure > found.limit


def test_every_cause_of_low_utilisation_has_its_own_remedy(edited):
    """All at once: five sentences, each with the fields of its own cause and of no other's."""
    slow = {"generate_s": to(0.0), "score_s": to(0.25), "train_s": to(0.0), "generator_busy_s": to(0.01)}
    found = edited(lambda row: {k: f(row) for k, f in slow.items()}, lambda _: {"evaluate_s": 500.0})["utilisation"]
    causes = {
        "in no phase": ["slots"],
        "go into scoring": ["reward_workers", "reward"],
        "the generator works": ["off_policy_steps", "micro_batch_tokens"],
        "evaluating takes": ["eval_every", "eval_generations"],
    }
    sentences = found.message.split("; ")
    assert len(sentences) == len(causes)
    for sentence, (cause, fields) in zip(sentences, causes.items(), strict=True):
        assert cause in sentence and all(field in sentence for field in fields)
        others = {name for names in causes.values() for name in names} - set(fields)
        assert not any(re.search(rf"\b{name}\b", sentence) for name in others)
    assert (
        found.field
        == "slots, reward_workers, reward, off_policy_steps, micro_batch_tokens, eval_every, eval_generations"
    )


def test_what_no_table_holds_is_said_once_and_counted(tmp_path):
    for name in ("a", "b"):
        rows = [f"{c},{an.R(c, 0.1, 0.7, 1.5, 3.0)}" for c in np.arange(0.0, 15.0)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["gpu_hours,accuracy", *rows]))
    text = repr(an.check(an.read(tmp_path)))
    assert text.count("not looked at") == 1 and text.startswith("every run")
    assert "a   ok, 1 of 15 checks made" in text and "field to change" in text
