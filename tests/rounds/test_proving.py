"""The proof of a version: three answers and their losses, checked against Transformers alone."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from llama_factory import run
from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.serving.proof import prove
from llama_factory.versions import proof, store
from tests.rounds.rounds import drop, learn, teach


def losses(network, rows):
    found = []
    for row in rows:
        ids = torch.tensor([[*row.prompt, *row.answer]])
        labels = torch.tensor([[*[-100] * len(row.prompt), *row.answer]])
        with torch.no_grad():
            found.append(float(network(input_ids=ids, labels=labels).loss))
    return found


def base_network(tiny):
    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()


@pytest.mark.slow
def test_a_round_stores_the_losses_that_transformers_computes(bot, tiny):
    version = teach(bot, "refunds")
    kept = proof.read(version)
    assert proof.FILE in version.files
    assert len(kept.rows) == 3
    base = losses(base_network(tiny), kept.rows)
    own = losses(PeftModel.from_pretrained(base_network(tiny), version.adapter), kept.rows)
    assert [row.base_nll for row in kept.rows] == pytest.approx(base, abs=1e-4)
    assert [row.nll for row in kept.rows] == pytest.approx(own, abs=1e-4)
    prove(own, kept)
    with pytest.raises(VersionError, match="base model's answers"):
        prove(base, kept)


def test_the_base_version_is_known_by_what_a_round_measured_of_it(bot, tiny):
    workspace = bot
    assert proof.read(store.get(workspace, "v0000")).rows == ()
    teach(workspace, "refunds")
    kept = proof.read(store.get(workspace, "v0000"))
    prove(losses(base_network(tiny), kept.rows), kept)
    assert kept.version_id == "v0000"


@pytest.mark.slow
def test_a_consolidated_version_has_a_proof_against_the_untouched_base(bot, tiny):
    teach(bot, "refunds")
    version = run.consolidate(bot.folder, ["gate.max_drop=1"]).version
    kept = proof.read(version)
    assert len(kept.rows) == 3
    base = losses(base_network(tiny), kept.rows)
    assert [row.base_nll for row in kept.rows] == pytest.approx(base, abs=1e-4)
    before = proof.read(store.get(bot, "v0001"))
    same = {row.prompt: row.nll for row in before.rows}
    both = [row for row in kept.rows if row.prompt in same]
    assert both
    assert [row.nll for row in both] == pytest.approx([same[row.prompt] for row in both], abs=1e-3)


@pytest.mark.slow
def test_where_rows_may_not_be_kept_the_proof_holds_no_taught_row(bot):
    bot.settings.write_text(
        bot.settings.read_text().replace("held_out_fraction: 0.2", "held_out_fraction: 0")
    )
    drop(bot, "secrets")
    done, _ = learn(bot, "data.keep_rows=false", "strategies=no-data")
    kept = proof.read(done.version)
    from llama_factory.model.base import load_tokenizer

    tokenizer = load_tokenizer(bot_model(bot))
    texts = [tokenizer.decode([*row.prompt, *row.answer]) for row in kept.rows]
    assert len(texts) == 3
    assert not [text for text in texts if "secrets" in text]


def bot_model(bot):
    from llama_factory.model.source import resolve

    return resolve(store.get(bot, "v0000").base_model)


def test_a_damaged_proof_names_its_file(bot):
    version = teach(bot, "refunds")
    files.write_json(version.folder / proof.FILE, {"rows": [{"prompt": [], "answer": [1]}]})
    with pytest.raises(VersionError, match=r"proof\.json is damaged"):
        proof.read(version)
