"""The verbs of whoever runs a server, each in a few lines; as those of `run.py`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llama_factory.config.changes import Changes
from llama_factory.config.loading import load_to_answer
from llama_factory.core.errors import VersionError
from llama_factory.jobs.model_reference import ModelLike, ModelReference
from llama_factory.versions import notes as remarks
from llama_factory.versions import store
from llama_factory.versions.notes import Notes
from llama_factory.versions.version import require_servable
from llama_factory.versions.workspace import PathLike, Workspace

if TYPE_CHECKING:
    from llama_factory.data.review.cases import Case
    from llama_factory.data.sources.feedback import Kind
    from llama_factory.jobs.feedback import FeedbackFilter, FeedbackRow
    from llama_factory.monitoring.observe import Health
    from llama_factory.serving.access import ApiKey
    from llama_factory.serving.canary_status import CanaryStatus
    from llama_factory.serving.server import Beside
    from llama_factory.serving.settings import ServingSettings
    from llama_factory.serving.users import PageUser


def serve(
    model: ModelLike,
    changes: Changes = (),
    log: Callable[[str], None] = print,
    *,
    beside: Beside | None = None,
) -> None:
    """Answer OpenAI-style requests until stopped; the key is the environment's API_KEY.

    Args:
        model: a workspace, whose release is followed; else as in `load`.
        changes: settings, such as `{"serving.port": 8000}`.
        log: takes what happens, a line at a time.
        beside: what else answers on the same port, such as the page.
    """
    with ModelReference.of(model).opened() as workspace:
        config = load_to_answer(workspace.settings, changes)
        from llama_factory.serving.server import serve as run_server

        run_server(
            workspace,
            config.serving,
            config.model,
            api_key=os.environ.get("API_KEY"),
            say=log,
            data=config.data,
            inference=config.inference,
            knowledge=config.knowledge,
            beside=beside,
        )


def serving_settings(folder: PathLike, changes: Changes = ()) -> ServingSettings:
    """Where and how the server of a workspace answers."""
    return load_to_answer(Workspace.open(folder).settings, changes).serving


def nobody_may_log_in(folder: PathLike, host: str) -> str:
    """Why the page is not opened at an address that others reach."""
    return (
        f"--server_name or serving.host: {host} opens the page to the network, and nobody may log "
        f"in yet. Add a user: llama-factory web {Path(folder)} users add NAME --role operator"
    )


def keys(folder: PathLike, changes: Changes = ()) -> tuple[ApiKey, ...]:
    """The keys of a workspace's API in the order of their creation, also those revoked."""
    from llama_factory.serving.keys import read_keys

    return read_keys(_keys_file(folder, changes))


def create_key(folder: PathLike, key: ApiKey, changes: Changes = ()) -> str:
    """Let a client in; running servers do within two seconds.

    Args:
        folder: the workspace.
        key: its name, scopes and limits.
        changes: see above.

    Returns:
        What the client sends. It is kept nowhere else.
    """
    from llama_factory.serving import keys as kept

    return kept.create_key(_keys_file(folder, changes), key)


def revoke_key(folder: PathLike, name: str, changes: Changes = ()) -> ApiKey:
    """End a key; running servers refuse it within two seconds, also in the middle of an answer."""
    from llama_factory.serving import keys as kept

    return kept.revoke_key(_keys_file(folder, changes), name)


def users(folder: PathLike) -> tuple[PageUser, ...]:
    """Who may log in to the page of a workspace, or of a folder of workspaces."""
    from llama_factory.serving.users import FILE, read_users

    return read_users(Path(folder) / FILE)


def add_user(folder: PathLike, name: str, role: str, password: str) -> PageUser:
    """Let somebody log in to the page; who may already gets this role and password."""
    from llama_factory.serving import users as kept

    return kept.add_user(_existing(folder) / kept.FILE, name, role, password)


def remove_user(folder: PathLike, name: str) -> None:
    """Let somebody log in no more; what they have open ends with the next click."""
    from llama_factory.serving import users as kept

    kept.remove_user(Path(folder) / kept.FILE, name)


def _existing(folder: PathLike) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise VersionError(f"{path}: there is no such folder. Make one with `llama-factory init`.")
    return path


