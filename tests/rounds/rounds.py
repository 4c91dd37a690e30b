"""A workspace that learns on a tiny model, and what is dropped into it."""

import functools
import json
import os
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import yaml

from llama_factory import run
from llama_factory.core.progress import SILENT
from llama_factory.reports import page
from llama_factory.versions import releases, store
from llama_factory.versions.workspace import Workspace

GUARD = Path(__file__).with_name("guard.jsonl")
"""Four general rows: the built-in ones take half the time of a tiny round."""

SETTINGS = """\
model: {{base_model: {model}, dtype: float32, adapter: {{type: lora, rank: 4}}}}
data: {{held_out_fraction: 0.2}}
training: {{epochs: 2, learning_rate: 1e-2, checkpoint_steps: 2}}
evaluation: {{max_new_tokens: 4, guard: GUARD}}
gate: {{max_guard_ratio: 100, max_drop: 1}}
""".replace("GUARD", str(GUARD))


class Listener:
    """Keeps what was said; the bars are silent."""

    def __init__(self):
        self.said = []
        self.bar = SILENT.bar

    def say(self, text):
        self.said.append(text)


def drop(workspace, name, count=20, start=0):
    rows = [
        {"instruction": f"{name} question {i}?", "output": f"{name} answer {i}."}
        for i in range(start, start + count)
    ]
    path = workspace.inbox / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return at_rest(path)


def at_rest(path):
    """A file as if it had lain there for a while: a round waits to see whether a new one grows."""
    os.utime(path, (1, 1))
    return path


def learn(workspace, *changes):
    listener = Listener()
    return run.learn(workspace.folder, changes, listener), listener.said


def teach(workspace, *names):
    """The first rounds of a new workspace, on 20 rows of each name; returns the released version.

    They are trained once a process and copied after that.
    """
    source = _taught(workspace.settings.read_text(), names)
    shutil.copytree(source, workspace.folder, dirs_exist_ok=True)
    return store.get(workspace, releases.PRODUCTION)


@functools.cache
def _workspaces():
    """Where workspaces that were taught lie for as long as the process lives."""
    return tempfile.TemporaryDirectory(prefix="taught-")


@functools.cache
def _taught(settings, names):
    """A workspace with these settings that was taught these rounds."""
    folder = Path(tempfile.mkdtemp(dir=_workspaces().name)) / "bot"
    if len(names) > 1:
        shutil.copytree(_taught(settings, names[:-1]), folder)
    else:
        run.init(folder, yaml.safe_load(settings)["model"]["base_model"])
        (folder / "factory.yaml").write_text(settings)
    workspace = Workspace.open(folder)
    drop(workspace, names[-1])
    with patch.object(page, "_drawn", lambda *_: (b"", b"")):
        done, _ = learn(workspace)
    assert done.is_released
    return folder
