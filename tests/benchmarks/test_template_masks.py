"""The comparison with hand-marked templates runs from end to end, on templates of our own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llama_factory.model.chat.templates import find

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "template_masks.py"


@pytest.mark.slow
def test_template_masks(tmp_path):
    for name in ("llama3", "chatml"):
        marked = find(name).jinja
        (tmp_path / f"{name}_training.jinja").write_text(marked)
        plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", marked)
        (tmp_path / f"{name}.jinja").write_text(plain)
    (tmp_path / "some_vl_training.jinja").write_text("")
    out = tmp_path / "r.json"
    command = [sys.executable, SCRIPT, "--trl", tmp_path, "--quick", "--out", out]
    subprocess.run(command, check=True, capture_output=True)
    runs = {run["template"]: run for run in json.loads(out.read_text())["runs"]}
    assert runs["some_vl"]["kinds"] == {"skipped": 1}
    for name in ("llama3", "chatml"):
        assert runs[name]["kinds"] == {"equal": runs[name]["rows"]}
        assert runs[name]["ours"] == runs[name]["theirs"] > 0
