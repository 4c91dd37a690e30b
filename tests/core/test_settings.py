import pytest
from pydantic import ValidationError

from llama_factory.continual.strategies.replay import Replay
from llama_factory.core.settings import Registry, Settings
from llama_factory.evaluation.metrics import METRICS
from llama_factory.model.adapters import ADAPTERS
from llama_factory.training.objectives import OBJECTIVES
from llama_factory.training.strategy import STRATEGIES

REGISTRIES = (METRICS, ADAPTERS, OBJECTIVES, STRATEGIES)
NEEDED = {"distill": {OBJECTIVES: {"teacher": "smollm2"}}}
"""What a part cannot do without."""
PARTS = [(registry, name) for registry in REGISTRIES for name in registry.parts]


def test_every_part_can_be_named_alone_and_survives_a_round_trip():
    for registry, name in PARTS:
        needed = NEEDED.get(name, {}).get(registry)
        part = registry.parse({"type": name, **needed} if needed else name)
        again = registry.parse({"type": name, **part.model_dump()})
        assert again == part, name
        assert registry.name_of(part) == name
        assert type(part).__doc__, name


def test_a_name_is_given_once():
    registry: Registry[Settings] = Registry("thing")
    registry.register("a")(type("A", (Settings,), {}))
    with pytest.raises(ValueError, match="thing 'a' already exists"):
        registry.register("a")(type("B", (Settings,), {}))


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ValidationError, match="no such setting. Did you mean 'fraction'?"):
        Replay.model_validate({"fractoin": 0.1})


def test_settings_never_change():
    with pytest.raises(ValidationError, match="frozen"):
        Replay().fraction = 0.5


@pytest.mark.parametrize("part", [lambda: None, int, Settings()])
def test_a_part_is_a_class_of_settings(part):
    registry: Registry[Settings] = Registry("thing")
    with pytest.raises(TypeError, match="thing 'a' must be a class of settings"):
        registry.register("a")(part)
    assert registry.parts == {}
