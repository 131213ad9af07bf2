"""`scalerl evaluate`: the counts of the run itself, files that fit or are refused by name, rows that stay apart."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from math import comb
from pathlib import Path

import pytest
import torch

import analysis as an
from analysis.readers.datasets import data_sets
from scalerl.cli import main
from scalerl.data import prepare
from scalerl.runlog import DOWNSTREAM_FIELDS, EVAL_FIELDS, TIME_FIELDS, append_downstream, lock, read_log
from scalerl.start import resume, train
from scalerl.tasks.chain import Chain


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of four updates from the shipped checkpoint, with a checkpoint at 2 and 4, and its data."""
    from scalerl.config import load_config

    folder = tmp_path_factory.mktemp("made")
    prepare("chain", str(folder / "data"), sizes=(64, 12, 10))
    settings = ["batch_size=32", "generations_per_prompt=4", "max_steps=4", "eval_every=2", "checkpoint_every=2"]
    config = load_config(["scalerl", "demo"], settings)
    train(config, str(folder / "data/train.json"), str(folder / "data/eval.json"), str(folder / "run"))
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run that a test may change."""
    import shutil

    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


def evaluate(folder, model, *more, data="eval"):
    argv = ["evaluate", "--model-path", str(model), "--eval-data", str(folder / f"data/{data}.json"), *map(str, more)]
    return main(argv)


def results(path):
    return json.loads(path.read_text())


def own(run, kind="eval"):
    return [row for row in read_log(run / "log.jsonl").rows if row["kind"] == kind]


def test_a_policy_of_the_run_gives_the_counts_that_the_run_logged(made, run, tmp_path):
    """Checkpoint and model, loaded by other code, sampled with the same noise: the same completions."""
    logged = {row["step"]: row for row in own(run)}
    for step, model in ((2, run / "checkpoints/step-00000002"), (4, run / "model")):
        assert evaluate(made, model, "--run", run, "--output-file", tmp_path / f"{step}.json") == 0
        table = results(tmp_path / f"{step}.json")["data"][0]
        assert table["correct"] == logged[step]["correct"]
        assert table["sha256"] == logged[step]["prompt_set"]
        row = own(run, "downstream")[-1]
        same = set(EVAL_FIELDS) - TIME_FIELDS - {"attempt"}
        assert {name: row[name] for name in same} == {name: logged[step][name] for name in same}
        assert set(row) >= set(DOWNSTREAM_FIELDS) | set(EVAL_FIELDS) - {"attempt"}
        axes = next(r for r in reversed(read_log(run / "log.jsonl").rows) if r.get("step") == step and "attempt" in r)
        assert {a: row[a] for a in ("gpu_hours", "tokens_trained", "flops", "step")} == {
            a: axes[a] for a in ("gpu_hours", "tokens_trained", "flops", "step")
        }


def test_the_counts_are_those_of_the_log_without_a_row_for_it_too(made, run, tmp_path):
    import shutil

    logged = {row["step"]: row["correct"] for row in own(run)}
    away = Path(shutil.copytree(run / "model", tmp_path / "away"))  # it carries its configuration and its update
    for step, model in ((2, run / "checkpoints/step-00000002"), (4, run / "model"), (4, away)):
        assert evaluate(made, model, "--force", "--output-file", tmp_path / "r.json") == 0
        found = results(tmp_path / "r.json")
        assert (found["sampling_step"], found["data"][0]["correct"], found["run"]) == (step, logged[step], None)
    assert own(run, "downstream") == []


def test_the_scores_are_made_of_the_counts(made, run, tmp_path, capsys):
    out = tmp_path / "r.json"
    more = ["--k", 8, "--seed", 3, "--temperature", 0.9, "--eval-data", made / "data/test.json", "--output-file", out]
    assert evaluate(made, run / "model", *more) == 0
    told, found = capsys.readouterr().out, results(out)
    assert (found["k"], found["sampling_seed"], found["temperature"]) == (8, 3, 0.9)
    assert [data["name"] for data in found["data"]] == ["eval", "test"]
    assert found["run"] is None
    assert own(run, "downstream") == []
    for data in found["data"]:
        counts = data["correct"]
        assert len(counts) == data["n_prompts"]
        assert data["mean_at_k"]["value"] == pytest.approx(sum(counts) / (8 * len(counts)))
        for k in (1, 2, 4, 8):
            exact = sum(1 - Fraction(comb(8 - c, k), comb(8, k)) for c in counts) / len(counts)
            assert data["pass_at_k"][str(k)]["value"] == pytest.approx(float(exact))
        assert data["majority_at_k"]["value"] == pytest.approx(sum(data["majority"]) / len(counts))
        assert 0 < data["length_mean"] <= 50
        assert data["majority_missing"] is None
    assert "pass@4" in told and "majority@8" in told


def test_slots_change_nothing_and_the_seed_does(made, run, tmp_path):
    def counts(*more):
        assert evaluate(made, run / "model", *more, "--force", "--output-file", tmp_path / "r.json") == 0
        return results(tmp_path / "r.json")["data"][0]["correct"]

    first = counts("--k", 4)
    assert counts("--k", 4, "--batch", 7) == first
    assert counts("--k", 4, "--seed", 1) != first


def test_a_reward_that_is_not_there_is_told_before_anything_is_sampled_and_one_pool_serves_all(
    made, run, tmp_path, monkeypatch, capsys
):
    import scalerl.evaluate
    from scalerl.rewards.pool import Pool

    real, began = scalerl.evaluate.sample, []
    monkeypatch.setattr(scalerl.evaluate, "sample", lambda *given, **fields: began.append(1) or real(*given, **fields))
    more = ["--k", 1, "--set", "length_control=none", "--eval-data", made / "data/test.json"]
    more += ["--output-file", tmp_path / "r.json"]
    assert evaluate(made, run / "model", "--set", "reward=no_such_module:score", *more) == 2
    assert "there is no module no_such_module" in capsys.readouterr().err and not began
    pools, start, close = [], Pool.__init__, Pool.close
    monkeypatch.setattr(
        Pool, "__init__", lambda pool, *given, **fields: pools.append(1) or start(pool, *given, **fields)
    )
    monkeypatch.setattr(Pool, "close", lambda pool: pools.append(-1) or close(pool))
    assert evaluate(made, run / "model", "--set", "reward=math", *more) == 0
    assert (pools, len(began)) == ([1, -1], 2)


def test_a_task_that_cannot_tell_its_answer_has_no_majority_and_says_why(made, run, tmp_path, monkeypatch, capsys):
    monkeypatch.delattr("scalerl.tasks.worked.WorkedTask.answer")
    monkeypatch.setattr(Chain, "score", lambda _, item, text: text.endswith("#" + item["answer"]))
    assert evaluate(made, run / "model", "--k", 2, "--output-file", tmp_path / "r.json") == 0
    data = results(tmp_path / "r.json")["data"][0]
    assert data["majority_at_k"] is None
    assert "chain cannot tell the answer" in data["majority_missing"]
    assert "no majority@2" in capsys.readouterr().out


def test_a_model_alone_is_sampled_as_long_as_it_takes(made, chain_model, tmp_path):
    """No run, no configuration: lengths from the model and the prompts."""
    assert evaluate(made, chain_model, "--k", 1, "--set", "task=chain", "--output-file", tmp_path / "r.json") == 0
    found = results(tmp_path / "r.json")
    assert found["config"]["max_length"] == 72
    assert found["max_new_tokens"] == 72 - found["config"]["prompt_tokens"]
    assert found["config"]["length_control"] == "none"


def test_what_scores_is_said_first_and_never_taken_for_granted(made, run, chain_model, tmp_path, capsys):
    out = ["--k", 1, "--force", "--output-file", tmp_path / "r.json"]
    assert evaluate(made, chain_model, *out) == 2
    said = capsys.readouterr().err
    assert "lies in no run, so nothing says what scores" in said and "--config" in said and said.count("\n") == 1
    for model, more, scored in (
        (chain_model, ["--set", "reward=exact"], "reward exact; plain prompts"),
        (chain_model, ["--config", "demo"], "task chain (no reward set); plain prompts"),
        (run / "model", [], "task chain (no reward set); plain prompts of 22 tokens at most, completions of 36 + 14 "),
    ):
        assert evaluate(made, model, *more, *out) == 0
        assert capsys.readouterr().out.splitlines()[0].startswith(f"scored by: {scored}")


def test_all_checkpoints_are_evaluated_in_one_call_and_each_as_the_run_did(made, run, tmp_path, capsys):
    logged = {row["step"]: row["correct"] for row in own(run)}
    (run / "checkpoints/step-00000009.part").mkdir()
    out = tmp_path / "all.json"
    assert evaluate(made, run / "checkpoints/*", "--run", run, "--output-file", out) == 0
    told = capsys.readouterr().out
    assert results(out)["schema"] == "evaluations/1" and told.count("scored by") == 1
    assert [e["data"][0]["correct"] for e in results(out)["evaluations"]] == [logged[2], logged[4]]
    assert [(row["step"], row["correct"]) for row in own(run, "downstream")] == [(2, logged[2]), (4, logged[4])]
    assert "and 2 rows in" in told and f"{run}/checkpoints/step-00000002:" in told
    page = (Path(__file__).parent.parent / "docs" / "json.md").read_text().split("## evaluation/1 and evaluations/1")[1]
    one = results(out)["evaluations"][0]
    keys = {*one, *one["model"], *one["data"][0], *one["data"][0]["samples"][0], *one["data"][0]["mean_at_k"]}
    assert [key for key in keys if not re.search(rf"\b{key}\b", page)] == []
    for model, more, message in (
        ("checkpoints/*", ["--step", 2], "is the update of one model, and 2 are named"),
        ("checkpoints/none-*", [], "nothing matches"),
    ):
        assert evaluate(made, run / model, *more, "--run", run, "--force", "--output-file", out) == 2
        assert message in capsys.readouterr().err
    assert main(["fit", str(run), "--by", "data_set"]) in (0, 1)
    assert "2 distinct computes for 4 free parameters; evaluate more checkpoints with --run" in capsys.readouterr().out


def test_rows_of_several_models_are_added_together_or_not_at_all(made, run, tmp_path, chain_model, capsys):
    """The second model is of no known step of the run; the first one's rows must not stand alone and come again."""
    log, out = (run / "log.jsonl").read_bytes(), tmp_path / "r.json"
    argv = ["evaluate", "--model-path", str(run / "model"), str(chain_model), "--run", str(run), "--k", "1"]
    assert main([*argv, "--eval-data", str(made / "data/eval.json"), "--output-file", str(out)]) == 2
    told = capsys.readouterr()
    assert "mean@1" in told.out and told.err.count("\n") == 1
    assert (run / "log.jsonl").read_bytes() == log and not out.exists()


