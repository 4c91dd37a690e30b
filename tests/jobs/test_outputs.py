"""A finished run is replaced as a whole and by a whole one, whenever the program is killed."""

import json
import shutil
from pathlib import Path

import pytest

from llama_factory import run
from llama_factory.core import files
from llama_factory.core.errors import ConfigError, DataError, ModelError
from llama_factory.core.progress import SILENT
from llama_factory.core.signals import Stopped
from llama_factory.jobs import outputs
from llama_factory.training import loop

WEIGHTS = "adapter_model.safetensors"


class Told:
    """What people see."""

    def __init__(self):
        self.texts = []

    def say(self, text):
        self.texts.append(text)

    def bar(self, *words):
        return SILENT.bar(*words)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.json"
    found = [{"instruction": f"问题 {number}？", "output": "好的。"} for number in range(8)]
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


@pytest.fixture
def train(tmp_path, tiny_model, rows, monkeypatch):
    monkeypatch.setenv("LLAMA_FACTORY_CACHE", str(tmp_path / "cache"))

    def train(*changes, progress=SILENT):
        said = [
            f"model_name_or_path={tiny_model}",
            f"data_path={rows}",
            f"output_dir={tmp_path / 'out'}",
            "preprocessing_num_workers=1",
            "report_to=none",
            "max_new_tokens=4",
            "max_steps=1",
        ]
        return run.train(None, [*said, *changes], progress).results

    return train


@pytest.fixture
def finished(train, tmp_path):
    train()
    return tmp_path / "out"


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def steps(folder):
    return files.read_json(folder / "all_results.json")["training"]["steps"]


AGAIN = ("overwrite_output_dir=true", "max_steps=2")


def test_a_wrong_path_of_rows_costs_nothing(train, finished):
    before = content(finished)
    with pytest.raises(ConfigError, match="'nowhere.json' does not exist"):
        train(*AGAIN, "data_path=nowhere.json")
    assert content(finished) == before
    assert not list(finished.parent.glob(".out*"))


def test_rows_that_nothing_can_be_taught_of_cost_nothing(train, finished):
    before = content(finished)
    with pytest.raises(DataError, match="No row is left to train on"):
        train(*AGAIN, "cutoff_len=16", "data.long_prompts=drop")
    assert content(finished) == before
    assert not list(finished.parent.glob(".out*"))


def test_a_wrong_model_costs_nothing(train, finished):
    before = content(finished)
    with pytest.raises(ModelError, match="no-such-model"):
        train(*AGAIN, "model_name_or_path=./no-such-model")
    assert content(finished) == before


@pytest.mark.slow
def test_answering_with_the_weights_of_a_folder_removes_none_of_them(train, finished, rows):
    before = content(finished)
    asked = [f"adapter_name_or_path={finished}", f"data.eval_path={rows}"]
    train("overwrite_output_dir=true", "do_train=false", "do_predict=true", *asked)
    after = content(finished)
    assert {name: after[name] for name in before} == before
    assert "generated_predictions.jsonl" in after


@pytest.mark.slow
def test_a_run_may_begin_at_the_weights_that_it_replaces(train, finished):
    before = content(finished)[WEIGHTS]
    train(*AGAIN, f"adapter_name_or_path={finished}")
    assert steps(finished) == 2
    assert content(finished)[WEIGHTS] != before


@pytest.mark.slow
def test_a_stopped_run_leaves_the_old_one_and_goes_on(train, finished, monkeypatch):
    before, update, results = content(finished), loop.update, []

    def stop(*arguments):
        results.append(update(*arguments))
        if len(results) == 2:
            raise Stopped(15)
        return results[-1]

    monkeypatch.setattr(loop, "update", stop)
    more = ("overwrite_output_dir=true", "max_steps=3", "save_steps=1")
    with pytest.raises(Stopped):
        train(*more)
    assert content(finished) == before
    monkeypatch.undo()
    told = Told()
    train(*more, progress=told)
    assert any("Going on after step 1 of 3" in text for text in told.texts)
    assert steps(finished) == 3
    assert not list(finished.parent.glob(".out*"))


@pytest.mark.variants
@pytest.mark.parametrize("named", ["out", "out/checkpoints"])
def test_a_runs_own_folder_may_be_named_before_there_is_a_checkpoint(train, tmp_path, named):
    train(f"resume_from_checkpoint={tmp_path / named}")
    assert steps(tmp_path / "out") == 1


@pytest.mark.parametrize("named", ["nowhere/checkpoint-250", "rows.json"])
def test_another_path_that_holds_no_checkpoint_is_refused(train, tmp_path, named):
    with pytest.raises(ConfigError, match=f"resume_from_checkpoint: .*{named} does not exist"):
        train(f"resume_from_checkpoint={tmp_path / named}")
    assert not (tmp_path / "out/adapter_model.safetensors").exists()


