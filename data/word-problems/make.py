"""Make raw.jsonl: 40 grade-school problems in the shape of Polaris, with worked solutions. Same seed, same file.

Run ``python data/word-problems/make.py`` from the repository's root.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

NAMES = ["Ada", "Bruno", "Chandra", "Dilek", "Emeka", "Freya", "Goran", "Hana", "Ines", "Jomo"]
THINGS = ["pears", "buttons", "stamps", "marbles", "pencils", "shells", "coins", "beads"]


def shelves(rng: random.Random, name: str, thing: str) -> tuple[str, str, int]:
    rows, each, taken = rng.randint(3, 12), rng.randint(4, 15), rng.randint(1, 11)
    problem = f"{name} lays {thing} in {rows} rows of {each}, then takes {taken} back. How many {thing} are left?"
    return problem, f"{rows} rows of {each} are {rows * each}. Without {taken} that leaves", rows * each - taken


def savings(rng: random.Random, name: str, thing: str) -> tuple[str, str, int]:
    price, weekly, start = rng.randint(40, 90), rng.randint(3, 9), rng.randint(2, 20)
    weeks = -(-(price - start) // weekly)
    problem = (
        f"A box of {thing} costs {price} crowns. {name} has {start} crowns and saves {weekly} more every week. "
        "After how many weeks is it enough?"
    )
    return problem, f"{price - start} crowns are missing, and {weekly} come in a week; rounded up, the weeks are", weeks


def walk(rng: random.Random, name: str, thing: str) -> tuple[str, str, int]:
    minutes, pace, pause = rng.randint(20, 60), rng.randint(50, 90), rng.randint(3, 12)
    problem = (
        f"To fetch some {thing}, {name} is on the way for {minutes} minutes, {pause} of which are a rest on a bench. "
        f"While walking, {name} covers {pace} metres a minute. How long is the way in metres?"
    )
    return (
        problem,
        f"{name} walks for {minutes - pause} minutes, {pace} metres in each, so the metres are",
        (minutes - pause) * pace,
    )


def share(rng: random.Random, name: str, thing: str) -> tuple[str, str, int]:
    friends, each, over = rng.randint(3, 9), rng.randint(5, 20), rng.randint(1, 2)
    total = friends * each + over
    problem = (
        f"{total} {thing} are dealt out to {friends} children, one by one, until the rest does not go round. "
        f"{name} keeps it. How many {thing} does each child get?"
    )
    return problem, f"{friends} children times {each} are {total - over}, with {over} left over; each gets", each


def age(rng: random.Random, name: str, thing: str) -> tuple[str, str, int]:
    now, years, times = rng.randint(6, 14), rng.randint(2, 9), rng.randint(2, 4)
    problem = (
        f"{name} is {now} and collects {thing}. In {years} years, {name}'s aunt will be {times} times as old as {name} "
        "is then. How old is the aunt today?"
    )
    return (
        problem,
        f"In {years} years {name} is {now + years} and the aunt {times * (now + years)}; today she is",
        (times * (now + years) - years),
    )


KINDS = [shelves, savings, walk, share, age]


def main(seed: int = 0, count: int = 40) -> None:
    """Write raw.jsonl beside this file."""
    rng = random.Random(seed)  # noqa: S311 - problems, no secrets
    lines = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        problem, thinking, answer = kind(rng, rng.choice(NAMES), rng.choice(THINGS))
        row = {
            "problem": problem,
            "answer": str(answer),
            "difficulty": f"{rng.randint(1, 7)}/8",
            "thinking": f"{thinking} {answer}.",
            "solution": f"The answer is \\boxed{{{answer}}}.",
        }
        lines.append(json.dumps(row))
    Path(__file__).with_name("raw.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
