"""The report stands alone, hides nothing, and runs nothing that a log holds."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest

import analysis as an
from analysis.curves.curve import R
from scalerl.runlog import RunLog, UserError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = '<script>alert("x")</script><img src=http://evil.example/a.png>'


class Page(HTMLParser):
    """Tags, attributes and text of a page, and whether its tags close."""

    VOID = frozenset({"meta", "br", "img", "hr", "link", "input"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def write_run(folder, *, recipe="scalerl", seed=0, A=0.7, n=15, **header):
    rng = np.random.default_rng(seed)
    with RunLog(folder, recipe=recipe, seed=seed, device_kind="cpu", devices=2, header=header) as log:
        for i, c in enumerate(np.linspace(0.0, 8.0, n)):
            correct = rng.binomial(8, R(c, 0.1, A, 1.8, 2.0), size=100)
            log.evaluate(step=i, correct=correct, k=8, gpu_hours=float(c), cpu_s=float(c * 3000), prompt_set="p")
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("page")
    write_run(tmp_path / "a", command=["scalerl", "train", "--set", "x=<1>"], versions={"torch": "2.13.0"})
    write_run(tmp_path / "b", recipe=HOSTILE, A=0.5, command=HOSTILE, versions=HOSTILE)
    fits = an.fit(an.read([tmp_path / "a", tmp_path / "b"]))
    comparison = an.write_report(fits, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    return fits, comparison, html, Page(html)


def test_nothing_is_fetched_and_nothing_runs(page):
    _, _, html, parsed = page
    assert not {"script", "link", "iframe", "object", "embed", "img"} & set(parsed.tags)
    for name, value in parsed.attributes:
        assert not name.startswith("on")
        if name in {"src", "href", "xlink:href"}:
            assert value.startswith("#")
        assert name == "aria-label" or "http" not in (value or "")  # a label is text
    assert "@import" not in html
    assert "http" not in html.replace("http://evil.example", "")


def test_hostile_names_are_shown_as_text(page):
    _, _, html, parsed = page
    assert "<script" not in html and "&lt;script&gt;" in html
    assert HOSTILE in parsed.text


def test_every_part_that_applies_is_there(page):
    parsed = page[3]
    for title in ("Fits", "Ahead", "Recipes", "At equal compute", "How firm the ceilings are", "Back-test"):
        assert title in parsed.text
    for title in ("More compute", "Health", "How each run was made", "checklist of the fit"):
        assert title in parsed.text
    ids = [value for name, value in parsed.attributes if name == "id"]
    svg = page[2]
    for number in range(1, svg.count("<svg") + 1):  # a figure refers to nothing outside itself
        assert f'id="f{number}-' in svg
    referred = [v[1:] for n, v in parsed.attributes if n == "xlink:href"]
    assert set(referred) <= set(ids)


def test_runs_that_say_nothing_still_make_a_report(tmp_path):
    flat = [f"{c},0.5" for c in range(12)]
    few = ["0,0.1", "1,0.2", "2,0.25"]
    decays = [f"{c},{0.1 + 0.06 * c if c < 9 else 0.6 - 0.05 * (c - 9):.3f}" for c in range(18)]
    for name, rows in (("flat", flat), ("few", few), ("decays", decays)):
        (tmp_path / f"{name}.csv").write_text("\n".join(["gpu_hours,accuracy", *rows]))
    an.write_report(an.fit(an.read(tmp_path / "*.csv")), tmp_path / "all.html")
    parsed = Page((tmp_path / "all.html").read_text())
    assert parsed.open == []
    assert "nothing is claimed past the data" in parsed.text
    for name in ("flat", "few", "decays"):
        an.write_report(an.fit(an.read(tmp_path / f"{name}.csv")), tmp_path / f"{name}.html")


@pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_opens_it_without_a_complaint(tmp_path, scheme):
    write_run(tmp_path / "a")
    an.write_report(an.fit(an.read(tmp_path / "a")), tmp_path / "r.html")
    picture = tmp_path / "r.png"
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [*dark, "--window-size=1200,4000", f"--screenshot={picture}", (tmp_path / "r.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    shown = plt.imread(picture)
    assert shown.shape[1] == 1200
    paper = shown[:5, :5, :3].mean()
    assert paper > 0.9 if scheme == "light" else paper < 0.3


def test_every_tag_closes(page):
    assert page[3].open == []


def test_every_fitted_figure_and_finding_is_in_it(page):
    from analysis.fits.tables import figures

    fits, comparison, _, parsed = page
    for fit in fits:
        for p in fit.params.values():
            assert all(text in parsed.text for text in figures(p))
        assert all(f.message.split(" (")[0] in parsed.text for f in fit.findings)
    for standing in comparison.runs:
        assert all(f"{rate:.3f}" in parsed.text for rate in standing.pass_rate.values())
    assert "one seed a recipe: differences between recipes are not tested" in parsed.text


def test_what_is_true_of_every_run_is_said_once(page, tmp_path):
    fits, _, _html, parsed = page
    assert parsed.text.count("limits hold for these evaluation prompts") == 1
    assert parsed.text.index("Every run:") < parsed.text.index("limits hold for these")
    for fit in fits:
        sd = next(f.message for f in fit.findings if f.code == "prompts-fixed").split(" (")[1].strip(")")
        assert sd in parsed.text
    write_run(tmp_path / "c", recipe="short", n=6)
    an.write_report(an.fit([fits[0].run, an.read(tmp_path / "c")[0]]), tmp_path / "r.html")
    text = Page((tmp_path / "r.html").read_text()).text
    assert text.index("pointsxmethod") < text.index("only 6 points")  # what one run has stands in its row


def test_an_interval_does_not_break(page):
    assert '<small class="limits">' in page[2] and ".limits { white-space: nowrap; }" in page[2]


def test_it_says_how_each_run_was_made(page):
    fits, _, _, parsed = page
    run = fits[0].run
    sha256 = hashlib.sha256(run.source.read_bytes()).hexdigest()
    for told in (
        str(run.source),
        sha256,
        run.start_time,
        run.end_time,
        "2 x cpu",
        "scalerl train --set x=<1>",
        "torch 2.13.0",
    ):
        assert told in parsed.text


def test_the_figure_takes_the_colours_of_the_page(page):
    html = page[2]
    svg = html[html.index("<svg") : html.index("</svg>")]
    assert "currentColor" in svg and "#000000" not in svg and "#ffffff" not in svg
    assert "prefers-color-scheme: dark" in html and "@media print" in html


def test_the_same_runs_give_the_same_report(tmp_path):
    write_run(tmp_path / "a", n=9)
    fits = an.fit(an.read(tmp_path / "a"))
    for name in ("one", "two"):
        an.write_report(fits, tmp_path / f"{name}.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_an_existing_file_is_kept_unless_forced(tmp_path):
    write_run(tmp_path / "a", n=6)
    fits = an.fit(an.read(tmp_path / "a"))
    target = tmp_path / "report.html"
    target.write_text("mine")
    with pytest.raises(UserError, match="--force"):
        an.write_report(fits, target)
    assert target.read_text() == "mine"
    assert an.write_report(fits, target, force=True) is None
    assert target.read_text().startswith("<!doctype html>")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "report.html"]


def test_a_run_that_ended_badly_and_one_without_a_header_are_shown_as_they_are(tmp_path):
    folder = write_run(tmp_path / "a", n=6)
    rows = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text("".join(rows[:-1]))
    (tmp_path / "t.csv").write_text("gpu_hours,accuracy\n" + "".join(f"{i},{0.1 * i}\n" for i in range(6)))
    an.write_report(an.fit(an.read([folder, tmp_path / "t.csv"])), tmp_path / "r.html")
    text = Page((tmp_path / "r.html").read_text()).text
    assert "no end in the log" in text and str(tmp_path / "t.csv") in text


def test_runs_that_cannot_be_fitted_are_reported_without_numbers(tmp_path):
    write_run(tmp_path / "a", n=2)
    an.write_report(an.fit(an.read(tmp_path / "a")), tmp_path / "r.html")
    text = Page((tmp_path / "r.html").read_text()).text
    assert "unknown" in text and "nothing fitted" in text and "nan" not in text.lower().split()