@pytest.mark.slow
def test_true_and_false_are_taken(train, tmp_path):
    with pytest.raises(ConfigError, match="resume_from_checkpoint: .* does not exist"):
        train("resume_from_checkpoint=true")
    train("resume_from_checkpoint=false")
    assert steps(tmp_path / "out") == 1


@pytest.mark.slow
def test_people_are_told_of_the_room_that_two_runs_take(train, finished):
    told = Told()
    train(*AGAIN, progress=told)
    (text,) = [text for text in told.texts if "keeps the earlier run" in text]
    assert "MB) until the new one is whole" in text
    assert "both take room on the disk" in text


@pytest.mark.slow
def test_what_is_a_persons_own_stays(train, finished):
    (finished / "README.md").write_text("mine")
    (finished / "rows-i-like.jsonl").write_text("{}")
    (finished / "notes").mkdir()
    (finished / "notes/a.txt").write_text("note")
    (finished / "predict_results.json").write_text("{}")
    train(*AGAIN)
    assert (finished / "README.md").read_text() == "mine"
    assert (finished / "rows-i-like.jsonl").read_text() == "{}"
    assert (finished / "notes/a.txt").read_text() == "note"
    assert not (finished / "predict_results.json").exists()  # scores of weights that are gone


def test_weights_that_no_run_made_are_not_replaced(train, finished):
    (finished / "all_results.json").unlink()
    with pytest.raises(ConfigError, match="holds a trained model already"):
        train(*AGAIN)


@pytest.mark.slow
def test_an_output_that_is_a_link_stays_one(train, finished):
    real = finished.rename(finished.with_name("real"))
    finished.symlink_to(real)
    train(*AGAIN)
    assert finished.is_symlink()
    assert steps(real) == 2


def test_a_folder_that_cannot_change_its_name_is_refused_before_anything(
    train, finished, monkeypatch
):
    before = content(finished)
    monkeypatch.chdir(finished)
    with pytest.raises(ConfigError, match="this program was started in it"):
        train(*AGAIN)
    assert content(finished) == before


def made(folder, word):
    """A folder as a run of this word leaves it."""
    folder.mkdir(parents=True)
    for name in (WEIGHTS, "adapter_config.json", "all_results.json", "metrics.jsonl"):
        (folder / name).write_text(word)
    return folder


class Killed(BaseException):
    """The program ends here."""


def dies_at(number, patch):
    """Let the program end before its n-th change of the disk."""
    left = [number]

    def counted(change):
        def do(*words, **more):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return change(*words, **more)

        return do

    for name in ("rename", "replace", "unlink", "rmdir"):
        patch.setattr(Path, name, counted(getattr(Path, name)))
    patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    patch.setattr(files, "exchange", counted(files.exchange))


def words_of(folder):
    names = [WEIGHTS, "adapter_config.json", "all_results.json", "metrics.jsonl"]
    return {(folder / name).read_text() for name in names}


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_kill_at_any_point_leaves_the_old_run_or_the_new_one(tmp_path, can_exchange):
    for number in range(20):
        output = made(tmp_path / str(number) / "out", "old")
        (output / "mine.txt").write_text("note")
        folder = outputs.begin(output, replaces=True, progress=SILENT)
        for name in (WEIGHTS, "adapter_config.json", "all_results.json", "metrics.jsonl"):
            (folder / name).write_text("new")
        with pytest.MonkeyPatch.context() as patch:
            if not can_exchange:
                patch.setattr(files, "exchange", lambda *_: False)
            dies_at(number, patch)
            try:
                outputs.finish(folder, output)
                is_over = True
            except Killed:
                is_over = False
        if output.exists():
            assert words_of(output) in ({"old"}, {"new"})
        else:
            assert not can_exchange  # for a moment; the next start puts it back
        again = outputs.begin(output, replaces=True, progress=SILENT)
        assert words_of(output) == {"new"}
        assert again != output
        assert not (again / WEIGHTS).exists()
        assert (output / "mine.txt").read_text() == "note"
        if is_over:
            break
    assert is_over
    assert number > 2


def test_weights_are_written_whole_or_not_at_all(tmp_path):
    class Model:
        rounding = "none"

        def save(self, folder):
            folder.mkdir()
            for name in ("model-1-of-2.safetensors", "config.json", "model-2-of-2.safetensors"):
                (folder / name).write_text("new")

    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            dies_at(number, patch)
            try:
                outputs.save(Model(), folder)
                break
            except Killed:
                assert not outputs.is_whole(folder)
        outputs.save(Model(), folder)
        assert outputs.is_whole(folder)
        assert not (folder / outputs.SAVING).exists()
    assert outputs.is_whole(folder)
    assert number > 2
