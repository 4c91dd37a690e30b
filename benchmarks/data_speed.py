"""Cleaning at scale: rows a second, memory, near duplicates beside datasketch, a second round.

Usage: data_speed.py PATH [--rows 100000] [--memory-rows 10000 1000000] [--quick] [--out FILE]
PATH is a folder with alpaca_en_demo.json and alpaca_zh_demo.json, whose sentences the rows are
built from (see planted_rows.py). All cleaning steps are on, a tenth is held out, all cores work.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import common
import planted_rows

PEER = ["datasketch==2.0.0", "numpy==2.4.6"]
ALL_STEPS = [
    "unicode",
    "empty",
    "length",
    {"type": "language", "keep": ["en", "zh"]},
    "repetition",
    "private_data",
    "contamination",
    "conflicts",
    "near_duplicates",
]
FILES = ("alpaca_en_demo.json", "alpaca_zh_demo.json")


def main() -> None:
    """Run all parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="folder of the alpaca demo sets")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--memory-rows", type=int, nargs="*", default=[10_000, 1_000_000])
    parser.add_argument("--quick", action="store_true", help="2000 rows and no peer")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(clean(json.loads(options.worker.read_text()))))
        return
    if options.quick:
        options.rows, options.memory_rows = 2000, [1000]
    with tempfile.TemporaryDirectory() as folder:
        results = measure(options, Path(folder))
    report(results)
    common.write_results(options.out, results)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All numbers, each from a process of its own."""
    pools = planted_rows.sentences([options.path / name for name in FILES])
    paths, truth = make_rows(folder / "rows", pools, options.rows, options.rows)
    whole = run(folder, paths)
    results: dict[str, Any] = {"rows": options.rows, "bytes": paths[0].stat().st_size}
    about = {name: whole[name] for name in ("seconds", "kept", "dropped", "changed", "peak_mb")}
    results["cleaning"] = about | {"rows_per_second": options.rows / whole["seconds"]}
    results["near_duplicates"] = [quality("this project", run(folder, paths, "near"), truth)]
    if not options.quick:
        results["near_duplicates"].append(quality("datasketch", run_peer(paths[0]), truth))
    results["memory"] = [
        memory(folder, pools, rows) for rows in sorted({*options.memory_rows, options.rows})
    ]
    results["second_round"] = second_round(folder, pools, options.rows)
    return results


def make_rows(
    folder: Path, pools: tuple[list[str], list[str]], num_rows: int, rows_per_file: int
) -> tuple[list[Path], list[tuple[str, int | None]]]:
    """Planted rows in files."""
    rows = planted_rows.planted_rows(*pools, num_rows)
    return planted_rows.write_rows(folder, rows, rows_per_file=rows_per_file)


def run(folder: Path, paths: list[Path], steps: str = "all", **more: Any) -> dict[str, Any]:
    """Clean files in a new process; nothing is in the cache unless `cache` says so."""
    output = Path(tempfile.mkdtemp(dir=folder))
    job = {"paths": list(map(str, paths)), "steps": steps, "output": str(output), **more}
    description = output / "job.json"
    description.write_text(json.dumps(job))
    command = [sys.executable, __file__, ".", "--worker", str(description)]
    with Sampled() as sampled:
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        sampled.watch(process.pid)
        printed, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"cleaning failed with {process.returncode}")
    result: dict[str, Any] = json.loads(printed)
    if "cache" not in more:
        shutil.rmtree(output)
    return result | {"peak_mb": sampled.peak_mb}


class Sampled:
    """Highest memory of a process and those it started (proportional share, as Linux counts it)."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._stop = threading.Event()

    def __enter__(self) -> "Sampled":
        return self

    def watch(self, process: int) -> None:
        """Look every tenth of a second."""
        self._thread = threading.Thread(target=self._look, args=(process,))
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self, process: int) -> None:
        while not self._stop.wait(0.1):
            self.peak_mb = max(self.peak_mb, sum(map(share_mb, family(process))))


def family(process: int) -> Iterator[int]:
    """A process and all below it."""
    yield process
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from family(int(child))


