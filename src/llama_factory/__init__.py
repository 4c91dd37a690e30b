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

from llama_factory.core import __version__

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
    from llama_factory.evaluation.suites import SuiteResult
    from llama_factory.inference.question import Answer
    from llama_factory.jobs.model_reference import ModelReference
    from llama_factory.jobs.train import TrainReport
    from llama_factory.operate import serve
    from llama_factory.rounds.finishing import Round
    from llama_factory.rounds.gate import Verdict
    from llama_factory.run import adopt, consolidate, init, learn, promote, rollback, train
    from llama_factory.serving.chat import ChatModel, ChatSession
    from llama_factory.use import chat, evaluate, export, load, local_writers, predict
    from llama_factory.versions.version import ModelVersion
    from llama_factory.versions.workspace import Workspace

_HOMES = {
    "llama_factory.run": "init adopt learn consolidate promote rollback train",
    "llama_factory.use": "evaluate predict export load chat local_writers",
    "llama_factory.operate": "serve",
    "llama_factory.cli.terminal": "TerminalProgress",
    "llama_factory.core.errors": "FactoryError ConfigError DataError ModelError VersionError"
    " ServingError",
    "llama_factory.core.progress": "Progress",
    "llama_factory.core.types": "Message",
    "llama_factory.evaluation.suites": "SuiteResult",
    "llama_factory.inference.question": "Answer",
    "llama_factory.jobs.model_reference": "ModelReference",
    "llama_factory.jobs.train": "TrainReport",
    "llama_factory.rounds.finishing": "Round",
    "llama_factory.rounds.gate": "Verdict",
    "llama_factory.serving.chat": "ChatModel ChatSession",
    "llama_factory.versions.version": "ModelVersion",
    "llama_factory.versions.workspace": "Workspace",
}
"""Module: the public names that come from it."""
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
    "adopt",
    "chat",
    "consolidate",
    "evaluate",
    "export",
    "init",
    "learn",
    "load",
    "local_writers",
    "predict",
    "promote",
    "rollback",
    "serve",
    "train",
]


if not TYPE_CHECKING:  # type checkers would believe that there is every name

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used (PEP 562)."""
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """All public names, also those that nobody used yet."""
    return sorted({*globals(), *__all__})
