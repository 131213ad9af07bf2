"""What all stages start from: runs. Frozen; nothing here reads files or computes.

Promises: an unknown is `None`, never 0 and never NaN; a result shows its findings before its numbers; importing
this module loads neither numpy, pandas nor scipy. Fits stand in `analysis.fits.results`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import scalerl
from analysis.findings import Finding
from scalerl.runlog import UserError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

READER = f"scalerl {scalerl.__version__}"


@dataclass(frozen=True)
class Event:
    """Something that changed while a run went on.

    Attributes
    ----------
    kind : str
        What changed, such as ``learning_rate``, ``batch``, ``data``, ``evaluation`` or ``attempt``.
    what : str
        One sentence without a full stop.
    at : mapping of compute axis to float
        The last compute that was logged before the change; 0 where nothing was.
    """

    kind: str
    what: str
    at: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Run:
    """The evaluations of one run, in the order they were logged.

    Attributes
    ----------
    name : str
        Label, unique among the runs that were read together, such as ``scalerl/seed0``.
    recipe : str
    seed : int or None
    data : mapping of column to array, shape (evaluations,)
        ``pass_rate`` (fraction), every compute axis that was logged, and what else describes an evaluation.
    axes : tuple of str
        Compute columns in `data`; the first is the default x.
    header : mapping
        What the log says of how the run was made: ``run.json``; empty for a CSV file.
    source : Path
        The file that was read; `sha256` is its hash, `format` how it was read (`analysis.readers.formats`), `reader`
        the program and version that read it.
    events : tuple of Event
        What changed while the run went on, as far as the log shows it.
    """

    name: str
    recipe: str
    seed: int | None
    data: Mapping[str, NDArray[Any]]
    axes: tuple[str, ...]
    findings: tuple[Finding, ...]
    source: Path
    sha256: str
    header: Mapping[str, Any] = field(default_factory=dict)
    start_time: str | None = None
    end_time: str | None = None
    events: tuple[Event, ...] = ()
    format: str = "table"
    reader: str = READER

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The evaluations as a pandas frame, one row each."""
        import pandas as pd

        return pd.DataFrame({name: list(values) for name, values in self.data.items()})

    def __len__(self) -> int:
        return len(self.data["pass_rate"])

    def __repr__(self) -> str:
        doubts = "".join(f"\n  {f.severity:8}{f.message}" for f in self.findings)
        return f"Run {self.name}: {len(self)} evaluations, {self.axes[0]}{doubts}"


class _HasName(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_HasName)


def one_of_each(names: Iterable[str]) -> None:
    """Refuse two things of one name: by name one of them would hide the other.

    Raises
    ------
    UserError
        If a name stands there twice.
    """
    again = [name for name, count in Counter(names).items() if count > 1]
    if again:
        what = "rename one: dataclasses.replace(run, name=...)"
        raise UserError(f"more than one run is called {', '.join(again)}; {what}")


class Named(Sequence[T]):
    """An immutable sequence whose items can also be had by their name; no two have the same."""

    def __init__(self, items: Sequence[T]) -> None:
        self._items: tuple[T, ...] = tuple(items)
        one_of_each(item.name for item in self._items)
        self._by_name: dict[str, T] = {item.name: item for item in self._items}

    @overload
    def __getitem__(self, key: int | str) -> T: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[T]: ...
    def __getitem__(self, key: int | str | slice) -> T | Sequence[T]:
        if not isinstance(key, str):
            return self._items[key]
        if key not in self._by_name:
            raise KeyError(f"{key!r}; the names are {', '.join(self._by_name)}")
        return self._by_name[key]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(self._by_name)


class Runs(Named[Run]):
    """Runs that were read together, by position or by name; `skipped` are the paths beside them that held none."""

    def __init__(self, items: Sequence[Run], skipped: Sequence[Path] = ()) -> None:
        super().__init__(items)
        self.skipped = tuple(skipped)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))
