"""Files of deployment name only what the program has, and keep the rules of docs/deployment.md."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from llama_factory.cli.app import app
from llama_factory.core.signals import TRY_AGAIN
from llama_factory.serving.settings import ServingSettings
from llama_factory.training.settings import TrainingSettings

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile*"))
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
MANIFESTS = sorted((ROOT / "deploy/kubernetes/base").glob("*.yaml"))
COMMANDS = set(get_command(app).commands)
USER = 10001


def objects():
    found = [doc for path in MANIFESTS for doc in yaml.safe_load_all(path.read_text("utf-8"))]
    return {(doc["kind"], doc["metadata"]["name"]): doc for doc in found if "metadata" in doc}


OBJECTS = objects()
PODS = {
    name: OBJECTS[name]["spec"]["template"]["spec"]
    for name in [("Deployment", "server"), ("StatefulSet", "watcher")]
}
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
OURS = {name: COMPOSE["services"][name] for name in ("server", "watcher")}


def words_of(dockerfile, name):
    """The JSON words of the last instruction of that name."""
    text = dockerfile.read_text("utf-8").replace("\\\n", " ")
    return json.loads(re.findall(rf"^{name} (\[.*\])$", text, re.M)[-1])


def commands():
    for path in DOCKERFILES:
        yield path.name, words_of(path, "CMD")
    for name, service in OURS.items():
        yield f"compose {name}", service["command"]
    for (_, name), pod in PODS.items():
        yield f"kubernetes {name}", pod["containers"][0]["args"]
    for path in UNITS:
        (line,) = re.findall(r"^ExecStart=(.*)$", path.read_text("utf-8"), re.M)
        yield path.name, shlex.split(line)[1:]
    run = yaml.safe_load((ROOT / "deploy/skypilot/round.yaml").read_text("utf-8"))["run"]
    yield "skypilot", shlex.split(run)[1:]


@pytest.mark.parametrize(("where", "words"), commands(), ids=lambda value: str(value)[:30])
def test_every_command_is_one_of_the_program(where, words):
    command, *rest = words
    assert command in COMMANDS, where
    options = {flag for each in get_command(app).commands[command].params for flag in each.opts}
    assert {word for word in rest if word.startswith("--")} <= options


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_run_as_nobody_special_and_are_asked_how_they_are(path):
    text = path.read_text("utf-8")
    assert f"USER {USER}:{USER}" in text
    assert words_of(path, "ENTRYPOINT") == ["llama-factory"]
    assert "EXPOSE 8000" in text
    assert ServingSettings().port == 8000
    script = json.loads(re.findall(r"HEALTHCHECK[^\n]*\\\n\s+CMD (\[.*\])", text)[0])
    assert "/health" in script[-1]
    compile(script[-1], "health", "exec")
    copied = re.findall(r"^COPY ([^-].*) \S+$", text, re.M)
    for name in [name for line in copied for name in line.split()]:
        assert (ROOT / name).exists(), name


def test_what_an_image_is_built_from_is_not_left_out_of_it():
    kept = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert kept[0] == "*"
    copied = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "src"}
    assert {line[1:] for line in kept if line.startswith("!")} == copied


@pytest.mark.parametrize("name", OURS)
def test_services_may_do_little(name):
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["stop_grace_period"] == "2m"
    assert "bot:/bot" in service["volumes"]
    ports = service.get("ports", [])
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", PODS, ids=str)
def test_pods_may_do_little(name):
    pod, container = PODS[name], PODS[name]["containers"][0]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == USER
    safe = container["securityContext"]
    assert safe["readOnlyRootFilesystem"] is True
    assert safe["capabilities"] == {"drop": ["ALL"]}
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert mounts == {"/bot", "/cache", "/tmp"}
    assert {each["name"] for each in container["volumeMounts"]} == {
        v["name"] for v in pod["volumes"]
    }


def test_an_update_leaves_no_moment_without_an_answer():
    spec = OBJECTS["Deployment", "server"]["spec"]
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    (container,) = spec["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > wait + 60


def test_selectors_meet_the_pods():
    for kind, name in [("Deployment", "server"), ("StatefulSet", "watcher")]:
        spec = OBJECTS[kind, name]["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels
        assert OBJECTS["NetworkPolicy", name]["spec"]["podSelector"]["matchLabels"] == labels
        assert OBJECTS["Service", name]["spec"]["selector"] == labels
    assert OBJECTS["StatefulSet", "watcher"]["spec"]["replicas"] == 1
    assert "ingress" not in OBJECTS["NetworkPolicy", "watcher"]["spec"]
    budget = OBJECTS["PodDisruptionBudget", "server"]["spec"]["selector"]["matchLabels"]
    assert budget == {"app.kubernetes.io/component": "server"}


def test_kustomizations_name_files_that_are_there():
    for path in (ROOT / "deploy/kubernetes").rglob("kustomization.yaml"):
        values = yaml.safe_load(path.read_text("utf-8"))
        for name in values["resources"]:
            assert (path.parent / name).exists(), f"{path}: {name}"


def test_a_round_on_a_machine_that_vanishes_comes_again_by_its_code():
    job = yaml.safe_load((ROOT / "deploy/skypilot/round.yaml").read_text("utf-8"))
    assert job["resources"]["job_recovery"]["recover_on_exit_codes"] == [TRY_AGAIN]
    guide = (ROOT / "docs/deployment.md").read_text("utf-8")
    (shown,) = re.findall(r"```yaml\n(training:.*?)```", guide, re.S)
    TrainingSettings.model_validate(yaml.safe_load(shown)["training"])


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_are_such_to_systemd(path, tmp_path):
    text = path.read_text("utf-8")
    assert "ProtectSystem=strict" in text
    assert "User=llama-factory" in text
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / path.name.replace("@", "@bot")
    unit.write_text(text.replace("/opt/llama-factory/.venv/bin/llama-factory", sys.executable))
    done = subprocess.run([program, "verify", unit], capture_output=True, text=True, check=False)
    assert "Unknown" not in done.stderr, done.stderr
    assert "Failed to parse" not in done.stderr, done.stderr
