"""A watcher whose rounds run in this process: tests of it need not wait for Python to start."""

import contextlib
import io
import json

from llama_factory import oversee
from llama_factory.core.errors import FactoryError
from llama_factory.rounds import watch
from llama_factory.rounds.round_process import ProcessEnd
from llama_factory.versions.journal import Journal

LOOP = """
loop:
  triggers: [{type: rows, at_least: 10}]
  cooldown: 0s
  settle_seconds: 0
  timezone: UTC
  retry: {times: 1, backoff: 0s}
"""


class InThisProcess:
    """Stands in for `RoundProcess`: the same command, done at once.

    Attributes:
        begun: the words of every command.
        fails: the next ones end with this code and error.
    """

    def __init__(self):
        self.begun = []
        self.fails = []

    def __call__(self, workspace, words, settings):
        self.begun.append(words)
        end = self.fails.pop(0) if self.fails else _run(words)
        return _Done(end)


class _Done:
    def __init__(self, end):
        self.poll = lambda: end
        self.stop = lambda: None


def _run(words):
    from llama_factory.cli.app import app

    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            app(words, standalone_mode=False)
    except FactoryError as error:
        return ProcessEnd(2, {}, str(error))
    return ProcessEnd(0, json.loads(out.getvalue()))


class Bench:
    """A workspace, its watcher, and a clock that a test sets."""

    def __init__(self, workspace, processes, clock=None):
        self.workspace = workspace
        self.processes = processes
        self.events = []
        self.watcher = oversee.watcher(workspace.folder, report=self.events.append)
        if clock is not None:
            self.watcher._clock = self.watcher._view.clock = clock

    @property
    def rounds(self):
        """How many commands were begun."""
        return len(self.processes.begun)

    def tick(self, times=1):
        """Look so often; one more look sees the end of what the last one began."""
        for _ in range(times):
            self.watcher.tick()
        self.watcher._outbox.finish()
        return self.watcher.status

    def what(self, *kinds):
        """The kinds of all events in the journal, or only these."""
        return [each.what for each in Journal(self.workspace.journal).events(what=kinds)]


def make_bench(workspace, monkeypatch, loop=LOOP, clock=None):
    """A watcher of a workspace with these settings of the loop."""
    text = workspace.settings.read_text()
    workspace.settings.write_text(text.partition("\nloop:")[0] + loop)
    processes = InThisProcess()
    monkeypatch.setattr(watch, "RoundProcess", processes)
    return Bench(workspace, processes, clock)
