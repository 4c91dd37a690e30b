"""`llama-factory runs` on folders as runs leave them."""

import json
import subprocess
import sys
import textwrap
import threading

import pytest
import typer
from filelock import FileLock
from typer.testing import CliRunner

from llama_factory.cli.jobs import runs
from llama_factory.core import files
from llama_factory.core.errors import ConfigError
from llama_factory.core.files import is_held
from llama_factory.training.monitor import TrainingFolders, is_written, monitored

app = typer.Typer()
app.command()(runs)


@app.callback()
def _several() -> None:
    """So that the command keeps its name."""


def told(*arguments):
    return CliRunner().invoke(app, ["runs", *map(str, arguments)], catch_exceptions=False).stdout


def log(folder, *losses, total=10):
    folder.mkdir(parents=True)
    rows = [
        {"current_steps": step, "total_steps": total, "loss": loss}
        for step, loss in enumerate(losses, start=1)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "trainer_log.jsonl").write_text(text)
    return folder


def states(folder):
    return {
        row["folder"].rsplit("/", 1)[-1]: row["state"] for row in json.loads(told(folder, "--json"))
    }


def test_runs_are_finished_or_stopped(tmp_path):
    (log(tmp_path / "done", 2.0, 1.0, total=2) / "adapter_model.safetensors").touch()
    log(tmp_path / "deep/er/killed", 3.0, 2.5)
    log(tmp_path / "v0001/checkpoints/not-a-run", 1.0)
    assert states(tmp_path) == {"done": "finished", "killed": "stopped"}
    rows = {row["folder"]: row for row in json.loads(told(tmp_path, "--json"))}
    killed = rows[str(tmp_path / "deep/er/killed")]
    assert (killed["step"], killed["num_steps"], killed["loss"]) == (2, 10, 2.5)
    assert killed["seconds_since"] >= 0


def test_a_run_is_running_while_its_process_lives(tmp_path):
    folder = log(tmp_path / "run", 3.0)
    code = """
        import sys, time
        from pathlib import Path
        from llama_factory.training.monitor import TrainingFolders, monitored
        here = Path(sys.argv[1])
        with monitored(TrainingFolders(here, here / "metrics.jsonl", here, here), [], done=0):
            print("ready", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(folder)], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    assert states(tmp_path) == {"run": "running"}
    process.kill()
    process.wait()
    assert states(tmp_path) == {"run": "stopped"}


def found_in(folder):
    """Every file with its content and times, as a look must leave them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path, path.read_bytes(), path.stat().st_mtime_ns) for path in paths]


def test_looking_on_changes_no_file(tmp_path):
    run, building = log(tmp_path / "run", 3.0), log(tmp_path / "bot/versions/.building", 3.0)
    (run / ".trainer_log.jsonl.lock").write_text("left by a killed run")
    (tmp_path / "bot/.round.lock").touch()
    before = found_in(tmp_path)
    assert states(tmp_path) == {"run": "stopped", ".building": "stopped"}
    assert found_in(tmp_path) == before
    assert building.is_dir()


@pytest.mark.slow
def test_a_run_and_a_round_begin_while_somebody_looks_on(tmp_path):
    folders = TrainingFolders(tmp_path, tmp_path / "metrics.jsonl", tmp_path, tmp_path)
    logs, lock = tmp_path / "trainer_log.jsonl", tmp_path / ".round.lock"
    lock.touch()
    is_over = threading.Event()

    def look():
        while not is_over.is_set():
            is_written(logs)
            is_held(lock)

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for each in lookers:
        each.start()
    try:
        for _ in range(50):
            (tmp_path / ".trainer_log.jsonl.lock").touch()
            with monitored(folders, [], done=0), files.locked(lock, what="learning", seconds=0):
                assert is_written(logs)
                assert is_held(lock)
    finally:
        is_over.set()
        for each in lookers:
            each.join()


def test_a_round_is_running_while_its_workspace_is_locked(tmp_path):
    log(tmp_path / "bot/versions/.building", 3.0)
    (log(tmp_path / "bot/versions/v0001", 1.0) / "report.json").touch()
    assert states(tmp_path) == {".building": "stopped", "v0001": "finished"}
    with FileLock(tmp_path / "bot/.round.lock"):
        assert states(tmp_path) == {".building": "running", "v0001": "finished"}


def test_a_run_before_its_first_step_and_one_caught_while_writing(tmp_path):
    log(tmp_path / "fresh")
    half = log(tmp_path / "half", 3.0)
    with (half / "trainer_log.jsonl").open("a") as file:
        file.write('{"current_st')
    rows = {row["folder"].rsplit("/", 1)[-1]: row for row in json.loads(told(tmp_path, "--json"))}
    assert (rows["fresh"]["step"], rows["fresh"]["num_steps"], rows["fresh"]["loss"]) == (
        0,
        None,
        None,
    )
    assert rows["half"]["step"] == 1


def test_the_table_shows_what_matters(tmp_path):
    log(tmp_path / "客服", 3.0, 2.25)
    line = next(line for line in told(tmp_path).splitlines() if "客服" in line)
    for part in ("stopped", "2/10", "2.250", "s ago"):
        assert part in line


def test_no_runs_and_no_folder_are_told(tmp_path):
    assert "no run was found here" in told(tmp_path)
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        told(tmp_path / "nowhere")
