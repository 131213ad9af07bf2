"""Fits as JSON and back: everything that a fit holds, its run, draws and their self-check included.

Promises: `from_json(to_json(fit))` holds the same numbers to the last bit (floats are written by their shortest exact
form, infinity as the text "inf", a missing entry of a run's column as null) in columns of the same kind, as far as
`saved_nodes.KINDS` go; what is read is checked field by field, and damage is one line that says where; nothing that is
read is executed. Does not promise to read files of a later version, nor to keep what JSON has no word for: lists in a
report come back as tuples, tuples in a column as lists, columns of text as columns of objects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from analysis.findings import SEVERITIES, Finding
from analysis.fits.results import PARAMETERS, Fit, Fits, Param
from analysis.fits.saved_nodes import KINDS, Node
from analysis.posteriors.draws import DRAWN, Draws
from analysis.posteriors.priors import Priors
from analysis.schema import Event, Run
from scalerl.runlog import UserError

FORMAT, VERSION = "scalerl fits", 1


def to_json(result: Fit | Fits) -> str:
    """Return a fit or several as JSON text.

    Raises
    ------
    UserError
        If a report or header holds something that JSON has no form for.
    """
    several = isinstance(result, Fits)
    fits = list(result) if isinstance(result, Fits) else [result]
    whole = {"format": FORMAT, "version": VERSION, "several": several, "fits": [_fit(fit) for fit in fits]}
    try:
        return json.dumps(whole, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{', '.join(fit.name for fit in fits)}: cannot be saved: {error}") from None


def fit_from_json(text: str) -> Fit:
    """Read one fit.

    Raises
    ------
    UserError
        If the text is not a saved fit, or holds several.
    """
    fits, several = _read(text)
    if several or len(fits) != 1:
        raise UserError(f"the text holds {len(fits)} fits together; read it with Fits.from_json")
    return fits[0]


def fits_from_json(text: str) -> Fits:
    """Read several fits; a single one is a sequence of one."""
    return Fits(_read(text)[0])


# ---- writing


def _fit(fit: Fit) -> dict[str, Any]:
    draws = fit.draws
    return {
        "run": _run(fit.run),
        "x": fit.x,
        "y": fit.y,
        "method": fit.method,
        "family": fit.family,
        "level": _number(fit.level),
        "params": {name: _param(p) for name, p in fit.params.items()},
        "A_population": None if fit.A_population is None else _param(fit.A_population),
        "compute": _column(fit.compute, "compute"),
        "pass_rate": _column(fit.pass_rate, "pass_rate"),
        "left_out": _column(fit.left_out, "left_out"),
        "window": [_number(end) for end in fit.window],
        "findings": [_finding(f) for f in fit.findings],
        "reach": _number(fit.reach),
        "grade": _number(fit.grade),
        "tolerance": _number(fit.tolerance),
        "draws": None if draws is None else _draws(draws),
        "noise": {name: _number(value) for name, value in fit.noise.items()},
        "evaluation_sd": None if fit.evaluation_sd is None else _column(fit.evaluation_sd, "evaluation_sd"),
        "report": _plain(fit.report),
        "priors": None if fit.priors is None else _priors(fit.priors),
        "r0": fit.r0 if isinstance(fit.r0, str) else _number(fit.r0),
    }


def _priors(priors: Priors) -> dict[str, Any]:
    given = priors.to_dict()
    return {key: [_number(one) for one in v] if isinstance(v, list) else _number(v) for key, v in given.items()}


def _draws(draws: Draws) -> dict[str, Any]:
    checks = getattr(draws, "checks", None)  # a posterior's, with the white share of each draw
    names = DRAWN if checks is None else (*DRAWN, "white")
    columns = {name: _column(getattr(draws, name), name) for name in names}
    return columns if checks is None else {**columns, "checks": {name: _number(v) for name, v in checks.items()}}


def _run(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "recipe": run.recipe,
        "seed": run.seed,
        "data": {
            name: _column(values, name, missing=name not in {"pass_rate", *run.axes})
            for name, values in run.data.items()
        },
        "axes": list(run.axes),
        "findings": [_finding(f) for f in run.findings],
        "source": str(run.source),
        "sha256": run.sha256,
        "format": run.format,
        "reader": run.reader,
        "header": dict(run.header),
        "start_time": run.start_time,
        "end_time": run.end_time,
        "events": [{"kind": e.kind, "what": e.what, "at": dict(e.at)} for e in run.events],
    }


def _param(p: Param) -> dict[str, Any]:
    numbers = {name: _number(getattr(p, name)) for name in ("value", "lo", "hi", "se", "se_observed")}
    return {**numbers, "identified": bool(p.identified), "fixed": bool(p.fixed), "why": p.why}


def _finding(f: Finding) -> dict[str, Any]:
    return {"code": f.code, "severity": f.severity, "message": f.message, "figure": _number(f.figure)}


def _column(values: Any, name: str, *, missing: bool = False) -> dict[str, Any]:
    """A column; with `missing` NaN may stand in it, as null."""
    array = np.asarray(values)
    kind = str(array.dtype)
    if kind not in KINDS:
        return {"kind": "object", "values": [_cell(v) for v in array.tolist()]}
    cells = array.ravel().tolist()
    if array.dtype.kind == "f":
        cells = [None if missing and math.isnan(v) else _number(v, f"column {name}") for v in cells]
    return {"kind": kind, "shape": list(array.shape), "values": cells}


def _cell(value: Any) -> Any:
    """An entry of a column of objects, in which the text "inf" is a text: floats that are not finite say so."""
    if isinstance(value, Mapping):
        return {str(key): _cell(v) for key, v in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _cell(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_cell(v) for v in value]
    return {"float": str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any, where: str = "") -> float | str | None:
    if value is None:
        return None
    number = float(value)
    if math.isnan(number):
        raise UserError(f"{where}{': ' * bool(where)}a fit that holds NaN cannot be saved: an unknown is None")
    return number if math.isfinite(number) else str(number)


def _plain(value: Any) -> Any:
    """Nested values with infinity as text and arrays as lists; other numbers keep their kind."""
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return _number(value) if isinstance(value, float) else value


# ---- reading


def _read(text: str) -> tuple[list[Fit], bool]:
    try:
        whole = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError, TypeError) as error:
        raise UserError(f"not a saved fit: not JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise UserError(f"not a saved fit: the text does not begin as one (format: {FORMAT!r})")
    root = Node(whole, "file")
    if root["version"].value != VERSION:
        root["version"].fail(f"a version that this program reads ({VERSION})")
    return [_read_fit(node) for node in root["fits"].list()], root["several"].flag()


def _read_fit(node: Node) -> Fit:
    params = {name: _read_param(p) for name, p in node["params"].items()}
    if missing := [name for name in PARAMETERS if name not in params]:
        raise UserError(f"not a saved fit: {node.where}.params has no {', '.join(missing)}")
    compute = node["compute"].array()
    n, window, sd, draws = len(compute), node["window"].list(), node["evaluation_sd"], node["draws"]
    if len(window) != 2:
        node["window"].fail("two ends")
    left_out = node["left_out"].array()
    if left_out.ndim != 2 or left_out.shape[1] != 2:
        node["left_out"].fail("a table of compute and pass rate")
    population = node["A_population"]
    return Fit(
        run=_read_run(node["run"]),
        x=node["x"].text(),
        y=node["y"].text(),
        method=node["method"].text(),
        family=node["family"].text(),
        level=node["level"].optional_number(),
        params=MappingProxyType(params),
        A_population=None if population.value is None else _read_param(population),
        compute=compute,
        pass_rate=node["pass_rate"].array(n),
        left_out=left_out,
        window=(window[0].optional_number(), window[1].optional_number()),
        findings=_read_findings(node["findings"]),
        reach=node["reach"].optional_number(),
        grade=node["grade"].optional_number(),
        tolerance=node["tolerance"].number(),
        draws=None if draws.value is None else _read_draws(draws),
        noise=MappingProxyType({name: value.optional_number() for name, value in node["noise"].items()}),
        evaluation_sd=None if sd.value is None else sd.array(n),
        report=MappingProxyType({key: _thawed(v.value) for key, v in node["report"].items()}),
        priors=_read_priors(node),
        r0=_read_r0(node, params["R0"]),
    )


def _read_priors(node: Node) -> Priors | None:
    """Priors of a fit; a file of before they were kept has None, the usual ones."""
    if node.mapping().get("priors") is None:
        return None
    given: dict[str, Any] = {}
    for key, v in node["priors"].items():
        several = isinstance(v.value, list)
        given[key] = tuple(n.number() for n in v.list()) if several else v.optional_number()
    if unknown := sorted(set(given) - {f.name for f in fields(Priors)}):
        raise UserError(f"not a saved fit: {node.where}.priors: {', '.join(unknown)} is no field of priors")
    return Priors(**given)


def _read_r0(node: Node, R0: Param) -> str | float:
    if "r0" not in node.mapping():
        return R0.value if R0.fixed and R0.value is not None else "free"
    value = node["r0"].value
    return value if isinstance(value, str) and value in {"free", "first"} else node["r0"].number()


def _read_draws(node: Node) -> Draws:
    columns = {name: node[name].array() for name in DRAWN}
    if "checks" not in node.mapping():
        return Draws(**columns)
    from analysis.posteriors.quadrature import Posterior  # scipy is not needed to read what has no posterior

    white = node["white"].array(len(columns["weight"]))
    return Posterior(**columns, white=white, checks={name: v.number() for name, v in node["checks"].items()})


def _read_run(node: Node) -> Run:
    seed = node["seed"]
    axes = tuple(axis.text() for axis in node["axes"].list())
    known = {"pass_rate", *axes}
    data = {name: column.array(missing=name not in known) for name, column in node["data"].items()}
    if "pass_rate" not in data or len({len(column) for column in data.values()}) != 1:
        raise UserError(f"not a saved fit: {node.where}.data has no pass_rate, or columns of different lengths")
    return Run(
        name=node["name"].text(),
        recipe=node["recipe"].text(),
        seed=None if seed.value is None else seed.whole("int64"),
        data=data,
        axes=axes,
        findings=_read_findings(node["findings"]),
        source=Path(node["source"].text()),
        sha256=node["sha256"].text(),
        format=node["format"].text(),
        reader=node["reader"].text(),
        header=node["header"].mapping(),
        start_time=node["start_time"].optional_text(),
        end_time=node["end_time"].optional_text(),
        events=tuple(
            Event(e["kind"].text(), e["what"].text(), {axis: v.number() for axis, v in e["at"].items()})
            for e in node["events"].list()
        ),
    )


def _read_param(node: Node) -> Param:
    numbers = {name: node[name].optional_number() for name in ("value", "lo", "hi", "se", "se_observed")}
    told = {"identified": node["identified"].flag(), "fixed": node["fixed"].flag(), "why": node["why"].text()}
    return Param(**numbers, **told)  # type: ignore[arg-type]


def _read_findings(node: Node) -> tuple[Finding, ...]:
    found = []
    for f in node.list():
        severity = f["severity"]
        if severity.text() not in SEVERITIES:
            severity.fail(f"one of {', '.join(SEVERITIES)}")
        found.append(Finding(f["code"].text(), severity.text(), f["message"].text(), f["figure"].optional_number()))
    return tuple(found)


def _thawed(value: Any) -> Any:
    """What `_plain` made of a report, with infinity as a number and sequences that nobody can change."""
    if isinstance(value, dict):
        return {key: _thawed(v) for key, v in value.items()}
    if isinstance(value, list):
        return tuple(_thawed(v) for v in value)
    return float(value) if value in {"inf", "-inf"} else value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
