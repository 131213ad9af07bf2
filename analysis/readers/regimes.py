"""What changed while a run went on: events from the rows of its log, and a doubt where one lies inside a fit.

A change is also that the train prompts run out: nothing was changed, but the points from there on say little of what
more compute would do with enough prompts.

Promises: a warm-up, a smooth schedule, a last small batch of an epoch, a filter that drops prompts and epochs that
roll over are ordinary and raise nothing, nor do a policy that is kept as the best and an early stop; a change is
placed at the last compute logged before it, on every axis, and one that the log marks by an event is said once.
Does not promise to find a change that no row shows.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from analysis.findings import Finding, finding
from analysis.readers.cleaning import number, printable
from analysis.schema import Event
from scalerl.runlog import COMPUTE_AXES

Row = Mapping[str, Any]

JUMP = 1.2  # a learning rate that changes by this factor in one step, and by
JUMP_NEIGHBOURS = 3.0  # so many times what it changes by in the steps before and after, jumps
PLATEAU = 10  # steps at one learning rate, after which a change is the start of a decay
STEADY = 5  # steps of one batch on both sides of a change of batch
BATCH = 1.2  # factor between them
ORDINARY = {"start", "end", "interrupted", "failed", "checkpoint", "saved", "best", "early_stop"}
GUARD = "guard"  # an observation of the trainer: it changes nothing, and is counted
SPENDING = "prompts"  # the train prompts run out
_BY_EVENT = {"epoch": "data", "data": "data", "dataset": "data", "devices": "devices", "batch_size": "batch"}
MARKS = {"train_set": "data", "data": "data", "devices": "devices"}  # fields of step rows that say what is in use
SPENT, EMPTY, EMPTY_WINDOW = 0.5, 0.5, 10  # share of train prompts retired; of so many updates, with nothing to teach
EVALUATION = ("temperature", "max_new_tokens", "k", "n_prompts")  # of eval rows: another of these is another measure
# Kinds that have findings of their own, or restore the run exactly.
_QUIET = {"attempt", "resume", "reward_errors", "prompts_low", "updates_skipped", GUARD, SPENDING}


def read_events(rows: Sequence[Row], items: int | None = None) -> tuple[Event, ...]:
    """Return what changed, from the rows of a log in their order.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of kind ``step``, ``eval`` and ``event``; others are ignored.
    items : int, optional
        Train prompts.

    Examples
    --------
    >>> rows = [{"kind": "step", "step": i, "gpu_hours": i / 4, "learning_rate": 1e-5} for i in range(1, 20)]
    >>> rows += [{"kind": "step", "step": i, "gpu_hours": i / 4, "learning_rate": 2e-6} for i in range(20, 40)]
    >>> [(event.what, event.at["gpu_hours"]) for event in read_events(rows)]
    [('learning rate from 1e-05 to 2e-06', 4.75)]
    """
    place = _places(rows)
    steps = [i for i, row in enumerate(rows) if row.get("kind") == "step"]
    evals = [i for i, row in enumerate(rows) if row.get("kind") == "eval"]
    found = [*_marked(rows), *_changes(rows, steps, MARKS)]
    marked = {kind for i, kind, _ in found if "new" in rows[i]}  # a trainer that marks its decisions marks all of them
    for kind, changes in (("learning_rate", _rates(rows, steps)), ("batch", _batches(rows, steps))):
        found += changes if kind not in marked else []
    found += _changes(rows, steps, {"attempt": "attempt"})
    found += _changes(rows, evals, dict.fromkeys(EVALUATION, "evaluation"))
    found += _spending(rows, steps, items)
    return tuple(Event(kind, what, place[i]) for i, kind, what in sorted(found, key=lambda change: change[0]))


def of_window(events: Sequence[Event], x: str, first: float, last: float) -> list[Finding]:
    """Return findings for what lies between the first and the last fitted compute: the changes, and a count of guards.

    Parameters
    ----------
    events : sequence of Event
    x : str
        Compute axis of the fit.
    first, last : float
        Smallest and largest compute that was fitted.
    """
    # A change before the first update has nothing before it to differ from.
    inside = [e for e in events if x in e.at and first <= e.at[x] < last and e.at[x] > 0.0]
    guards = Counter(e.what for e in inside if e.kind == GUARD)
    seen = []
    if guards:
        told = ", ".join(f"{name} {'once' if n == 1 else f'{n} times'}" for name, n in guards.items())
        what = f"guards of the trainer were raised: {told}; scalerl check says what of it is past its limit"
        seen = [finding("guards", what, float(guards.total()))]
    spent = [e for e in events if e.kind == SPENDING and x in e.at and e.at[x] < last]
    if spent:
        told = "; ".join(f"{e.what} from {e.at[x]:.4g} {x} on" for e in spent)
        what = f"training runs out of prompts that teach: {told}; the run may stop below A, so add prompts"
        what += " (--up-to-spent fits what came before)"
        seen.append(finding("prompts-spent", what, spent[0].at[x]))
    inside = [e for e in inside if e.kind not in _QUIET]
    if not inside:
        return seen
    told = "; ".join(f"{e.what} at {e.at[x]:.4g} {x}" for e in inside[:3])
    more = f" and {len(inside) - 3} more" if len(inside) > 3 else ""
    what = f"the run changes inside the fit: {told}{more}; fit each part by itself with --from and --to"
    return [finding("regime", what, inside[0].at[x]), *seen]


def spent_at(events: Sequence[Event], x: str) -> float:
    """Return the compute at which the train prompts of a run begin to run out; infinity if they do not."""
    return min((e.at[x] for e in events if e.kind == SPENDING and x in e.at), default=math.inf)


Change = tuple[int, str, str]  # row, kind, what


def _places(rows: Sequence[Row]) -> list[dict[str, float]]:
    """The last compute logged before each row, on every axis that the log has."""
    axes = [axis for axis in COMPUTE_AXES if any(axis in row for row in rows)]
    before, places = dict.fromkeys(axes, 0.0), []
    for row in rows:
        places.append(dict(before))
        if row.get("kind") in ("step", "eval"):  # a tuple: a kind may be unhashable
            for axis in axes:
                value = number(row.get(axis))
                if value is not None and not math.isnan(value):
                    before[axis] = value
    return places


def _marked(rows: Sequence[Row]) -> Iterator[Change]:
    """Rows of kind event that are not part of every run."""
    for i, row in enumerate(rows):
        name = row.get("event")
        if row.get("kind") != "event" or not isinstance(name, str) or name in ORDINARY:
            continue
        if name == GUARD:
            if row.get("raised") is not False:  # that a figure is back is no second one
                yield i, GUARD, printable(str(row.get("guard")))[:80]
            continue
        said = {key: row[key] for key in row if key not in {"kind", "event", "attempt", "time", *COMPUTE_AXES}}
        told = ", ".join(f"{key} {value}" for key, value in said.items() if isinstance(value, (str, int, float)))
        what = f"{name}{f' ({told})' if told else ''}"
        old, new = number(row.get("old")), number(row.get("new"))
        if old is not None and new is not None and not math.isnan(old + new):
            what = f"{name.replace('_', ' ')} from {old:.4g} to {new:.4g}"
        yield i, _BY_EVENT.get(name, name), printable(what)[:80]


def _rates(rows: Sequence[Row], steps: Sequence[int]) -> Iterator[Change]:
    """Jumps of the learning rate, and the end of a level one; the rise at the start is the warm-up."""
    seen = [(i, rate) for i in steps if (rate := number(rows[i].get("learning_rate"))) is not None and rate > 0.0]
    start = next((j for j, ((_, a), (_, b)) in enumerate(pairwise(seen)) if b <= a), len(seen))
    level = 1
    for j in range(start + 1, len(seen)):
        (_, before), (i, after) = seen[j - 1], seen[j]
        moved = abs(after - before)
        if moved <= 1e-9 * before:
            level += 1
            continue
        around = [abs(seen[k][1] - seen[k - 1][1]) for k in (j - 1, j + 1) if max(start, 1) <= k < len(seen)]
        factor = max(after / before, before / after)
        if factor > JUMP and moved > JUMP_NEIGHBOURS * max(around, default=0.0):
            yield i, "learning_rate", f"learning rate from {before:.3g} to {after:.3g}"
        elif level >= PLATEAU:
            yield i, "learning_rate", f"learning rate leaves {before:.3g}"
        level = 1


def _batches(rows: Sequence[Row], steps: Sequence[int]) -> Iterator[Change]:
    """A batch that is steady, and then steady at another size; odd ones between are ordinary."""
    for field, named in (("prompts", "prompts an update"), ("reward_count", "completions an update")):
        sizes = [(i, size) for i in steps if (size := number(rows[i].get(field))) is not None and size > 0.0]
        runs = [list(group) for _, group in groupby(sizes, key=lambda pair: pair[1])]
        steady = [(run[0][0], run[0][1]) for run in runs if len(run) >= STEADY]
        found = False
        for (_, before), (i, after) in pairwise(steady):
            if max(after / before, before / after) >= BATCH:
                found = True
                yield i, "batch", f"{named} from {before:g} to {after:g}"
        if found:
            return  # completions follow prompts: one change is said once


def _spending(rows: Sequence[Row], steps: Sequence[int], items: int | None) -> Iterator[Change]:
    """Where half of the train prompts are retired, and where most updates find nothing to learn from."""
    for i in steps if items else ():
        retired = number(rows[i].get("retired"))
        if retired is not None and retired >= SPENT * (items or 0):
            yield i, SPENDING, f"half of {items} train prompts are retired"
            break
    recent: deque[float] = deque(maxlen=EMPTY_WINDOW)
    for i in steps:
        same = number(rows[i].get("zero_variance_share"))
        recent.append(float(same is not None and same >= 1.0))
        if len(recent) == EMPTY_WINDOW and sum(recent) > EMPTY * EMPTY_WINDOW:
            yield i, SPENDING, "most updates are empty, the completions of each prompt all getting one reward"
            break


def _changes(rows: Sequence[Row], places: Sequence[int], fields: Mapping[str, str]) -> Iterator[Change]:
    """Fields that hold one value and then another."""
    for field, kind in fields.items():
        known = [(i, value) for i in places if isinstance(value := rows[i].get(field), (str, int, float))]
        for (_, before), (i, after) in pairwise(known):
            if after != before:
                yield i, kind, printable(f"{field} from {before} to {after}")[:80]
