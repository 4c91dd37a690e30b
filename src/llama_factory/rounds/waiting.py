"""What waits to be taught, counted as a round would count it, but without a model."""

import hashlib
import json
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llama_factory.core.errors import VersionError
from llama_factory.core.progress import SILENT
from llama_factory.data import prepare
from llama_factory.data.prepare import DataFolders
from llama_factory.data.review.feedback import taken_feedback
from llama_factory.data.sources.files import source_of
from llama_factory.rounds import draft as drafts
from llama_factory.rounds import loop_sentences as texts
from llama_factory.rounds.feedback import RoundFeedback
from llama_factory.rounds.settings import LearningConfig
from llama_factory.versions import store
from llama_factory.versions.forgotten import read_forgotten
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace


@dataclass(frozen=True)
class WaitingRows:
    """What waits.

    Attributes:
        rows: new clean rows to teach or to hold out.
        files: SHA-256 by name of the files that hold them.
        useless: files without a new row, with the reason.
        identity: of these rows, the released version and the settings: a round on the same again
            comes to the same.
    """

    rows: int = 0
    files: Mapping[str, str] | None = None
    useless: Mapping[str, str] | None = None
    identity: str = ""


def decided_together(
    workspace: Workspace, config: LearningConfig, production: ModelVersion
) -> dict[str, frozenset[str]]:
    """Files about which it is decided what they come to together: SHA-256 by version.

    Those of versions that were made from the released one with these settings and are not released.
    """
    decided: dict[str, frozenset[str]] = {}
    for version_id in store.ids(workspace):
        try:
            version = ModelVersion.read(workspace.versions / version_id)
            if version.parent != production.id or version.is_base:
                continue
            if drafts.has_settings(version, config):
                taken: dict[str, str] = version.report.get("taken", {})
                decided[version_id] = frozenset(taken.values())
        except VersionError:
            continue  # what cannot be read decided nothing
    return decided


def decided_files(together: Mapping[str, frozenset[str]], lying: Collection[str]) -> dict[str, str]:
    """The files that nothing has to be tried with again: version by SHA-256.

    Where a file left the inbox, those that were refused together with it may do better alone.

    Args:
        together: SHA-256 by version, of files that were decided together.
        lying: SHA-256 of the files of the inbox.
    """
    known = frozenset(lying)
    listed = ((each, files) for each, files in together.items() if files <= known)
    return {digest: version for version, files in listed for digest in files}


def count_waiting(
    workspace: Workspace,
    config: LearningConfig,
    production: ModelVersion,
    files: Mapping[str, str],
) -> WaitingRows:
    """Count the new rows of files, of what people accepted and of what users said.

    Args:
        workspace: whose cache, review and feedback.
        config: settings; cleaning among them.
        production: the released version.
        files: SHA-256 by name of those files of the inbox that count.

    Raises:
        FactoryError: they cannot be read as the settings want it.
    """
    cache = workspace.cache / "data"
    seen = drafts.seen_by(production, cache)
    workspace.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="waiting-", dir=workspace.cache) as temporary:
        folder = Path(temporary)
        taken = taken_feedback(workspace.feedback, workspace.review, config.data.feedback)
        said = RoundFeedback(taken, config.training.objective, seen)
        paths = [workspace.inbox / name for name in files]
        sources = [
            *(replace(source_of(path), picture_folder=workspace.inbox) for path in paths),
            *drafts.accepted(workspace, seen, folder),
            *said.sources(folder),
        ]
        if not sources:
            return WaitingRows(files={}, useless={})
        folders = DataFolders(folder / "data", cache, workspace.review)
        data = prepare.prepare(
            sources,
            config.data,
            folders,
            seen=seen,
            forgotten=read_forgotten(workspace),
            progress=SILENT,
        )
        num_taught, num_tested = len(data.train), len(data.held_out)
        refused = {each.file: each.reason for each in data.refused() if each.line == 0}
    useful = {each.file for each in data.report.sets if each.num_kept}
    useless = {name: refused.get(name, texts.NO_NEW_ROW()) for name in files.keys() - useful}
    return WaitingRows(
        rows=num_taught + num_tested if num_taught else 0,
        files={name: digest for name, digest in files.items() if name in useful},
        useless=useless,
        identity=_identity(data.report.fingerprint, production, config),
    )


def _identity(fingerprint: str, production: ModelVersion, config: LearningConfig) -> str:
    parts = json.dumps([fingerprint, production.id, drafts.sections(config)], sort_keys=True)
    return hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()