def test_a_run_that_is_taken_meanwhile_gets_no_row_and_the_scores_are_kept(made, run, tmp_path, capsys, monkeypatch):
    import scalerl.results

    real, log = scalerl.results.evaluate_saved, (run / "log.jsonl").read_bytes()
    with (run / "log.jsonl").open("rb") as held:
        monkeypatch.setattr(
            scalerl.results, "evaluate_saved", lambda *a, **b: (real(*a, **b), lock(held.fileno(), run))[0]
        )
        out = ["--run", run, "--k", 1, "--output-file", tmp_path / "r.json"]
        assert evaluate(made, run / "model", *out) == 2
    assert f"no row was added, and the scores stand in {tmp_path / 'r.json'}" in capsys.readouterr().err
    assert (run / "log.jsonl").read_bytes() == log
    assert results(tmp_path / "r.json")["data"][0]["n_prompts"] == 12


def test_a_broken_reward_is_told_from_a_policy_that_knows_nothing(made, run, tmp_path, capsys):
    (tmp_path / "own.py").write_text("def broken(item, text):\n    raise ValueError('no\\nsuch\\tkey')\n")
    more = ["--set", "reward=own:broken", "--set", f"reward_path={tmp_path}", "--set", "reward_workers=1", "--k", 2]
    more += ["--set", "length_control=none"]
    assert evaluate(made, run / "model", *more, "--output-file", tmp_path / "r.json") == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "failed" in line]
    said = "24 of 24 scores failed and count as wrong, the first: ValueError: no such key"
    assert len(told) == 1 and told[0].endswith(said)
    (data,) = results(tmp_path / "r.json")["data"]
    assert (data["reward_errors"], data["reward_error"]) == (24, "ValueError: no such key")
    assert data["mean_at_k"]["value"] == 0 and data["samples"][0]["error"] == "ValueError: no\nsuch\tkey"
    assert evaluate(made, run / "model", "--k", 1, "--force", "--output-file", tmp_path / "r.json") == 0
    assert "failed" not in capsys.readouterr().out
    assert results(tmp_path / "r.json")["data"][0]["reward_error"] is None


