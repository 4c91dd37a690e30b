"""The command `plan`."""

import json

import pytest
from typer.testing import CliRunner

from llama_factory.cli.app import app

PLAN = ["plan", "--model", "smollm2-135m", "--gpus", "2x24G", "--tokens", "512"]


def test_it_is_shown_for_people():
    shown = CliRunner().invoke(app, PLAN).output
    assert "Fewest that fit: 1 x 24G." in shown


def test_a_way_that_shares_says_how_it_is_set_and_what_is_whole_besides():
    words = ["plan", "--model", "llama3.1-70b", "--gpus", "8xA100-40", "--tokens", "4096"]
    shown = CliRunner().invoke(app, words).output
    assert "-> each holds a part (fsdp)" in shown
    assert "Train it with training.parallel=fsdp." in shown
    assert "the whole model once (132.2 GiB of weights); with training.parallel.whole=" in shown


@pytest.mark.slow
def test_it_is_shown_for_programs():
    found = json.loads(CliRunner().invoke(app, [*PLAN, "--json", "--method", "full"]).output)
    assert (found["chosen"]["adapter"], found["count"], found["run"]) == ("full", 2, None)
    assert found["fits"]
