"""A version goes to a registry that other programs read: a model hub, or MLflow's.

What arrives is a plain PEFT folder with what the gate measured; the workspace stays the truth.
"""

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_factory.core.errors import VersionError, first_line
from llama_factory.jobs.upload import LEFT_HERE, hub_refusals
from llama_factory.model import provenance
from llama_factory.rounds.gate import read_verdict
from llama_factory.versions.description import Described, describe
from llama_factory.versions.workspace import Workspace

EXPERIMENT = "llama-factory"
"""Of MLflow, for the runs that versions belong to."""
ARTIFACT = "adapter"
UNTAKEN = re.compile(r"[^\w.\- :/]")
"""What MLflow takes in no name of a metric."""
SHOWN_CHARACTERS = 5000
"""Of a description; MLflow refuses much longer ones."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Published:
    """Where a version is now.

    Attributes:
        version: its id here.
        target: as it was named.
        place: an address, or what the registry calls it.
        aliases: that point to it there too.
    """

    version: str
    target: str
    place: str
    aliases: tuple[str, ...]


def publish(workspace: Workspace, name: str, target: str, *, is_private: bool = True) -> Published:
    """Put a version into a registry, where the aliases that point to it here point to it too.

    Args:
        workspace: whose version.
        name: id, alias or tag.
        target: `hf:OWNER/NAME` or `mlflow:NAME`.
        is_private: of a repository of a hub that is made.

    Raises:
        VersionError: it is damaged, it is the base model, plain PEFT cannot load it, or the
            registry refuses it or cannot be reached.
    """
    kind, _, place = target.partition(":")
    if kind not in WRITERS or not place:
        raise VersionError(
            f"--to: '{target}' is no registry. Write hf:OWNER/NAME for a model hub, or mlflow:NAME "
            "for a registered model of MLflow."
        )
    known = describe(workspace, name)
    known.version.verify()
    folder = _plain_adapter(workspace, known)
    return WRITERS[kind](known, folder, place, is_private)


def _plain_adapter(workspace: Workspace, known: Described) -> Path:
    version = known.version
    if version.adapter is None:
        raise VersionError(
            f"{version.id} is the base model, {version.base_model}: there is nothing of its own to "
            "publish. Name a version that was taught something."
        )
    if len(provenance.with_merged((version.adapter,))) > 1:
        raise VersionError(
            f"{version.id} stands on updates that were consolidated, and an adapter alone would "
            "be another model elsewhere. Merge it and upload that: llama-factory export "
            f"{workspace.folder}@{version.id} merged/, then hf upload OWNER/NAME merged/."
        )
    return version.adapter


def _to_hub(known: Described, folder: Path, place: str, is_private: bool) -> Published:
    """One commit a version, tagged with its id; tags of aliases move."""
    from huggingface_hub import HfApi

    version_id, api = known.version.id, HfApi()
    try:
        made = api.create_repo(place, private=is_private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            ignore_patterns=[*LEFT_HERE],
            commit_message=f"{version_id}: {_summary(known)}",
        )
        held = {each.name for each in api.list_repo_refs(made.repo_id).tags}
        for tag in (version_id, *known.aliases):
            if tag in held:
                api.delete_tag(made.repo_id, tag=tag)
            api.create_tag(made.repo_id, tag=tag, revision=commit.oid)
    except hub_refusals() as error:
        raise VersionError(
            f"--to: 'hf:{place}' could not be written to ({first_line(error)}). Check the name, "
            f"HF_TOKEN and the connection; the version stays as it is in {folder}."
        ) from error
    return Published(version_id, f"hf:{place}", f"{made}/tree/{version_id}", known.aliases)


def _to_mlflow(known: Described, folder: Path, place: str, is_private: bool) -> Published:
    """A run with scores, its adapter as artifact, and a version of the registered model."""
    if importlib.util.find_spec("mlflow") is None:
        raise VersionError(
            "--to: mlflow is not installed. Run pip install 'llama-factory-continual[mlflow]'."
        )
    mlflow: Any = importlib.import_module("mlflow")  # an extra: types are not at hand
    exceptions: Any = importlib.import_module("mlflow.exceptions")
    version = known.version
    tags = {"version": version.id, "parent": version.parent, "base_model": version.base_model}
    try:
        mlflow.set_experiment(EXPERIMENT)
        with mlflow.start_run(run_name=f"{place} {version.id}", tags=tags) as run:
            mlflow.log_metrics(dict(_scores(known)))
            mlflow.log_artifacts(str(folder), ARTIFACT)
        client = mlflow.MlflowClient()
        _register(client, exceptions.MlflowException, place)
        made = client.create_model_version(
            place,
            source=f"{run.info.artifact_uri}/{ARTIFACT}",
            run_id=run.info.run_id,
            tags=tags,
            description=_summary(known)[:SHOWN_CHARACTERS],
        )
        for alias in known.aliases:
            client.set_registered_model_alias(place, alias, made.version)
    except exceptions.MlflowException as error:
        raise VersionError(
            f"--to: MLflow did not take 'mlflow:{place}' ({first_line(error)}). Check the name and "
            f"MLFLOW_TRACKING_URI; the version stays as it is in {version.folder}."
        ) from error
    return Published(
        version.id, f"mlflow:{place}", f"models:/{place}/{made.version}", known.aliases
    )


def _register(client: Any, refused: type[Exception], name: str) -> None:
    """Make the registered model where there is none."""
    try:
        client.create_registered_model(name)
    except refused as error:
        if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
            raise


def _scores(known: Described) -> Iterator[tuple[str, float]]:
    """What the round measured, as names that registries take."""
    scores = known.version.scores
    for task in scores.tasks.values():
        for metric, value in task.scores.items():
            yield UNTAKEN.sub("_", f"{task.task}/{metric}"), float(value)
    if scores.guard_perplexity is not None:
        yield "general/perplexity", scores.guard_perplexity


def _summary(known: Described) -> str:
    """One line: what the gate said, then what people wrote."""
    verdict = read_verdict(known.report)
    said = verdict.summary if verdict else "not judged"
    return "; ".join([said, *(f"{note.who}: {note.text}" for note in known.notes)])


WRITERS = {"hf": _to_hub, "mlflow": _to_mlflow}