def test_prompts_that_the_run_trained_on_are_told(made, run, tmp_path, capsys):
    out = ["--k", 1, "--run", run, "--force", "--output-file", tmp_path / "r.json"]
    assert evaluate(made, run / "model", *out) == 0
    assert capsys.readouterr().err == ""
    assert evaluate(made, run / "model", *out, data="train") == 0
    said = capsys.readouterr().err
    assert "64 of 64 prompts are in" in said and "evaluate on prompts that are not trained on" in said
    assert evaluate(made, run / "model", *out[:2], *out[4:], data="train") == 0  # that it lies in a run is enough
    assert capsys.readouterr().err == said
    header = json.loads((run / "run.json").read_text())
    header["data"]["train"]["file"] = str(tmp_path / "gone.json")
    (run / "run.json").write_text(json.dumps(header))
    assert evaluate(made, run / "model", *out) == 0
    assert "whether these prompts are held out is not known" in capsys.readouterr().err


def test_a_file_of_weights_is_put_onto_its_base(made, run, tmp_path, chain_model, capsys):
    from scalerl.policy import load_policy

    state = load_policy(str(run / "model")).model.state_dict()
    torch.save(state, tmp_path / "w.pt")
    config = ["--config", "scalerl", "--config", "demo", "--k", 2]

    def tried(name, *more):
        capsys.readouterr()
        out = tmp_path / "r.json"
        out.unlink(missing_ok=True)
        code = evaluate(made, tmp_path / name, *config, *more, "--output-file", out)
        return (code, results(out) if code == 0 else capsys.readouterr().err)

    base = ["--base", "data/checkpoints/chain"]
    code, found = tried("w.pt", *base)
    assert code == 0
    assert found["model"]["base"] == "data/checkpoints/chain"
    evaluate(made, run / "model", *config, "--output-file", tmp_path / "whole.json")
    assert found["data"][0]["correct"] == results(tmp_path / "whole.json")["data"][0]["correct"]
    torch.save({"model": state, "step": 3}, tmp_path / "wrapped.pth")
    assert tried("wrapped.pth", *base)[1]["data"][0]["correct"] == found["data"][0]["correct"]

    code, said = tried("w.pt")
    assert (code, said.count("\n")) == (2, 1)
    assert "--base DIR" in said
    without = {name: w for name, w in state.items() if name != "model.norm.weight"}
    torch.save({**without, "extra.weight": torch.zeros(2)}, tmp_path / "less.pt")
    code, said = tried("less.pt", *base)
    assert "1 weights are missing: model.norm.weight; 1 weights are unknown: extra.weight" in said
    torch.save({**state, "lm_head.weight": torch.zeros(3, 64)}, tmp_path / "shape.pt")
    assert "lm_head.weight (3, 64) for" in tried("shape.pt", *base)[1]
    (tmp_path / "junk.pt").write_bytes(b"not a file of torch")
    assert tried("junk.pt", *base)[0] == 2


