"""A workspace that is observed: after rounds, with rows that wait, after a bad release."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
from typer.testing import CliRunner

from llama_factory import run
from llama_factory.cli.app import app
from llama_factory.core.errors import ConfigError
from llama_factory.monitoring import series
from llama_factory.monitoring.observe import Standards, observe, observe_round
from llama_factory.reports import page as report
from llama_factory.versions import store
from tests.rounds.rounds import SETTINGS, at_rest, drop, learn, teach


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(report, "_drawn", lambda *_: (b"", b""))


@pytest.fixture
def bot(tiny_model, tmp_path):
    workspace = run.init(tmp_path / "bot", str(tiny_model))
    workspace.settings.write_text(SETTINGS.format(model=tiny_model))
    return workspace


def drop_chinese(workspace, count=20):
    rows = [
        {"instruction": f"第{n}个问题是什么？", "output": f"第{n}个答案。"} for n in range(count)
    ]
    path = workspace.inbox / "chinese.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    at_rest(path)


@pytest.mark.slow
def test_a_round_says_whether_its_rows_are_like_those_before(bot):
    teach(bot, "faq")
    drop(bot, "faq", start=20)
    _, said = learn(bot)
    assert any(line.startswith("Rows like those taught before (language 0.00") for line in said)
    drop_chinese(bot)
    done, said = learn(bot)
    assert any("languages: PSI" in line and "zh 100%" in line for line in said)
    language = series.read(bot)["drift.language"]
    assert [(p.version, p.alert) for p in language] == [("v0002", False), (done.version.id, True)]
    (loss,) = series.read(bot)["drift.loss"]  # of the other round too few rows were held out
    assert (loss.version, loss.alert) == ("v0002", False)
    assert "less likely to the released version" in loss.words


def test_the_first_round_has_nothing_to_be_unlike(bot):
    version = teach(bot, "faq")
    assert observe_round(bot, version) == []
    assert not bot.monitor.exists()


def test_rows_that_wait_are_observed_without_a_model_and_noted_once(bot):
    teach(bot, "faq")
    drop_chinese(bot)
    (bot.inbox / "broken.jsonl").write_text("{")
    (bot.inbox / ".hidden.jsonl").write_text("{}")
    found = observe(bot)
    assert {point.name for point in found.alerts} >= {"drift.language", "drift.words"}
    assert found.diagnosis[0].startswith("The data shifted: languages: PSI")
    lines = len(series.read(bot)["drift.language"])
    assert observe(bot).points["drift.language"].alert
    assert len(series.read(bot)["drift.language"]) == lines == 1


def test_an_untouched_workspace_is_observed(bot):
    assert {point.name for point in observe(bot).points.values()} == {"machine.disk"}


def test_decay_after_a_release_by_hand_is_an_alarm_that_says_what_to_do(bot):
    teach(bot, "faq")
    version = store.get(bot, "production")
    standards = Standards("token_f1", 0.1)
    assert not observe(bot, standards).alerts
    from dataclasses import replace

    from llama_factory.evaluation.task_rows import read_predictions

    own = read_predictions(version.folder / "predictions.jsonl")
    rows = [replace(row, key=f"{row.key}{n}") for n in range(10) for row in own]
    right = [replace(row, scores={"token_f1": 1.0}) for row in rows]
    wrong = [replace(row, scores={"token_f1": 0.0}) for row in rows]
    path = version.folder / "predictions.jsonl"
    path.write_text("".join(json.dumps(row.to_json()) + "\n" for row in right))
    found = observe(bot, standards, now=wrong)
    assert [point.name for point in found.alerts] == ["decay.faq"]
    assert found.diagnosis[0].startswith("Knowledge was lost in v0001: faq: token_f1 -1.00")
    assert "rollback" in found.diagnosis[0]


@pytest.mark.slow
def test_the_command_prints_a_table_json_and_a_picture(bot, tmp_path):
    teach(bot, "faq")
    drop_chinese(bot)
    shown = CliRunner().invoke(
        app, ["monitor", str(bot.folder), "--picture", str(tmp_path / "m.svg")]
    )
    assert shown.exit_code == 0, shown.output
    assert "ALERT" in shown.stdout
    assert "The data shifted" in shown.stdout
    assert ElementTree.parse(tmp_path / "m.svg").getroot().tag.endswith("svg")
    values = json.loads(CliRunner().invoke(app, ["monitor", str(bot.folder), "--json"]).stdout)
    assert values["series"]["drift.language"]["alert"] is True
    assert values["diagnosis"]
    with pytest.raises(ConfigError, match=r"must end in .svg or .png"):
        run.monitor(bot.folder, picture=tmp_path / "m.pdf")


@pytest.mark.slow
def test_the_released_version_is_measured_again(bot):
    teach(bot, "faq")
    drop_chinese(bot)
    found = run.monitor(bot.folder, measure=True)
    assert found.points["decay.faq"].value == pytest.approx(0, abs=1e-6)
    assert found.points["drift.loss"].alert
    assert found.points["drift.loss"].version == ""