def share_mb(process: int) -> float:
    """Proportional set size without what is backed by files."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def clean(job: dict[str, Any]) -> dict[str, Any]:
    """Clean files as a round does; runs in a process of its own."""
    from llama_factory.core.progress import SILENT
    from llama_factory.data.prepare import DataFolders, prepare
    from llama_factory.data.seen import open_seen
    from llama_factory.data.settings import DataSettings
    from llama_factory.data.sources.files import source_of

    output = Path(job["output"])
    chosen: dict[str, Any] = {"cleaning": ["near_duplicates"], "held_out_fraction": 0.0}
    if job["steps"] == "all":
        chosen = {"cleaning": ALL_STEPS}
    cache = Path(job.get("cache", output / "cache"))
    started = time.perf_counter()
    seen = open_seen({"v0001": Path(job["seen"])}, cache) if "seen" in job else ()
    data = prepare(
        [source_of(Path(path)) for path in job["paths"]],
        DataSettings.model_validate(chosen),
        DataFolders(output / "data", cache),
        seen=seen,
        progress=SILENT,
    )
    seconds = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {
        "seconds": seconds,
        "main_mb": usage,
        "lines": [row.line for row in data.train] if job["steps"] == "near" else [],
        "kept": sum(data.report.kept.values()),
        "dropped": data.report.dropped,
        "changed": data.report.changed,
        "folder": str(data.folder),
    }


def run_peer(path: Path) -> dict[str, Any]:
    """The same rows through datasketch, in its own environment."""
    python = common.peer_python("datasketch", PEER)
    script = Path(__file__).parent / "peers" / "datasketch_dedup.py"
    printed = subprocess.run([python, script, path], check=True, capture_output=True).stdout
    result: dict[str, Any] = json.loads(printed)
    return result


def quality(
    program: str, result: dict[str, Any], truth: list[tuple[str, int | None]]
) -> dict[str, Any]:
    """Recall and precision: of a copy and its original one must go, of other rows none.

    A row that is no copy counts as wrongly dropped unless it was dropped for a copy of its own.
    """
    kept = {line - 1 for line in result["lines"]}
    pairs = [(copy, original) for copy, (kind, original) in enumerate(truth) if kind == "near"]
    found = sum(not (copy in kept and original in kept) for copy, original in pairs)
    copied = {original for _, original in truth if original is not None}
    dropped = [line for line in range(len(truth)) if line not in kept]
    wrong = sum(truth[line][0] == "new" and line not in copied for line in dropped)
    exact = sum(truth[line][0] == "exact" for line in dropped)
    return {
        "program": program,
        "planted": len(pairs),
        "recall": found / max(1, len(pairs)),
        "precision": 1 - wrong / max(1, len(dropped) - exact),
        "seconds": result["seconds"],
        "rows_per_second": len(truth) / result["seconds"],
    }


def memory(folder: Path, pools: tuple[list[str], list[str]], num_rows: int) -> dict[str, Any]:
    """Peak memory of all processes together over `num_rows` rows."""
    paths, _ = make_rows(folder / f"memory{num_rows}", pools, num_rows, num_rows)
    result = run(folder, paths)
    shutil.rmtree(folder / f"memory{num_rows}")
    return {
        "rows": num_rows,
        "peak_mb": result["peak_mb"],
        "main_mb": result["main_mb"],
        "rows_per_second": num_rows / result["seconds"],
    }


def second_round(folder: Path, pools: tuple[list[str], list[str]], num_rows: int) -> dict[str, Any]:
    """A folder that grew by 1 %, and a workspace whose inbox holds 1 % as many new rows."""
    cache = folder / "cache"
    paths, _ = make_rows(folder / "rounds", pools, num_rows + num_rows // 100, num_rows // 100)
    first = run(folder, paths[:-1], cache=str(cache))
    grown = run(folder, paths, cache=str(cache))
    inbox = run(folder, paths[-1:], cache=str(folder / "cache2"), seen=first["folder"])
    return {
        "first_seconds": first["seconds"],
        "grown_folder_seconds": grown["seconds"],
        "new_inbox_seconds": inbox["seconds"],
        "grown_folder_share": grown["seconds"] / first["seconds"],
        "new_inbox_share": inbox["seconds"] / first["seconds"],
    }


def report(results: dict[str, Any]) -> None:
    """Tables for people."""
    cleaning, rounds = results["cleaning"], results["second_round"]
    common.print_table(
        f"All steps on {results['rows']} rows ({results['bytes'] / 1e6:.0f} MB)",
        ("rows/s", "seconds", "kept", "peak memory of all processes (MB)"),
        [(cleaning["rows_per_second"], cleaning["seconds"], cleaning["kept"], cleaning["peak_mb"])],
    )
    names = ("program", "planted", "recall", "precision", "seconds", "rows_per_second")
    rows = [[each[name] for name in names] for each in results["near_duplicates"]]
    common.print_table("Near duplicates alone", names, rows)
    names = ("rows", "peak_mb", "main_mb", "rows_per_second")
    rows = [[each[name] for name in names] for each in results["memory"]]
    common.print_table("Memory", names, rows)
    common.print_table(
        "Second round with 1 % new rows",
        ("first (s)", "grown folder (s)", "share", "new inbox (s)", "share"),
        [
            (
                rounds["first_seconds"],
                rounds["grown_folder_seconds"],
                rounds["grown_folder_share"],
                rounds["new_inbox_seconds"],
                rounds["new_inbox_share"],
            )
        ],
    )


if __name__ == "__main__":
    main()