def test_buffers_that_are_part_of_a_model_are_put_there_too():
    from scalerl.runlog import UserError
    from scalerl.saved import put

    model, other = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    other.running_mean.copy_(torch.tensor([3.0, 4.0]))
    put(model, other.state_dict(), "w.pt")
    assert model.running_mean.tolist() == [3.0, 4.0]
    with pytest.raises(UserError, match=r"another shape: running_mean \(3,\) for \(2,\)"):
        put(model, {**other.state_dict(), "running_mean": torch.zeros(3)}, "w.pt")


def test_nothing_in_a_file_of_weights_is_executed(made, tmp_path, capsys):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"model.norm.weight": Payload()}, tmp_path / "evil.pt")
    argv = ["--base", "data/checkpoints/chain", "--output-file", tmp_path / "r.json"]
    assert evaluate(made, tmp_path / "evil.pt", *argv) == 2
    assert "nothing of it was executed" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


def test_refusals_are_one_line_and_write_nothing(made, run, tmp_path, capsys, chain_model):
    out = tmp_path / "r.json"
    out.write_text("mine")
    log = (run / "log.jsonl").read_bytes()
    again = ["--eval-data", made / "data/eval.json", "--output-file", tmp_path / "n.json"]
    for argv, message in (
        ([run / "model", "--output-file", out], "exists already"),
        ([run / "model", *again], "a file is given twice"),
        ([run / "model", "--k", 0, "--output-file", tmp_path / "n.json"], "eval_generations"),
        ([tmp_path / "none", "--output-file", tmp_path / "n.json"], "there is no directory"),
        ([run / "model", "--base", chain_model, "--output-file", tmp_path / "n.json"], "--base: is read with"),
        ([chain_model, "--run", run, "--output-file", tmp_path / "n.json"], "give --step N"),
        ([run / "model", "--run", run, "--step", 2, "--output-file", tmp_path / "n.json"], "is from step 4"),
        ([chain_model, "--run", run, "--step", 77, "--output-file", tmp_path / "n.json"], "no row of step 77"),
    ):
        assert evaluate(made, *argv) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1, said
    assert out.read_text() == "mine"
    assert not (tmp_path / "n.json").exists()
    assert (run / "log.jsonl").read_bytes() == log


