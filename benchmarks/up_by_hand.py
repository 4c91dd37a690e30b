"""What a person waits for with `llama-factory up`: a file copied in, a document, a way back.

A new workspace is put up as it would be by hand: the server and the watcher by one command. Rows
are copied into the inbox and a document beside them; then the new version is asked about the rows,
the document is asked about, and the release is taken back while the server runs. The watcher, the
gate and the server decide everything; nothing is promoted by hand. Usage: up_by_hand.py
[--model NAME] [--folder FOLDER] [--out FILE]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parent))

from common import print_table, write_results
from feedback_way import command, timed

import llama_factory
from llama_factory.versions import releases

ROWS = Path(llama_factory.__file__).parent / "demo" / "round1"
SETTINGS = (
    "loop.triggers=[{type: rows, at_least: 20}]",
    "loop.settle_seconds=2",
    "loop.train={nice: 10, threads: 2}",
)
TAUGHT = "How many months of warranty does the pump of the Lumora One have?"
DOCUMENT = "# Spare parts\n\n## Steam nozzle\n\nA steam nozzle for the Lumora One costs 17 euros.\n"
LOOKED_UP = "What does a steam nozzle for the Lumora One cost?"
PATIENCE = 900.0
"""Seconds after which a step has failed."""


def main() -> None:
    """Go the way once and print how long each step took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--folder", type=Path, help="a new workspace, which is kept")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results = way(options.folder or Path(temporary) / "demo-bot", options.model)
    print_table("Seconds", ["step", "seconds"], [*map(list, results["seconds"].items())])
    for name in ("before", "after", "document", "back"):
        print(f"{name}: {results[name]}")
    write_results(options.out, results)


def way(folder: Path, model: str) -> dict[str, Any]:
    """From a new folder to a release that was taken back; what was answered at each step."""
    seconds: dict[str, float] = {}
    with timed(seconds, "init"):
        command("init", folder, "--model", model)
    began = time.perf_counter()
    with up(folder) as url:
        seconds["up to the first answer"] = time.perf_counter() - began
        results: dict[str, Any] = {"model": model, "before": ask(url, TAUGHT)["text"]}
        with timed(seconds, "a file of rows to the version that answers"):
            for path in ROWS.glob("*.jsonl"):
                shutil.copy(path, folder / "inbox" / path.name)
            version = released(folder)
            wait_for(url, version)
        results |= {"version": version, "after": ask(url, TAUGHT)["text"]}
        with timed(seconds, "a document to the first answer from it"):
            (folder / "knowledge").mkdir(exist_ok=True)
            (folder / "knowledge" / "parts.md").write_text(DOCUMENT, encoding="utf-8")
            results["document"] = from_document(url)
        with timed(seconds, "rollback to the first answer of the version before"):
            command("rollback", folder)
            wait_for(url, "v0000")
        results["back"] = ask(url, TAUGHT)["text"]
    results["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    return results


@contextmanager
def up(folder: Path) -> Iterator[str]:
    """Everything by one command; gives the API's address once it answers."""
    words = [word for each in SETTINGS for word in ("--set", each)]
    run = subprocess.Popen(
        [sys.executable, "-m", "llama_factory", "up", str(folder), "--port", "0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert run.stdout is not None
        with (folder.parent / f"{folder.name}.log").open("w", encoding="utf-8") as log:
            line = ""
            while " answers on " not in line:
                line = next(run.stdout)
                log.write(line)
        log_of_the_rest = subprocess.Popen(["cat"], stdin=run.stdout, stdout=subprocess.DEVNULL)
        yield line.rpartition(" answers on ")[2].strip()
        log_of_the_rest.terminate()
    finally:
        run.terminate()
        run.wait()


def ask(url: str, question: str, **more: Any) -> dict[str, Any]:
    """The likeliest answer, and the passages that it was made from."""
    body = {"model": "production", "messages": [{"role": "user", "content": question}]}
    options = {"temperature": 0, "max_tokens": 40}
    answer = httpx.post(f"{url}/chat/completions", json=body | options | more, timeout=120)
    answer.raise_for_status()
    values = answer.json()
    text = values["choices"][0]["message"]["content"].strip()
    return {"text": text, "citations": values.get("citations", [])}


def from_document(url: str) -> str:
    """Ask until the document is among the passages."""
    for _ in waiting("the document is found"):
        with suppress(httpx.HTTPStatusError):  # no documents yet
            answer = ask(url, LOOKED_UP, knowledge={"use": True})
            if any(each["file"] == "parts.md" for each in answer["citations"]):
                return str(answer["text"])
    raise AssertionError("waiting ends by itself")


def released(folder: Path) -> str:
    """The version that the watcher's round released."""
    for _ in waiting("a round is released"):
        production = releases.read(folder / "releases.json").production
        if production != "v0000":
            return production
    raise AssertionError("waiting ends by itself")


def wait_for(url: str, version: str) -> None:
    """Return once the server answers with a version."""
    for _ in waiting(f"{version} answers"):
        if httpx.get(url.removesuffix("/v1") + "/health").json()["version"] == version:
            return


def waiting(what: str) -> Iterator[None]:
    """Look twice a second.

    Raises:
        TimeoutError: in vain.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        yield
        time.sleep(0.5)
    raise TimeoutError(f"in vain: {what}")


if __name__ == "__main__":
    main()
