"""The gate's noise and error rates in a workspace, from its stored rows."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from llama_factory import run
from llama_factory.cli.app import app
from llama_factory.core.errors import VersionError
from llama_factory.rounds.calibrate import calibrate, simulate
from llama_factory.rounds.settings import GateSettings
from tests.rounds.rounds import drop, learn, teach


def test_a_workspace_that_was_taught_nothing_has_nothing_to_calibrate(bot):
    with pytest.raises(VersionError, match="nothing to calibrate on. Teach a round first"):
        calibrate(bot, GateSettings())


@pytest.mark.slow
def test_limits_below_the_noise_are_named_with_the_rows_that_would_do(bot):
    teach(bot, "faq")
    drop(bot, "news")
    learn(bot)
    found = run.calibrate_gate(bot.folder, {"gate.max_drop": 0.1})
    assert [task.task for task in found.tasks] == ["v0001 faq", "v0002 news"]
    faq = found.tasks[0]
    assert (faq.rows, faq.limit) == (6, 0.1)
    assert faq.noise > 0.1
    assert f"with 6 rows; it takes about {faq.rows_needed:,} rows to hold it" in found.warnings[0]
    loose = run.calibrate_gate(bot.folder, {"gate.max_drop": 1})
    assert loose.warnings == []
    shown = CliRunner().invoke(app, ["gate", "calibrate", str(bot.folder)]).stdout
    assert "point_estimate (set)" in shown
    values = json.loads(
        CliRunner().invoke(app, ["gate", "calibrate", str(bot.folder), "--json"]).stdout
    )
    assert len(values["decided"]) == 12
    assert values["tasks"][0]["task"] == "v0001 faq"


@pytest.mark.slow
def test_known_drops_pass_as_often_as_the_limits_say():
    changes = {"v0001 a": np.zeros(50), "v0002 b": np.array([1.0, -1.0] + [0.0] * 48)}
    sizes = dict.fromkeys(changes, 300)

    def shares(drop, policy, rows=sizes):
        lines = simulate(changes, drop, GateSettings(max_drop=0.05), sizes=rows, num_draws=60)
        (found,) = (line for line in lines if line.policy == policy)
        return found.promoted, found.held, found.refused

    assert shares(0.0, "hold")[0] > 0.8
    assert shares(0.2, "hold")[2] > 0.9
    assert shares(0.1, "point_estimate")[0] < 0.05
    few = dict.fromkeys(changes, 10)
    assert shares(0.0, "hold", few)[1] == 1.0  # ten rows tell nothing of 5 points
    assert sum(shares(0.05, "promote_behind_canary", few)) == pytest.approx(1)