def test_a_run_that_is_being_written_is_left_alone(made, run, tmp_path, capsys):
    log = (run / "log.jsonl").read_bytes()
    with (run / "log.jsonl").open("rb") as held:
        lock(held.fileno(), run)
        assert evaluate(made, run / "model", "--run", run, "--output-file", tmp_path / "r.json") == 2
        assert "another process works on this run" in capsys.readouterr().err
    assert (run / "log.jsonl").read_bytes() == log
    (run / "log.jsonl").write_bytes(log + b'{"kind": "st')
    assert evaluate(made, run / "model", "--run", run, "--output-file", tmp_path / "r.json") == 2
    assert "its last line is cut" in capsys.readouterr().err
    assert (run / "log.jsonl").read_bytes() == log + b'{"kind": "st'


def test_scores_of_other_data_sets_leave_the_curve_of_the_run_as_it_was(made, run, tmp_path):
    """Every reader sees the run that was there before."""
    before = an.read(run)[0]
    health = an.check(before)[0]
    csv = tmp_path / "log.csv"
    for number, model in enumerate((run / "model", run / "checkpoints/step-00000002", "data/checkpoints/chain")):
        more = ["--k", 6, "--run", run, "--output-file", tmp_path / f"{number}.json"]
        assert evaluate(made, model, *more, data="test") == 0
    after = an.read(run)[0]
    assert after.frame.equals(before.frame)
    assert after.events == before.events
    assert (after.findings, after.end_time) == (before.findings, before.end_time)
    assert repr(an.check(after)[0]) == repr(health)
    from scalerl.evalcsv import write_csv

    write_csv(run, csv)
    assert len(csv.read_text().splitlines()) == 1 + len(before)
    groups = data_sets(after)
    assert [group.name for group in groups] == ["own evaluations", "test"]
    assert groups[0].frame.equals(before.frame)
    test = groups[1].frame
    assert test["step"].tolist() == [0, 2, 4]
    assert test["gpu_hours"].tolist() == before.frame["gpu_hours"].tolist()
    assert [len(correct) for correct in test["correct"]] == [10, 10, 10]


