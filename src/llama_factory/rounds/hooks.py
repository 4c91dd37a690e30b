"""Programs of the user's own that a version must pass before it is released."""

import shlex

from llama_factory.rounds.commands import run_command
from llama_factory.rounds.finishing import ReleaseCheck
from llama_factory.rounds.loop_settings import LoopSettings
from llama_factory.versions.version import REPORT, ModelVersion
from llama_factory.versions.workspace import Workspace


def checks_of(workspace: Workspace, settings: LoopSettings) -> ReleaseCheck | None:
    """What `before_promotion` comes to; None where nothing is asked.

    Each program is given the version's folder and its report as two arguments and as the variables
    VERSION_FOLDER and REPORT; WORKSPACE and VERSION name the rest.
    """
    if not settings.before_promotion:
        return None

    def check(version: ModelVersion) -> str:
        folder, report = str(version.folder), str(version.folder / REPORT)
        environment = {
            "WORKSPACE": str(workspace.folder),
            "VERSION": version.id,
            "VERSION_FOLDER": folder,
            "REPORT": report,
        }
        for line in settings.before_promotion:
            done = run_command(
                [*shlex.split(line), folder, report],
                "",
                folder=workspace.folder,
                timeout=settings.hook_timeout,
                environment=environment,
            )
            if done.problem:
                return f"{line} {done.problem}"
        return ""

    return check
