"""What a run goes on from: by itself, or as `resume_from_checkpoint` says."""

import shutil

import pytest

from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import SILENT
from llama_factory.training import checkpoints
from llama_factory.training.checkpoints import Position
from llama_factory.training.loop import Protection, TrainingFolders, train
from llama_factory.training.settings import TrainingSettings
from tests.training.short_runs import Told, examples, make, weights


def fit(tiny, path, resume=None, say=None, on_checkpoint=None, **options):
    folders = TrainingFolders(
        path / "checkpoints", path / "metrics.jsonl", path / "runs", path / "tokens", resume
    )
    settings = TrainingSettings(
        **{"learning_rate": 1e-2, "max_steps": 4, "checkpoint_steps": 2, "report_to": []} | options
    )
    return train(
        make(tiny),
        examples(13),
        settings,
        Protection(),
        folders=folders,
        progress=SILENT if say is None else Told(say),
        on_checkpoint=on_checkpoint,
    )


@pytest.fixture
def stopped(tiny, tmp_path):
    """A run of four steps that was killed after the second."""
    fit(tiny, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints/step-00000004")
    return tmp_path


@pytest.mark.variants
@pytest.mark.parametrize(
    "named",
    [None, True, "checkpoint-2", "checkpoints/step-00000002", "checkpoints", "."],
    ids=str,
)
def test_a_run_goes_on_from_its_own_checkpoint(tiny, stopped, named):
    said = []
    resume = stopped / named if isinstance(named, str) else named
    fit(tiny, stopped, resume, said)
    assert any("Going on after step 2 of 4" in text for text in said)


def test_a_loadable_checkpoint_names_the_exact_one_beside_it(stopped):
    exact = stopped / "checkpoints/step-00000002"
    assert checkpoints.by_age(stopped / "checkpoint-2") == [exact]
    checkpoints.require_some(stopped / "checkpoints", stopped / "checkpoint-2")
    with pytest.raises(ConfigError, match="checkpoint-3 does not exist"):
        checkpoints.require_some(stopped / "checkpoints", stopped / "checkpoint-3")


def test_as_many_checkpoints_stay_as_are_asked_for(tiny, tmp_path):
    told = []
    fit(tiny, tmp_path, checkpoint_steps=1, checkpoints_kept=3, on_checkpoint=told.append)
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 3
    assert [position.step for position in told] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint_that_was_moved(tiny, stopped, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("moved")
    shutil.move(stopped / "checkpoints", elsewhere / "checkpoints")
    said = []
    there = fit(tiny, stopped, elsewhere / "checkpoints/step-00000002", said)
    assert any("Going on after step 2 of 4" in text for text in said)
    assert isinstance(there.position, Position)


@pytest.mark.slow
def test_false_begins_anew_and_keeps_what_was_there(tiny, stopped):
    said = []
    done = fit(tiny, stopped, False, said)
    assert not any("Going on" in text for text in said)
    assert any("as resume_from_checkpoint is false" in text for text in said)
    assert (stopped / "checkpoints.replaced/step-00000002").is_dir()
    assert done.position.step == 4


def test_true_is_refused_where_there_is_nothing(tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"resume_from_checkpoint: .*checkpoints does not exist"):
        fit(tiny, tmp_path, True)


@pytest.mark.slow
def test_the_checkpoint_of_another_run_is_refused_with_what_changed(tiny, stopped):
    for resume in (True, stopped / "checkpoints", stopped / "checkpoints/step-00000002"):
        with pytest.raises(
            ConfigError, match=r"is of another run. Changed since: training.seed \(0, now 1\)"
        ):
            fit(tiny, stopped, resume, seed=1)
    assert (stopped / "checkpoints/step-00000002").is_dir()


def test_a_folder_that_is_no_checkpoint_is_refused(tiny, tmp_path):
    other = tmp_path / "checkpoint-250"
    other.mkdir()
    (other / "trainer_state.json").touch()
    for resume in (other, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"(no checkpoint that this program|does not exist)"):
            fit(tiny, tmp_path, resume)


def test_a_damaged_checkpoint_is_refused(tiny, stopped):
    (stopped / "checkpoints/step-00000002/weights.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="is damaged"):
        fit(tiny, stopped, stopped / "checkpoints/step-00000002")


@pytest.mark.slow
def test_a_run_that_went_on_has_the_weights_of_one_that_was_not_stopped(tiny, stopped, tmp_path):
    whole = fit(tiny, tmp_path / "whole")
    again = fit(tiny, stopped, stopped / "checkpoints/step-00000002")
    assert weights(whole).equal(weights(again))
