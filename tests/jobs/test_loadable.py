"""`checkpoint-N` beside a run is read by plain PEFT, Transformers and ourselves."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerState

from llama_factory.jobs.loadable import LoadableCheckpoints
from llama_factory.model.adapted import AdaptedModel
from llama_factory.training.checkpoints import Position
from llama_factory.training.settings import TrainingSettings
from tests.training.short_runs import make


@pytest.fixture
def write(tiny_model, tmp_path):
    """Writes `checkpoint-N`s of a run of 9 updates; returns the model that trains."""
    model = make(tiny_model)
    for number, weight in enumerate(model.trainable().values()):
        weight.data.normal_(std=0.1, generator=torch.Generator().manual_seed(number))
    rows = ({"current_steps": n, "total_steps": 9, "epoch": n / 9, "loss": 9.0 - n} for n in (1, 2))
    (tmp_path / "trainer_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def written(*positions, model=model, **options):
        settings = TrainingSettings(**options)
        to = LoadableCheckpoints(tmp_path, model, settings, num_rows=8)
        for position in positions:
            to.write(position if isinstance(position, Position) else Position("", step=position))
        return model

    return written


def names(folder):
    return sorted(path.name for path in folder.glob("*checkpoint*"))


def test_a_checkpoint_is_read_by_peft_and_transformers(write, tiny_model, tmp_path):
    model = write(2, loadable_checkpoints="all")
    folder = tmp_path / "checkpoint-2"
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    read = PeftModel.from_pretrained(base, folder)
    ids = torch.arange(5, 15)[None]
    model.network.eval()
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, model.network(ids).logits)
    assert len(AutoTokenizer.from_pretrained(folder)) == len(model.tokenizer)
    state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
    assert (state.global_step, state.max_steps) == (2, 9)
    assert [row["loss"] for row in state.log_history] == [8.0, 7.0]


def test_a_checkpoint_of_all_weights_is_a_model(write, tmp_path):
    model = make_full(write())
    write(1, model=model, loadable_checkpoints=1)
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-1", dtype=torch.float32)
    for name, weight in model.network.state_dict().items():
        assert torch.equal(read.state_dict()[name], weight)


def make_full(model):
    base = model.network.unload().requires_grad_(True)
    return AdaptedModel(base, model.tokenizer, model.fingerprint, model.options)


@pytest.mark.parametrize(
    ("most", "left"), [(0, []), (1, [6]), (2, [4, 6]), ("all", [2, 4, 6])], ids=str
)
def test_as_many_stay_as_are_asked_for(write, tmp_path, most, left):
    write(2, 4, 6, loadable_checkpoints=most)
    assert names(tmp_path) == [f"checkpoint-{number}" for number in left]


def test_the_best_one_stays_where_it_is_put_back(write, tmp_path):
    positions = [Position("", step=n, best_step=2, best_loss=0.5) for n in (2, 4, 6)]
    write(*positions, loadable_checkpoints=2, keep_best=True, eval_steps=2)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-6"]
    state = json.loads((tmp_path / "checkpoint-6/trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-2")
