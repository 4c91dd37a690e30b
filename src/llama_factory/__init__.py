"""LLaMA Factory, continual edition: a language model that keeps learning for its whole life.

    import llama_factory as lf

    bot = lf.init("my-bot")             # then put files into my-bot/inbox
    lf.learn(bot)                       # teach them; released if it is better
    lf.load(bot).chat("Hello")          # ask it
    lf.train("sft.yaml")                # a single run without a workspace

Everything is imported when it is first used: `import llama_factory` loads no other library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llama_factory.core.version import __version__

if TYPE_CHECKING:
    from llama_factory.cli.terminal import TerminalProgress
    from llama_factory.core.errors import (
        ConfigError,
        DataError,
        FactoryError,
        ModelError,
        ServingError,
        VersionError,
    )
    from llama_factory.core.progress import Progress
    from llama_factory.core.types import Message
    from llama_factory.evaluation.suites.running import SuiteResult
    from llama_factory.inference.engine import Answer
    from llama_factory.jobs.model_reference import ModelReference
    from llama_factory.jobs.train import TrainReport
    from llama_factory.rounds.finishing import Round
    from llama_factory.rounds.gate import Verdict
    from llama_factory.run import (
        chat,
        consolidate,
        evaluate,
        export,
        init,
        learn,
        load,
        predict,
        promote,
        rollback,
        serve,
        train,
    )
    from llama_factory.serving.chat import ChatModel, ChatSession
    from llama_factory.versions.version import ModelVersion
    from llama_factory.versions.workspace import Workspace

_HOMES = {
    "run": "init learn consolidate promote rollback train evaluate predict export load chat serve",
    "cli.terminal": "TerminalProgress",
    "core.errors": "FactoryError ConfigError DataError ModelError VersionError ServingError",
    "core.progress": "Progress",
    "core.types": "Message",
    "evaluation.suites.running": "SuiteResult",
    "inference.engine": "Answer",
    "jobs.model_reference": "ModelReference",
    "jobs.train": "TrainReport",
    "rounds.finishing": "Round",
    "rounds.gate": "Verdict",
    "serving.chat": "ChatModel ChatSession",
    "versions.version": "ModelVersion",
    "versions.workspace": "Workspace",
}
"""The module below this one that each public name comes from."""
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Answer",
    "ChatModel",
    "ChatSession",
    "ConfigError",
    "DataError",
    "FactoryError",
    "Message",
    "ModelError",
    "ModelReference",
    "ModelVersion",
    "Progress",
    "Round",
    "ServingError",
    "SuiteResult",
    "TerminalProgress",
    "TrainReport",
    "Verdict",
    "VersionError",
    "Workspace",
    "__version__",
    "chat",
    "consolidate",
    "evaluate",
    "export",
    "init",
    "learn",
    "load",
    "predict",
    "promote",
    "rollback",
    "serve",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All public names, also those that nobody used yet."""
    return sorted({*globals(), *__all__})
