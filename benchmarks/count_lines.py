"""Lines of code of the trainer's core, by file, against 2,500: what one can read in an afternoon.

Run ``python benchmarks/count_lines.py`` from the repository's root. A line counts if a token of code begins or goes on
in it: blank lines, comments and docstrings do not count, nor do the strings that describe a field below it. The core is
``scalerl/`` without what a trainer could do without: tasks, preparation and warm-up of the demo, display, command line
and the estimate that ``--dry-run`` prints. The recipes are YAML and are not counted.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

LIMIT = 2500
NOT_CORE = {
    "commands",
    "preparing",
    "rewards",
    "tasks",
    "data.py",
    "warmup.py",
    "demonstrations.py",
    "modelcard.py",
    "demo.py",
    "display.py",
    "cli.py",
    "estimate.py",
    "footprint.py",
}
_NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
    tokenize.ENCODING,
}  # fmt: skip


def code_lines(source: str) -> int:
    """Count the lines of Python source that hold code.

    Examples
    --------
    >>> code_lines('"A module."' + chr(10) * 2 + "x = 1  # why" + chr(10) + "# nothing" + chr(10))
    1
    """
    told = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            told.add((node.lineno, node.col_offset))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        # Python's ast counts columns in bytes and tokenize in characters; a bare string only has blanks before it.
        if token.type in _NO_CODE or (token.type == tokenize.STRING and token.start in told):
            continue
        lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def count(package: Path) -> dict[str, int]:
    """Return the code lines of every file of the core, by name."""
    files = sorted(path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in NOT_CORE)
    return {str(path.relative_to(package)): code_lines(path.read_text(encoding="utf-8")) for path in files}


def main() -> int:
    """Print the table; return 1 if the core is over the limit."""
    counts = count(Path(__file__).parents[1] / "scalerl")
    for name, lines in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"{name:<20} {lines:>5}")
    total = sum(counts.values())
    print(f"{'total':<20} {total:>5} of {LIMIT}")
    return int(total > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