def test_a_resume_keeps_the_scores_of_policies_from_before_it(made, run, tmp_path):
    for number, model in enumerate((run / "checkpoints/step-00000002", run / "model")):
        more = ["--k", 1, "--run", run, "--output-file", tmp_path / f"{number}.json"]
        assert evaluate(made, model, *more) == 0
    import shutil

    shutil.rmtree(run / "checkpoints/step-00000004")  # so that it goes on from 2, and what stood behind is lost
    said = own(run, "downstream")
    resume(str(run), ["max_steps=6"], say=lambda _: None)
    assert own(run, "downstream") == [row for row in said if row["step"] == 2]
    lost = [json.loads(line) for line in (run / "lost/attempt-1.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lost if row["kind"] == "downstream"] == [2, 4]
    assert [row["step"] for row in own(run)] == [0, 2, 4, 6]


def test_a_finished_run_is_still_finished(made, run, tmp_path, capsys):
    evaluate(made, run / "model", "--k", 1, "--run", run, "--output-file", tmp_path / "r.json")
    capsys.readouterr()
    assert main(["train", "--resume", "--output-dir", str(run)]) == 2
    assert "is finished, max_steps 4 reached" in capsys.readouterr().err


def test_a_log_without_a_last_newline_gets_one(run):
    path = run / "log.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    count = len(read_log(path).rows)
    append_downstream(run, [{"data_set": "x", "step": 1, "gpu_hours": 0.0, "pass_rate": 0.5}])
    assert len(read_log(path).rows) == count + 1


def test_curves_of_data_sets_are_fitted_and_compared(run, capsys):
    """Made scores: one curve a data set through `fit --by data_set`, none of it in the run's own fit."""
    from analysis.curves.curve import R

    row = {"step": 0, "attempt": 1, "k": 1, "n_prompts": 1}
    rows, scores = [], []
    for i in range(16):
        hours = i / 3
        rows.append({"kind": "eval", **row, "step": i, "gpu_hours": hours, "pass_rate": R(hours, 0.1, 0.7, 1.5, 1.0)})
        for name, A in (("math", 0.6), ("code", 0.4)):
            rate = R(hours, 0.05, A, 1.5, 1.2) + 0.004 * (-1) ** i
            scores.append({"data_set": name, **row, "step": i, "gpu_hours": hours, "pass_rate": rate})
    (run / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    alone = an.fit(an.read(run))[0].params["A"].value
    append_downstream(run, scores[::-1])
    assert an.fit(an.read(run))[0].params["A"].value == alone
    told = an.fit(an.read(run), by="data_set")
    assert {f.name: round(f.params["A"].value, 1) for f in told.fits} == {
        "own evaluations": 0.7, "code": 0.4, "math": 0.6,
    }  # fmt: skip
    assert main(["fit", str(run), "--by", "data_set"]) in (0, 1)
    assert "3 groups by data_set" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: w.int(), "strided int32"),
        (lambda w: w.to(torch.complex64), "strided complex64"),
        (lambda w: w.to_sparse(), "sparse_coo float32"),
        (lambda w: w.to("meta"), "strided float32 without values"),
    ],
)
def test_weights_that_are_no_plain_real_tensors_are_refused_by_name(chain_model, change, told):
    from scalerl.policy import load_policy
    from scalerl.runlog import UserError
    from scalerl.saved import put

    model = load_policy(str(chain_model)).model
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = {**model.state_dict(), name: change(model.state_dict()[name])}
    with pytest.raises(UserError, match=rf"f.pt: 1 weights are no plain tensors .*{name} \({told}\)"):
        put(model, tensors, "f.pt")


def test_the_header_of_a_run_is_not_written_over_even_by_force(tmp_path, chain_model, prompts, capsys):
    for name in ("run.json", "log.jsonl"):
        (tmp_path / name).write_text("{}\n")
    argv = ["evaluate", "--model-path", str(chain_model), "--eval-data", str(prompts / "eval.json"), "--k", "1"]
    assert main([*argv, "--output-file", str(tmp_path / "run.json"), "--force"]) == 2
    assert "run.json belongs to the run in" in capsys.readouterr().err
    assert (tmp_path / "run.json").read_text() == "{}\n"
