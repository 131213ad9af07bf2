"""Whether the runs of a recipe are seeds of it: the settings that they were made with, as their logs have them.

Promises: a warning and nothing else; a log without a configuration says nothing. Does not know which settings matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.findings import Finding, finding
from analysis.fits.results import Fit
from analysis.readers.cleaning import printable

# What seeds of one recipe may differ in: how long a run is, what it leaves behind, where things lie, what computes it.
FREE = frozenset(
    {
        *("seed", "recipe", "max_steps", "max_epochs", "max_gpu_hours", "early_stopping_patience", "eval_every"),
        *("keep_checkpoints", "checkpoint_every", "keep_best", "report_to", "name", "id"),
        *("device", "threads", "micro_batch_tokens", "generator", "generators", "engine", "reward_workers"),
    }
)
PLACES = ("_dir", "_path", "_file", "_name", "_id")  # ends of names that say where something lies or what it is called


def other_settings(recipe: str, fits: Sequence[Fit]) -> list[Finding]:
    """Say of a recipe that its runs were made with other settings, which is another recipe by the same name.

    Parameters
    ----------
    fits : sequence of Fit
        Of its seeds.

    Returns
    -------
    list of Finding
        None or one, ``settings-differ``; its figure is how many settings differ.
    """
    made = [config for f in fits if isinstance(config := f.run.header.get("config"), Mapping)]
    names = [name for name in (made[0] if made else ()) if name not in FREE and not str(name).endswith(PLACES)]
    shared = [name for name in names if all(name in one for one in made)]
    differ = {name: said for name in shared if len(said := dict.fromkeys(repr(one[name]) for one in made)) > 1}
    if not differ:
        return []
    # A log's own names and values: made fit for one line.
    told = "; ".join(printable(f"{name} {', '.join(said)}")[:80] for name, said in list(differ.items())[:3])
    more = f"; and {len(differ) - 3} more" if len(differ) > 3 else ""
    what = f"{recipe}: its runs were made with other settings ({told}{more}) and count as seeds of one recipe"
    return [finding("settings-differ", f"{what}; name them apart (--recipe NAME=PATTERN)", float(len(differ)))]
