"""What a run needs, known before its weights are read: held against the run itself."""

from dataclasses import replace

import pytest

from llama_factory import experiment
from llama_factory.core.durations import shown_seconds
from llama_factory.core.errors import ConfigError, FactoryError
from llama_factory.jobs.planning.run_plan import plan_rows, planned_options, read_per_token
from llama_factory.model.known_configs import config_of
from llama_factory.model.settings import ModelSettings
from llama_factory.model.shape import shape_of
from llama_factory.training.device_memory import estimate_memory, find_longest
from llama_factory.training.items import Encoding, encode_all
from llama_factory.training.plan import plan_run
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.setup import start
from llama_factory.training.strategy import Protection
from tests.model.adapting import FORMS
from tests.training.short_runs import SILENT, examples, make

ROWS = examples(30)
LEAD = "Read the question, think for a while, and write an answer to it. "
LED = [
    replace(row, messages=(replace(row.messages[0], content=LEAD + str(i)), row.messages[1]))
    for i, row in enumerate(ROWS)
]
"""The same, which begin alike."""


@pytest.mark.parametrize(
    "options",
    [
        {"quick_layers": False},
        {"quick_layers": False, "micro_batch_size": 2, "optimizer": "sgd"},
        {},
        {"micro_batch_tokens": 60},
        {"share_prefixes": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("freeze_layers", [0, 1])
def test_it_comes_to_what_the_run_finds(tiny_model, tmp_path, options, freeze_layers):
    settings = TrainingSettings.model_validate({"share_prefixes": False} | options)
    model = make(tiny_model, freeze_layers=freeze_layers)
    rows = encode_all(Encoding(model, settings, tmp_path), ROWS, Protection(), SILENT)
    plan = plan_run(rows, settings)
    run = start(model, settings, Protection())
    assert run.quick.is_possible == (settings.quick_layers == "auto")
    with run.reading():
        longest = find_longest(run, plan, rows)
        measured = estimate_memory(run, longest)
    known = ModelSettings(
        base_model=str(tiny_model),
        dtype="float32",
        adapter=FORMS["lora"],
        freeze_layers=freeze_layers,
    )
    shape = shape_of(config_of(str(tiny_model)), known)
    options_planned = planned_options(shape, rows, settings, "cpu")
    assert options_planned == run.batch_options(rows.weights)
    assert options_planned.num_read(longest) == run.num_read(longest)
    found = plan_rows(shape, rows, known, settings)
    assert found.memory.weights == measured.weights
    assert found.memory.gradients == measured.gradients
    assert found.memory.optimizer == measured.optimizer
    assert found.memory.activations == pytest.approx(measured.activations, rel=0.3)
    assert found.num_updates == len(plan)
    assert found.num_tokens == sum(rows.num_tokens(each) for refs in plan for each in refs)
    assert found.seconds > 0
    assert found.to_json()["memory"]["total"] == found.memory.total
    assert str(found.num_updates) in str(found)


def test_what_is_padded_or_shared_counts_as_it_is_computed(tiny_model, tmp_path):
    """The same rows: padded beside each other, end to end, and with their beginning shared."""
    read = {}
    for name, options in {
        "padded": {"quick_layers": False, "share_prefixes": False},
        "end to end": {"share_prefixes": False},
        "shared": {"share_prefixes": True},
    }.items():
        settings = TrainingSettings.model_validate(options)
        model = make(tiny_model)
        rows = encode_all(Encoding(model, settings, tmp_path), LED, Protection(), SILENT)
        known = ModelSettings(base_model=str(tiny_model), dtype="float32", adapter=FORMS["lora"])
        shape = shape_of(config_of(str(tiny_model)), known)
        given = planned_options(shape, rows, settings, "cpu")
        read[name] = read_per_token(plan_run(rows, settings), rows, given)
    assert read["padded"] > 1.01
    assert read["end to end"] == 1
    assert read["shared"] < 0.8


@pytest.mark.slow
def test_the_verb_reads_the_rows_and_says_what_is_wrong(tiny_model, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "Q{n}?", "response": "A{n}."}}\n' for n in range(9)))
    values = {"model": {"base_model": str(tiny_model)}, "data": {"train_path": str(rows)}}
    found = experiment.estimate(values, {"training.max_steps": 4})
    assert (found.num_updates, found.device) == (4, "cpu")
    with pytest.raises(ConfigError, match="does not exist"):
        experiment.estimate(values, {"data.train_path": str(tmp_path / "none.jsonl")})
    with pytest.raises(FactoryError, match="neither a folder"):
        experiment.estimate(values, {"model.base_model": "nothing"})


@pytest.mark.parametrize(
    ("seconds", "shown"), [(3, "3 s"), (89, "89 s"), (600, "10.0 min"), (9000, "2.5 h")]
)
def test_times_are_written_for_people(seconds, shown):
    assert shown_seconds(seconds) == shown
