"""What became of each module's mutants, as a table; exits 1 when one survived.

Reads what `mutmut results --all true` writes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable

KILLED = "killed"
TIMED_OUT = "timeout"


def read(lines: Iterable[str]) -> tuple[dict[str, Counter[str]], list[str]]:
    """How many mutants of each module have each status, and those that no test noticed."""
    modules: dict[str, Counter[str]] = {}
    missed = []
    for line in lines:
        mutant, _, status = line.strip().rpartition(": ")
        modules.setdefault(mutant.rpartition(".")[0], Counter())[status] += 1
        if status not in {KILLED, TIMED_OUT}:
            missed.append(f"{mutant}: {status}")
    return modules, missed


def table(modules: dict[str, Counter[str]]) -> Iterable[str]:
    """A line for each module."""
    yield f"{'module':32}{'mutants':>8}{'killed':>8}{'timed out':>11}{'survived':>10}{'score':>8}"
    for module, found in modules.items():
        killed, timed_out, total = found[KILLED], found[TIMED_OUT], found.total()
        noticed = killed + timed_out
        yield (
            f"{module:32}{total:8}{killed:8}{timed_out:11}{total - noticed:10}"
            f"{noticed / total:8.1%}"
        )


def main() -> None:
    """Prints the table, and what survived."""
    modules, missed = read(sys.stdin)
    if not modules:
        sys.exit("mutmut tells of no mutants: `make mutate` makes them")
    for line in (*table(modules), *missed):
        sys.stdout.write(f"{line}\n")
    if missed:
        sys.exit("`.venv/bin/mutmut show NAME` shows one: write the test, or simplify the code")


if __name__ == "__main__":
    main()
