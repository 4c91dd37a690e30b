"""A run in the processes of a Ray cluster: what asks for it, and that it survives a lost one."""

import importlib.util
import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from llama_factory import run
from llama_factory.cli.launching import place_of
from llama_factory.config.loading import load_config
from llama_factory.core.errors import ConfigError
from llama_factory.core.files import read_json, read_jsonl
from llama_factory.core.progress import SILENT
from llama_factory.core.signals import TRY_AGAIN
from llama_factory.jobs.on_ray import address_of, require
from tests.cli.stopping import asked_to_stop, kept_steps
from tests.model.adapters.test_runs import write_rows
from tests.rounds.rounds import at_rest
from tests.tiny import make_tiny_model

HAS_RAY = importlib.util.find_spec("ray") is not None
NUM_STEPS = 120


@pytest.mark.parametrize(
    ("place", "address"), [("ray", None), ("ray://10.0.0.1:10001", "ray://10.0.0.1:10001")]
)
def test_a_place_is_a_cluster_of_ray(place, address):
    assert address_of(place) == address


@pytest.mark.parametrize("place", ["slurm", "ray://", "rays"])
def test_other_places_are_refused(place):
    with pytest.raises(ConfigError, match="runs start here, or on a Ray cluster. Write ray for"):
        address_of(place)


@pytest.mark.parametrize(
    ("on", "environment", "place"),
    [
        ("", {}, ""),
        ("", {"USE_RAY": "1"}, "ray"),
        ("", {"USE_RAY": "0"}, ""),
        ("ray://a:1", {"USE_RAY": "1"}, "ray://a:1"),
    ],
)
def test_llama_factorys_variable_means_the_same(on, environment, place):
    assert place_of(on, environment) == place


def test_llama_factorys_keys_are_settings():
    flat = {"ray_num_workers": 4, "ray_init_kwargs": {"include_dashboard": False}}
    ray = load_config({"stage": "sft", "model_name_or_path": "x", **flat}).ray
    assert (ray.workers, ray.init) == (4, {"include_dashboard": False})
    assert load_config({"stage": "sft", "model_name_or_path": "x"}).ray.workers == 1


@pytest.mark.skipif(HAS_RAY, reason="for machines without Ray")
def test_what_is_missing_is_told_with_how_to_install_it():
    with pytest.raises(
        ConfigError, match=r"not installed: pip install 'llama-factory-continual\[ray"
    ):
        require()


def changes_of(tiny, folder, rows):
    return [
        f"model.base_model={tiny}",
        f"data.train_path={rows}",
        f"output_dir={folder}",
        f"training.max_steps={NUM_STEPS}",
        "training.batch_size=4",
        "training.checkpoint_steps=5",
        "training.learning_rate=0.001",
        "training.report_to=none",
        "model.dtype=float32",
        "evaluation.max_new_tokens=4",
        "ray.workers=2",
        'ray.init={"num_cpus": 2, "include_dashboard": false}',
    ]


def workers_of(process):
    """Processes that train, among those that a command has started."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [each for each in found if "RayTrainWorker" in " ".join(each.cmdline())]


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="needs Ray: pip install '.[ray]'")
def test_a_round_is_made_in_a_process_of_the_cluster_and_its_problems_are_told(tmp_path):
    workspace = run.init(tmp_path / "bot", str(make_tiny_model(tmp_path / "tiny")))
    write_rows(workspace.inbox / "first.jsonl", "one")
    at_rest(workspace.inbox / "first.jsonl")
    command = [sys.executable, "-m", "llama_factory", "learn", str(workspace.folder)]
    command += ["--on", "ray", "--set", "training.max_steps=2", "--set", "model.dtype=float32"]
    command += ["--set", 'ray.init={"num_cpus": 1, "include_dashboard": false}']
    command += ["--set", "ray.max_failures=0", "--json"]
    quiet = {**os.environ, "RAY_memory_monitor_refresh_ms": "0", "OMP_NUM_THREADS": "1"}
    pipes = {"capture_output": True, "text": True, "env": quiet}
    done = subprocess.run([*command, "--intent", "7"], **pipes)
    assert done.returncode == 2, done.stderr
    assert "llama-factory: " in done.stderr
    done = subprocess.run(command, **pipes)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["round"]["version"] == "v0001"


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="needs Ray: pip install '.[ray]'")
def test_a_command_that_is_asked_to_stop_lets_its_processes_save_and_the_next_goes_on(tmp_path):
    tiny, rows = make_tiny_model(tmp_path / "tiny"), tmp_path / "rows.jsonl"
    write_rows(rows, "one")
    words = [*changes_of(tiny, tmp_path / "many", rows), "training.checkpoint_steps=1000"]
    assert asked_to_stop(["--on", "ray", *words], tmp_path / "many", num_updates=12) == TRY_AGAIN
    num_done = len([*read_jsonl(tmp_path / "many/metrics.jsonl")])
    assert num_done < NUM_STEPS
    assert kept_steps(tmp_path / "many") == [num_done]
    assert not [*tmp_path.glob(".ray-*")]
    run.train(None, words, SILENT)
    run.train(None, changes_of(tiny, tmp_path / "one", rows), SILENT)
    one, many = ([*read_jsonl(tmp_path / name / "metrics.jsonl")] for name in ("one", "many"))
    assert [row["step"] for row in many] == list(range(1, NUM_STEPS + 1))
    assert [row["loss"] for row in many] == pytest.approx([row["loss"] for row in one], rel=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="needs Ray: pip install '.[ray]'")
def test_a_killed_process_is_started_again_and_the_run_ends_as_if_undisturbed(tmp_path):
    tiny, rows = make_tiny_model(tmp_path / "tiny"), tmp_path / "rows.jsonl"
    write_rows(rows, "one")
    words = changes_of(tiny, tmp_path / "many", rows)
    command = [sys.executable, "-m", "llama_factory", "train", "--on", "ray", *words]
    quiet = {**os.environ, "RAY_memory_monitor_refresh_ms": "0", "OMP_NUM_THREADS": "1"}
    metrics, printed = tmp_path / "many/metrics.jsonl", tmp_path / "printed.txt"
    with (
        printed.open("w") as out,
        subprocess.Popen(command, env=quiet, stdout=out, stderr=out) as job,
    ):
        while not metrics.exists() or metrics.read_text().count("\n") < 12:
            assert job.poll() is None, printed.read_text()
            time.sleep(0.01)
        workers_of(job)[-1].kill()
        assert metrics.read_text().count("\n") < NUM_STEPS
        assert job.wait(400) == 0, printed.read_text()
    assert "Going on after step" in printed.read_text()
    run.train(None, changes_of(tiny, tmp_path / "one", rows), SILENT)
    one, many = ([*read_jsonl(tmp_path / name / "metrics.jsonl")] for name in ("one", "many"))
    assert [row["step"] for row in many] == list(range(1, NUM_STEPS + 1))
    for name in ("loss", "gradient_norm"):
        assert [row[name] for row in many] == pytest.approx([row[name] for row in one], rel=1e-3)
    assert read_json(tmp_path / "many/all_results.json")["training"]["steps"] == NUM_STEPS