def feedback(folder: PathLike, chosen: FeedbackFilter | None = None) -> list[FeedbackRow]:
    """What users said of a workspace's answers, with what people decided about it, oldest first."""
    from llama_factory.jobs.feedback import FeedbackFilter, list_feedback

    return list_feedback(Workspace.open(folder), chosen or FeedbackFilter())


def decide_feedback(
    folder: PathLike,
    ids: Sequence[str],
    reviewer: str,
    *,
    accept: bool,
    answer: str = "",
    why: str = "",
) -> list[Case]:
    """Decide whether rounds teach what users said; `answer` is the right one in place of theirs."""
    from llama_factory.jobs import feedback as jobs

    workspace = Workspace.open(folder)
    return jobs.decide_feedback(workspace, ids, reviewer, accept=accept, answer=answer, why=why)


def export_feedback(
    folder: PathLike,
    output: PathLike,
    chosen: FeedbackFilter | None = None,
    kinds: Sequence[Kind] = ("answer",),
) -> int:
    """Write what users said as rows into a new file; accepted or not, as `chosen` says."""
    from llama_factory.jobs import feedback as jobs

    workspace = Workspace.open(folder)
    return jobs.export_feedback(workspace, Path(output), chosen or jobs.FeedbackFilter(), kinds)


def _keys_file(folder: PathLike, changes: Changes) -> Path:
    workspace = Workspace.open(folder)
    return workspace.folder / load_to_answer(workspace.settings, changes).serving.keys


def canary(folder: PathLike, changes: Changes = ()) -> CanaryStatus:
    """How the trial of the candidate stands, with what was observed and what is missing."""
    workspace = Workspace.open(folder)
    settings = load_to_answer(workspace.settings, changes).serving.canary
    from llama_factory.serving.canary_status import read_status

    return read_status(workspace, settings)


def start_canary(
    folder: PathLike, version: str, fraction: float | None = None, changes: Changes = ()
) -> str:
    """Have running servers try a version on a fraction of callers, whatever the gate said.

    Returns:
        Its id.

    Raises:
        VersionError: there is no such version, it cannot answer, or it is the released one.
    """
    workspace = Workspace.open(folder)
    config = load_to_answer(workspace.settings, changes)
    chosen = store.get(workspace, version)
    require_servable(chosen, config.model.base_model)
    from llama_factory.serving import canary_store

    settings = config.serving.canary
    canary_store.start(workspace, chosen.id, settings.fraction if fraction is None else fraction)
    return chosen.id


def abort_canary(folder: PathLike) -> str:
    """Take the candidate back: no alias names it any more; returns its id."""
    from llama_factory.serving import canary_store

    return canary_store.abort(Workspace.open(folder))


def health(folder: PathLike) -> Health:
    """How a workspace stood when it was last observed; nothing is measured."""
    from llama_factory.monitoring.observe import health as stood

    return stood(Workspace.open(folder))


def notes(folder: PathLike) -> Notes:
    """All notes and tags of a workspace."""
    return remarks.read(Workspace.open(folder))


def up(
    folder: PathLike,
    changes: Sequence[str] = (),
    port: int | None = None,
    log: Callable[[str], None] = print,
    stop: threading.Event | None = None,
) -> None:
    """Keep the server and the watcher of a workspace running on this machine until stopped.

    The page is on the server's port, unless that is open to the network and nobody may log in.

    Args:
        folder: the workspace.
        changes: settings of both, as `key=value`.
        port: of the server; None for that of the settings.
        log: takes the lines of both, each after the name of the part.
        stop: ends it when it is set.

    Raises:
        ConfigError: one of them refuses its settings; its lines say why.
    """
    from llama_factory.jobs.supervisor import Supervisor, parts_of
    from llama_factory.serving.server import is_loopback

    workspace = Workspace.open(folder)
    host = serving_settings(workspace, changes).host
    has_page = is_loopback(host) or bool(users(workspace))
    if not has_page:
        log(f"The API alone is served: {nobody_may_log_in(workspace, host)}")
    parts = parts_of(str(workspace.folder), changes, port, has_page=has_page)
    Supervisor(parts, log).run(stop or threading.Event())
