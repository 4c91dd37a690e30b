"""Rows answered a second by evaluation: now, at the commit before there was one engine, and by a
plain loop. Each is a process that answers a part of the rows when it is asked to, in turns.

The process runs this file with its own checkout's package and `evaluation_speed.py`:
evaluated_rows.py CHECKOUT MODEL ROWS.json NUM_ROWS MAX_TOKENS THREADS
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEFORE = "cc891d5"
"""The last commit whose evaluation had a decoder of its own."""

MAX_TOKENS = 32
NUM_PARTS = 5
NOW, OLD, PLAIN = "the engine", f"the decoder of {BEFORE}", "a plain loop"


def compare(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """All ways on the same parts of the rows, in turns.

    Args:
        options: of `generation_speed.py`.
        work: where rows and the old checkout are put.
    """
    rows = options.rows or own_rows(work / "rows.json", options.num_rows)
    checkouts = {NOW: ROOT}
    if old := checkout(work / BEFORE):
        checkouts[OLD] = old
    processes = {name: start(folder, rows, options) for name, folder in checkouts.items()}
    size = -(-options.num_rows // NUM_PARTS)
    seconds: dict[str, list[float]] = {name: [] for name in (*processes, PLAIN)}
    texts: dict[str, list[str]] = {name: [] for name in (*processes, PLAIN)}
    num_rows = dict.fromkeys(seconds, 0)
    for begin in range(0, options.num_rows, size):
        end = min(options.num_rows, begin + size)
        asked = [(name, process, "batched") for name, process in processes.items()]
        if end <= max(size, options.plain_rows):
            asked.append((PLAIN, processes[NOW], "plain"))
        for name, process, way in asked:
            taken = ask(process, [way, begin, end])
            seconds[name].append(taken["seconds"])
            texts[name] += taken["texts"]
            num_rows[name] += end - begin
    for process in processes.values():
        process.communicate()
    return [
        {
            "program": name,
            "rows": num_rows[name],
            "rows_per_second": num_rows[name] / sum(each),
            "equal_answers": sum(map(str.__eq__, texts[name], texts[NOW])),
            "seconds_of_parts": each,
        }
        for name, each in seconds.items()
        if each
    ]


def own_rows(path: Path, number: int) -> Path:
    """Questions where no file of rows is given."""
    import answer_load

    rows = [{"instruction": text, "output": "-"} for text in answer_load.questions(number)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def checkout(folder: Path) -> Path | None:
    """The package and the scripts of the old commit, where git has it."""
    command = ["git", "-C", ROOT, "archive", BEFORE, "src", "benchmarks"]
    packed = subprocess.run(command, capture_output=True, check=False)
    if packed.returncode:
        print(f"git has no {BEFORE}: its decoder is left out", file=sys.stderr)
        return None
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def start(folder: Path, rows: Path, options: argparse.Namespace) -> "subprocess.Popen[str]":
    """A process with the package of a checkout, that has answered once."""
    given = [folder, options.model, rows, options.num_rows, MAX_TOKENS, options.threads]
    paths = {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": str(options.threads)}
    process = subprocess.Popen(
        [sys.executable, __file__, *map(str, given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | paths,
    )
    ask(process, ["batched", 0, 1])
    return process


def ask(process: "subprocess.Popen[str]", request: Sequence[Any]) -> Any:
    """Have a part answered.

    Raises:
        SystemExit: the process ended.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(list(request)) + "\n")
    process.stdin.flush()
    if not (line := process.stdout.readline()):
        sys.exit("evaluated_rows.py: a process of the comparison ended (see above)")
    return json.loads(line)


def answer() -> None:
    """Be the process of a checkout."""
    folder, model_name, rows_file, num_rows, max_tokens, _ = sys.argv[1:]
    sys.path.insert(0, str(Path(folder) / "benchmarks"))
    speed = importlib.import_module("evaluation_speed")
    out, sys.stdout = sys.stdout, sys.stderr
    settings = speed.ModelSettings(base_model=model_name, dtype="float32")
    model = speed.adapt(settings, None, options=speed.EncodeOptions(2048), seed=0)
    model.network.eval()
    rows = speed.short_rows(Path(rows_file), model, int(num_rows))
    for line in sys.stdin:
        way, begin, end = json.loads(line)
        started = time.perf_counter()
        texts = getattr(speed, way)(model, rows[begin:end], int(max_tokens))
        taken = {"seconds": time.perf_counter() - started, "texts": texts}
        print(json.dumps(taken), file=out, flush=True)


if __name__ == "__main__":
    answer()
