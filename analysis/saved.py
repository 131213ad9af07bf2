"""Fits as JSON and back: everything that a fit holds, its run and draws included.

Promises: `from_json(to_json(fit))` is the same fit to the last bit (floats are written by their shortest exact form,
infinity as the text "inf"); what is read is checked field by field, and damage is one line that says where; nothing
that is read is executed. Does not promise to read files of a later version.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from analysis.draws import DRAWN, Draws
from analysis.findings import SEVERITIES, Finding
from analysis.results import PARAMETERS, Fit, Fits, Param
from analysis.schema import Event, Run
from scalerl.runlog import UserError

FORMAT, VERSION = "scalerl fits", 1
_KINDS = ("float64", "float32", "int64", "int32", "bool")  # of a column; every other one is kept as objects


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
        "compute": _column(fit.compute),
        "pass_rate": _column(fit.pass_rate),
        "left_out": _column(fit.left_out),
        "window": [_number(end) for end in fit.window],
        "findings": [_finding(f) for f in fit.findings],
        "reach": _number(fit.reach),
        "grade": _number(fit.grade),
        "tolerance": _number(fit.tolerance),
        "draws": None if draws is None else {name: _column(getattr(draws, name)) for name in DRAWN},
        "noise": {name: _number(value) for name, value in fit.noise.items()},
        "evaluation_sd": None if fit.evaluation_sd is None else _column(fit.evaluation_sd),
        "report": _plain(fit.report),
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "recipe": run.recipe,
        "seed": run.seed,
        "data": {name: _column(values) for name, values in run.data.items()},
        "axes": list(run.axes),
        "findings": [_finding(f) for f in run.findings],
        "source": str(run.source),
        "sha256": run.sha256,
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


def _column(values: Any) -> dict[str, Any]:
    array = np.asarray(values)
    kind = str(array.dtype)
    if kind not in _KINDS:
        return {"kind": "object", "values": [_plain(v) for v in array.tolist()]}
    if array.dtype.kind == "f":
        array = array.astype(float)
        return {"kind": kind, "shape": list(array.shape), "values": [_number(v) for v in array.ravel().tolist()]}
    return {"kind": kind, "shape": list(array.shape), "values": array.ravel().tolist()}


def _number(value: Any) -> float | str | None:
    if value is None:
        return None
    number = float(value)
    if math.isnan(number):
        raise UserError("a fit that holds NaN cannot be saved: an unknown is None")
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


class _Node:
    """A value of the text with the path that messages name."""

    def __init__(self, value: Any, where: str) -> None:
        self.value, self.where = value, where

    def fail(self, wanted: str) -> NoReturn:
        shown = repr(self.value)
        raise UserError(f"not a saved fit: {self.where}: {shown[:40]}{'...' * (len(shown) > 40)} is not {wanted}")

    def __getitem__(self, key: str) -> _Node:
        if key not in self.mapping():
            raise UserError(f"not a saved fit: {self.where} has no {key}")
        return _Node(self.value[key], f"{self.where}.{key}")

    def mapping(self) -> dict[str, Any]:
        return dict(self.value) if isinstance(self.value, dict) else self.fail("an object")

    def items(self) -> list[tuple[str, _Node]]:
        return [(key, self[key]) for key in self.mapping()]

    def list(self) -> list[_Node]:
        if not isinstance(self.value, list):
            self.fail("a list")
        return [_Node(v, f"{self.where}[{i}]") for i, v in enumerate(self.value)]

    def text(self) -> str:
        return self.value if isinstance(self.value, str) else self.fail("text")

    def flag(self) -> bool:
        return self.value if isinstance(self.value, bool) else self.fail("true or false")

    def number(self) -> float:
        value = self.value
        is_number = value in {"inf", "-inf"} if isinstance(value, str) else type(value) in {int, float}
        if not is_number or abs(value if type(value) is int else 0) > 2**1000:  # more than a float holds
            self.fail("a number")
        return float(value)

    def optional_number(self) -> float | None:
        return None if self.value is None else self.number()

    def optional_text(self) -> str | None:
        return None if self.value is None else self.text()

    def array(self, length: int | None = None) -> Any:
        kind, values = self["kind"].text(), self["values"].list()
        if kind == "object":
            array: Any = np.empty(len(values), dtype=object)
            array[:] = [v.value for v in values]
        elif kind in _KINDS:
            read = [v.number() if kind.startswith("float") else v.whole(kind) for v in values]
            shape = [n.whole("int64") for n in self["shape"].list()]
            if math.prod(shape) != len(values) or any(n < 0 for n in shape):
                self["shape"].fail(f"the shape of {len(values)} values")
            array = np.array(read, dtype=kind).reshape(shape)
        else:
            self["kind"].fail(f"one of {', '.join((*_KINDS, 'object'))}")
        if length is not None and len(array) != length:
            raise UserError(f"not a saved fit: {self.where} has {len(array)} values where {length} belong")
        return array

    def whole(self, kind: str) -> int:
        wanted = bool if kind == "bool" else int
        if type(self.value) is not wanted or not -(2**63) <= self.value < 2**63:
            self.fail("true or false" if kind == "bool" else "a whole number")
        return int(self.value)


def _read(text: str) -> tuple[list[Fit], bool]:
    try:
        whole = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError, TypeError) as error:
        raise UserError(f"not a saved fit: not JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise UserError(f"not a saved fit: the text does not begin as one (format: {FORMAT!r})")
    root = _Node(whole, "file")
    if root["version"].value != VERSION:
        root["version"].fail(f"a version that this program reads ({VERSION})")
    return [_read_fit(node) for node in root["fits"].list()], root["several"].flag()


def _read_fit(node: _Node) -> Fit:
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
        draws=None if draws.value is None else Draws(**{name: draws[name].array() for name in DRAWN}),
        noise=MappingProxyType({name: value.optional_number() for name, value in node["noise"].items()}),
        evaluation_sd=None if sd.value is None else sd.array(n),
        report=MappingProxyType({key: _thawed(v.value) for key, v in node["report"].items()}),
    )


def _read_run(node: _Node) -> Run:
    seed = node["seed"]
    data = {name: column.array() for name, column in node["data"].items()}
    if "pass_rate" not in data or len({len(column) for column in data.values()}) != 1:
        raise UserError(f"not a saved fit: {node.where}.data has no pass_rate, or columns of different lengths")
    return Run(
        name=node["name"].text(),
        recipe=node["recipe"].text(),
        seed=None if seed.value is None else seed.whole("int64"),
        data=data,
        axes=tuple(axis.text() for axis in node["axes"].list()),
        findings=_read_findings(node["findings"]),
        source=Path(node["source"].text()),
        sha256=node["sha256"].text(),
        header=node["header"].mapping(),
        start_time=node["start_time"].optional_text(),
        end_time=node["end_time"].optional_text(),
        events=tuple(
            Event(e["kind"].text(), e["what"].text(), {axis: v.number() for axis, v in e["at"].items()})
            for e in node["events"].list()
        ),
    )


def _read_param(node: _Node) -> Param:
    numbers = {name: node[name].optional_number() for name in ("value", "lo", "hi", "se", "se_observed")}
    told = {"identified": node["identified"].flag(), "fixed": node["fixed"].flag(), "why": node["why"].text()}
    return Param(**numbers, **told)  # type: ignore[arg-type]


def _read_findings(node: _Node) -> tuple[Finding, ...]:
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
