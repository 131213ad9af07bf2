"""The report answers first: which recipe, where each ends, go or stop; it keeps to the fits, and no part ends it."""

from __future__ import annotations

from dataclasses import replace
from html import unescape
from re import findall, sub

import numpy as np
import pytest
from matplotlib.figure import Figure

import analysis as an
from analysis.plots.looks import looks_of, one_map
from analysis.plots.plan_plots import plot_plan
from analysis.reports.headlines import best_sentence, go_sentence
from scalerl.cli import main

HOURS = np.linspace(0.0, 20.0, 24)


def table(name, A, luck=0, *, columns=("gpu_hours",), until=20.0, **said):
    rng = np.random.default_rng(luck)
    C = HOURS[until >= HOURS]
    rate = np.asarray(an.R(C, 0.1, A, 1.6, 3.0)) + rng.normal(0.0, 0.004, len(C))
    return an.read_frame({**{c: C * (i + 1) for i, c in enumerate(columns)}, "accuracy": rate}, name, **said)


def text_of(file):
    return unescape(sub(r"<[^>]+>", " ", sub(r"<(svg|style).*?</\1>", "", file.read_text(), flags=16)))


@pytest.fixture(scope="module")
def four():
    runs = [
        table(f"{r}_s{s}", A, 2 * s + (r == "a"), recipe=r, seed=s)
        for r, A in (("a", 0.7), ("b", 0.55))
        for s in (0, 1)
    ]
    return an.fit(runs)


@pytest.fixture(scope="module")
def told(four, tmp_path_factory):
    file = tmp_path_factory.mktemp("told") / "r.html"
    an.write_report(four, file, until=50.0, at=["3x"])
    return file.read_text(), text_of(file)


def test_three_sentences_come_first(told, four):
    html, text = told
    said = [sub(r"<[^>]+>", "", line) for line in html.split("<svg")[0].split('<p class="said">')[1:]]
    best, ends, go = map(unescape, said)
    assert best.startswith("Best recipe: a, pass rate .") and "then b" in best and "P(best there) >.99" in best
    assert ends.startswith("Where each ends: at 50 gpu_hours, 2.5x the compute, a 0.6")
    assert all(fit.name in go for fit in four) and "Next budget: a" in go and "until 50 gpu_hours" in go
    candidate = an.plan(four, until=50.0).candidates[0]
    assert f"a {candidate.pass_rate:.3f} ({candidate.lo:.3f} to {candidate.hi:.3f})" in ends
    assert "3x" in text and "next budget" in text.lower() and "P(best)" in text


def test_parts_that_tell_more_are_folded_behind_what_they_come_to(told):
    html, text = told
    assert "No common ceiling, so no straight-line plot" in text and "--ceiling" not in text
    for summary in ("every forecast", "every budget", "scores", "errors by method, and A by cut-off"):
        assert f"<summary>{summary}</summary>" in html
    assert "earlier cut-offs missed by" in text.split("errors by method")[0]
    assert "no run logs" not in text  # axes that nobody logs are nobody's doubt


def test_a_ceiling_that_is_not_known_ranks_nothing():
    early = an.fit([table("a", 0.7, 1, until=4.0), table("b", 0.6, 2, until=4.0)])
    said = best_sentence(an.compare(early, at=["1x"], seed_sd=0.02))
    assert "Ceilings are not compared" in said and "Highest ceiling" not in said
    assert "Best recipe: a, pass rate" in said


def test_every_run_is_named_or_counted():
    plans = an.plan(an.fit([table(f"r{i}", 0.6, i) for i in range(6)]), futures=2, budgets=[2])
    said = go_sentence(plans)
    assert all(one.run in said for one in plans) or "more" in said


def test_the_window_of_the_fits_is_kept(tmp_path):
    fit = an.fit(table("a", 0.7, 1), window=(None, 10.0))
    an.write_report(fit, tmp_path / "r.html")
    text = text_of(tmp_path / "r.html")
    origins = [float(at) for at in findall(r"A of a at (\S+) gpu_hours", text)]
    assert origins and max(origins) <= 10.0 and "at 20 gpu_hours" not in text.split("Where each ends")[0]
    mixed = [fit, an.fit(table("b", 0.6, 2))]
    an.write_report(mixed, tmp_path / "two.html")
    assert "different windows" in text_of(tmp_path / "two.html")


def test_fits_on_two_axes_are_told_one_after_the_other(tmp_path):
    run = table("a", 0.7, 1, columns=("gpu_hours", "cpu_s"))
    other = replace(run, name="b")
    an.write_report([an.fit(run), an.fit(other, x="cpu_s")], tmp_path / "r.html")
    text = text_of(tmp_path / "r.html")
    assert "Over gpu_hours" in text and "Over CPU-seconds" in text and text.count("Where each ends") == 2


def test_a_part_that_a_verb_refuses_is_its_sentence(tmp_path, four):
    an.write_report(four[0], tmp_path / "r.html", until=5.0)
    assert "until: 5 is not a compute past 20" in text_of(tmp_path / "r.html")
    for options, says in (({"until": -1.0}, "until"), ({"at": ["soon"]}, "at:"), ({"seed_sd": 2.0}, "seed_sd")):
        with pytest.raises(an.UserError, match=says):
            an.write_report(four[0], tmp_path / "no.html", **options)
    assert not (tmp_path / "no.html").exists()


def test_the_command_takes_what_the_verbs_take(tmp_path, capsys):
    for name, A in (("a", 0.7), ("b", 0.55)):
        rows = [f"{c},{r}" for c, r in zip(HOURS, table(name, A).data["pass_rate"], strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["gpu_hours,accuracy", *rows]))
    asked = ["--until", "3x", "--seed-sd", "0.02", "--at", "1.5x", "--recipe", "new=a", "-o", str(tmp_path / "r.html")]
    assert main(["report", str(tmp_path), *asked]) == 0
    text = text_of(tmp_path / "r.html")
    assert "at 60 gpu_hours" in text and "Best recipe: new" in text and "P(best there)" in text


def test_runs_look_the_same_in_every_figure_of_a_page(four):
    with one_map(four):
        every = {fit.name: look for fit, look in zip(four, looks_of(four), strict=True)}
        for some in (four[1:], [four[3]], [four[2], four[0]]):
            for fit, look in zip(some, looks_of(some), strict=True):
                assert look.style["color"] == every[fit.name].style["color"] and look.marker == every[fit.name].marker
        plans = an.plan([four[3]], budgets=[2], futures=2)
        (line, _) = plot_plan(plans, Figure().add_subplot()).lines
        assert line.get_color() == every[four[3].name].style["color"]
    colours = [look.style["color"] for look in looks_of(four)]
    assert colours[0] == colours[1] != colours[2] == colours[3]  # seeds of a recipe share its colour
    assert len({look.marker for look in looks_of(four)}) == 4


def test_a_back_test_begins_with_what_it_comes_to(capsys):
    file = "data/paper/scalerl_8b_bs2048_100k.csv"
    assert main(["backtest", file, "--horizon", "2x"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("forecasts 2x ahead from 16 earlier cut-offs missed by .016")
    assert len(lines) < 12
    assert main(["backtest", file, "--horizon", "2x", "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > len(lines)
