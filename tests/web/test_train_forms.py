"""The form of the settings: what is drawn, what comes back."""

import json

import pytest

from llama_factory.config.minimal import minimal
from llama_factory.config.schema import RunConfig
from llama_factory.web.forms import HELP, draw_form, help_of, read_form, written
from tests.config.test_minimal import WRITTEN

TYPES = {
    "model.adapter": 9,
    "training.objective": 10,
    "training.optimizer": 9,
    "training.schedule": 7,
    "training.parallel": 2,
}


def fields_of(given=None, problems=None, proposed=None):
    groups = draw_form(given or {}, problems or {}, proposed or {})
    return {each.name: each for group in groups for field in group.fields for each in field.every()}


def test_an_empty_form_is_the_defaults():
    assert read_form({}) == ({}, {})
    assert read_form({"csrf": "x", "name": "y", "plugins": "evil.py", "gate.metric": "x"}) == (
        {},
        {},
    )


@pytest.mark.parametrize("values", WRITTEN)
def test_settings_go_into_the_form_and_come_back(values):
    config = RunConfig.model_validate(values)
    sent = written(minimal(config))
    found, problems = read_form(sent)
    assert problems == {}
    assert RunConfig.model_validate(found) == config


@pytest.mark.parametrize(("part", "count"), TYPES.items())
def test_each_part_has_its_own_settings(part, count):
    names = fields_of()[part].choices
    assert len(names) == count
    drawn = [set(fields_of({f"{part}.type": name})) for name in names]
    assert len({frozenset(each) for each in drawn}) > 1


def test_settings_of_another_part_are_left_behind():
    sent = {"model.adapter.type": "ia3", "model.adapter.rank": "8"}
    assert read_form(sent) == ({"model": {"adapter": {"type": "ia3"}}}, {})


def test_a_field_knows_its_kind_default_and_limits():
    fields = fields_of()
    rate = fields["training.learning_rate"]
    assert (rate.kind, rate.usual, rate.low, rate.high) == ("number", "0.0002", "> 0", "< 1")
    assert rate.help.startswith("Peak rate.")
    assert fields["training.gradient_checkpointing"].choices == ("true", "false", "auto")
    assert fields["strategies"].choices[:2] == ("default", "naive")
    assert "model.trust_remote_code" not in fields


def test_problems_stand_at_their_fields():
    problems = {"training.epochs": "no", "strategies.0.fraction": "too much", "data": "odd"}
    fields = fields_of(problems=problems)
    assert fields["training.epochs"].problem == "no"
    assert fields["strategies"].problem == "0.fraction: too much"


@pytest.mark.parametrize(
    "text", ["[a", "{a: *x}", "&a [*a]", "a: b: c", "!!python/name:os.system x"]
)
def test_what_is_no_yaml_is_told_at_its_field(text):
    values, problems = read_form({"strategies": text})
    assert "strategies" in problems
    assert values == {}


def test_every_setting_is_explained_in_chinese():
    texts = json.loads((HELP / "zh.json").read_text(encoding="utf-8"))
    used = set()
    for part in TYPES:
        for name in fields_of()[part].choices:
            for field in fields_of({f"{part}.type": name}).values():
                assert help_of("zh", field) != field.help, field.name
                own = f"{field.name}@{field.part}"
                used.add(own if own in texts else field.name)
                assert help_of("en", field) == field.help
    assert set(texts) == used
