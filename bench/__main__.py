"""All ratios in one table: ``make bench``, or ``python -m bench [NAME ...]``.

Each benchmark runs in a process of its own, one after the other, and its lines go into one table and into
bench/results.json, with the machine, the date and the versions. Run it on a quiet machine: another job that is at work
meanwhile changes every figure. Exits with 1 when a promised ratio is not kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path

from bench.table import Line, machine, table

BENCHMARKS = ("loader", "step", "moe", "decode")
RESULTS = Path(__file__).parent / "results.json"


def main(names: list[str]) -> int:
    """Runs the benchmarks of these names, or all; a part of them leaves the results file as it is."""
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"no benchmark is called {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    lines: list[Line] = []
    for name in names or BENCHMARKS:
        print(f"bench.{name} ...", file=sys.stderr)
        done = subprocess.run([sys.executable, "-m", f"bench.{name}", "--json"], stdout=subprocess.PIPE, text=True)
        if done.returncode not in (0, 1) or not done.stdout:
            print(f"bench.{name} failed with status {done.returncode}", file=sys.stderr)
            return 2
        lines += [Line(**line) for line in json.loads(done.stdout.splitlines()[-1])]
    print(table(lines))
    if not names:
        versions = {package: version(package) for package in ("torch", "transformers")}
        found = {"date": str(date.today()), "machine": machine(), **versions, "lines": [asdict(line) for line in lines]}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return int(not all(line.kept for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
