"""A workspace that learns on a tiny model, and what is dropped into it."""

import json
import os

from llama_factory import run
from llama_factory.core.progress import SILENT

SETTINGS = """\
model: {{base_model: {model}, dtype: float32, adapter: {{type: lora, rank: 4}}}}
data: {{held_out_fraction: 0.2}}
training: {{epochs: 2, learning_rate: 1e-2, checkpoint_steps: 2}}
evaluation: {{max_new_tokens: 4}}
gate: {{max_guard_ratio: 100, max_drop: 1}}
"""


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
