"""Messages speak of a file's own keys."""

from llama_factory.config.loading import resolve
from llama_factory.config.wording import Reworded, reworded, words_of
from llama_factory.core.progress import SILENT
from tests.training.short_runs import Told


def words(*changes):
    return words_of(resolve(None, ["model_name_or_path=tiny", *changes]).origins)


def test_a_flat_file_has_its_own_words():
    told = "data.train_path: x holds no row of data.max_tokens. Set model.adapter.rank."
    assert reworded(told, words("dataset=x", "cutoff_len=64")) == (
        "dataset: x holds no row of cutoff_len. Set lora_rank."
    )
    assert "data_path: x" in reworded(told, words("data_path=rows.jsonl"))
    assert reworded("Lower training.learning_rate.", words()) == "Lower learning_rate."


def test_what_has_no_word_there_stays():
    assert reworded("give data.unheard_of, or data.eval_path", words()) == (
        "give data.unheard_of, or data.eval_path"
    )
    assert "eval_dataset" in reworded("data.eval_path", words("eval_dataset=y"))


def test_a_native_file_keeps_its_own(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("data: {train_path: rows.jsonl}\n")
    assert words_of(resolve(path).origins) == {}
    assert reworded("data.max_tokens", {}) == "data.max_tokens"


def test_progress_speaks_so_too():
    said = []
    Reworded(Told(said), {"data.max_tokens": "cutoff_len"}).say("more than data.max_tokens")
    assert said == ["more than cutoff_len"]
    with Reworded(SILENT, {}).bar("training", 2) as bar:
        bar.advance()
