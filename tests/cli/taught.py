"""A workspace that was taught two rounds, and commands run in this process."""

import contextlib
import io
import json
import signal
import sys
import warnings
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

from typer.testing import CliRunner

from llama_factory import run
from llama_factory.cli.app import app, main
from llama_factory.core.progress import SILENT
from tests.tiny import make_tiny_model

EASY = [
    "gate.max_guard_ratio=999",
    "gate.max_drop=1",
    "training.max_steps=6",
    "training.learning_rate=0.02",
    "evaluation.max_new_tokens=6",
]
ROUNDS = (
    ("faq", [(f"Question {i}?", "yes" if i % 2 else "no") for i in range(12)]),
    ("售后", [(f"第{i}个问题<b>？", "可以" if i % 2 else "不行") for i in range(12)]),
)


def teach_two_rounds(folder: Path) -> Path:
    """A workspace with v0001 and v0002, both released, each with four held-out rows."""
    workspace = run.init(folder / "bot", str(make_tiny_model(folder / "tiny")))
    for name, pairs in ROUNDS:
        rows = [{"instruction": question, "output": answer} for question, answer in pairs]
        tests = [{"instruction": f"{q} 再问", "output": a} for q, a in pairs[:4]]
        write_rows(workspace.inbox / f"{name}.jsonl", rows)
        write_rows(workspace.inbox / f"{name}.test.jsonl", tests)
        done = run.learn(workspace.folder, EASY, SILENT)
        assert done is not None
        if not done.verdict.is_promoted:
            run.promote(workspace.folder, done.version.id)
            for file in workspace.inbox.iterdir():
                file.unlink()
    return workspace.folder


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """JSON lines."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def invoke(*args: object) -> str:
    """What a command prints."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exception is None, result.exception
    return result.stdout


def command(*args: object, cwd: Path | str = ".", typed: str = "") -> CompletedProcess[str]:
    """What the whole program prints and its exit code, run in this process: torch is there already.

    Args:
        args: the words after `llama-factory`.
        cwd: the folder that it is started in.
        typed: what a person types.
    """
    words = ["llama-factory", *map(str, args)]
    out, err = io.StringIO(), io.StringIO()
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(sys, "argv", words),
        patch.object(sys, "stdin", io.StringIO(typed)),
        warnings.catch_warnings(),
    ):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            for each, handler in handlers.items():
                signal.signal(each, handler)
    return CompletedProcess(words, code, out.getvalue(), err.getvalue())
