"""Outside code that registers parts: files named in the settings, and installed packages."""

import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from llama_factory.config.explain import explain
from llama_factory.config.loading import load_config, load_to_answer, resolve
from llama_factory.core import plugins
from llama_factory.core.errors import ConfigError
from llama_factory.data.intake import workers
from llama_factory.evaluation.metrics import METRICS
from llama_factory.training.strategy import STRATEGIES

METRIC = '''
from llama_factory.evaluation.metrics import METRICS, Metric

@METRICS.register("shouting")
class Shouting(Metric):
    """The fraction of an answer's letters that are capital ones."""

    bonus: float = {bonus}

    def score(self, expected: str, answer: str) -> float:
        return sum(map(str.isupper, answer)) / max(1, len(answer))
'''
FLAT = "model_name_or_path: tiny\nplugins: mine.py\n"


@pytest.fixture(autouse=True)
def _registries_as_before(monkeypatch):
    monkeypatch.setattr(METRICS, "parts", dict(METRICS.parts))
    monkeypatch.setattr(STRATEGIES, "parts", dict(STRATEGIES.parts))
    monkeypatch.setattr(plugins, "_imported", {})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(METRIC.format(bonus=0))
    return tmp_path


def settings(folder, text):
    path = folder / "factory.yaml"
    path.write_text(text)
    return path


def test_parts_of_a_plugin_are_settings_like_any_others(folder):
    path = settings(folder, "plugins: [./mine.py]\nevaluation: {metrics: [shouting]}\n")
    config = load_config(path)
    assert config.plugins == [folder / "mine.py"]
    assert config.evaluation.metrics[0].label == "shouting"
    assert config.evaluation.metrics[0].score("", "AB c") == 0.5
    assert "line 1" in explain(resolve(path))


def test_a_flat_file_may_name_plugins_too(folder):
    config = load_config(settings(folder, FLAT), ["evaluation.metrics=[shouting]"])
    assert config.evaluation.metrics[0].label == "shouting"
    assert config.strategies == []  # LLaMA-Factory's defaults hold


def test_a_plugin_given_beside_the_file_goes_by_the_current_folder(folder, monkeypatch):
    (folder / "elsewhere").mkdir()
    path = settings(folder / "elsewhere", "plugins: [not_there.py]\n")
    monkeypatch.chdir(folder)
    assert load_config(path, ["plugins=[mine.py]"]).plugins == [folder / "mine.py"]
    assert load_config({"plugins": ["mine.py"]}).plugins == [folder / "mine.py"]


def test_nothing_is_imported_that_nobody_named(folder):
    load_config(settings(folder, "training: {epochs: 1}\n"))
    assert plugins.imported_files() == ()
    assert "shouting" not in METRICS.parts


@pytest.mark.parametrize(
    ("code", "text", "message"),
    [
        (None, "training: {}\nplugins: [mime.py]", "line 2: plugin .*mime.py does not exist. Did"),
        ("\n1 / 0", "plugins: [mine.py]", "line 1: plugin .*mine.py:2: ZeroDivisionError: div"),
        ("def (", "plugins: [mine.py]", "plugin .*mine.py:1: SyntaxError"),
        (None, "plugins: [factory.yaml]", "factory.yaml is no Python file"),
        (None, "plugins: {mine: 1}", "line 1: plugins: must be Python files"),
        (None, "strategies: [{type: mine}]", "'mine' is not a strategy"),
    ],
)
def test_what_is_wrong_with_a_plugin_names_file_and_exception(folder, code, text, message):
    if code:
        (folder / "mine.py").write_text(code)
    with pytest.raises(ConfigError, match=message):
        load_config(settings(folder, text + "\n"))
    assert f"mine_plugin_of_{folder.name}" not in sys.modules


def test_a_name_that_is_taken_is_an_error(folder):
    code = METRIC.format(bonus=0).replace("shouting", "exact_match")
    (folder / "mine.py").write_text(code)
    with pytest.raises(ConfigError, match="metric 'exact_match' already exists"):
        load_config(settings(folder, "plugins: mine.py\n"))


def test_a_function_is_no_part(folder):
    head = "from llama_factory.evaluation.metrics import METRICS\n\n"
    (folder / "mine.py").write_text(head + "@METRICS.register('mine')\ndef mine(): ...\n")
    with pytest.raises(ConfigError, match=r"mine.py:3: TypeError: metric 'mine' must be a class"):
        load_config(settings(folder, "plugins: mine.py\n"))
    assert load_config(None).evaluation.metrics


def test_an_edited_plugin_is_read_again_and_names_other_caches(folder):
    path = settings(folder, "plugins: mine.py\nevaluation: {metrics: [shouting]}\n")
    assert load_config(path).evaluation.metrics[0].bonus == 0
    before = plugins.identity()
    (folder / "mine.py").write_text(METRIC.format(bonus=1))
    assert load_config(path).evaluation.metrics[0].bonus == 1
    assert plugins.identity() != before


@pytest.mark.slow
def test_other_processes_know_the_parts_of_plugins(folder):
    config = load_config(settings(folder, "plugins: mine.py\nevaluation: {metrics: [shouting]}\n"))
    metric = config.evaluation.metrics[0]
    with workers(2) as crew:
        assert list(crew.map(metric.total, [()] * 2))[1] != 0  # NaN: no row was judged
    alone = [sys.executable, "-c", "import pickle, sys; pickle.load(sys.stdin.buffer)"]
    run = subprocess.run(alone, input=pickle.dumps(metric), capture_output=True)
    assert b"No module named 'mine_plugin_of" in run.stderr


def test_installed_packages_bring_parts_by_their_entry_point(monkeypatch):
    loaded = []
    good = SimpleNamespace(load=lambda: loaded.append(1), value="pack:parts", dist=None)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [good] * (group == plugins.GROUP))
    plugins.import_installed.cache_clear()
    load_config(None)
    load_config(None)
    assert loaded == [1]
    assert plugins.identity() == ["pack:parts "]
    bad = EntryPoint("bad", "not_a_module_of_anybody", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [bad])
    plugins.import_installed.cache_clear()
    with pytest.raises(ConfigError, match="plugin bad of the installed package not_a_module"):
        load_config(None)
    plugins.import_installed.cache_clear()


def test_a_file_that_is_gone_is_not_imported_by_other_processes(folder):
    plugins.import_file(folder / "mine.py")
    assert plugins.imported_files() == (folder / "mine.py",)
    (folder / "mine.py").unlink()
    assert plugins.imported_files() == ()


def test_a_plugin_that_ends_the_program_is_an_error_with_its_line(tmp_path):
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(plugins.PluginError, match=r"ends.py:2: SystemExit: 0"):
        plugins.import_file(tmp_path / "ends.py")


def test_two_plugins_of_one_name_are_refused_before_either_runs_twice(tmp_path):
    paths = [tmp_path / first / "same" / "mine.py" for first in "ab"]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text("")
    with pytest.raises(plugins.PluginError, match="have the same name in folders of the same"):
        plugins.import_files(paths)


def test_answers_are_given_without_a_plugin_that_is_gone(folder, caplog):
    text = (
        "plugins: [./gone.py]\nmodel: {base_model: here}\nserving: {port: 9}\n"
        "data: {max_tokens: 77, cleaning: [mine]}\nevaluation: {metrics: [mine]}\n"
    )
    path = settings(folder, text)
    with pytest.raises(ConfigError, match=r"gone.py does not exist"):
        load_config(path)
    config = load_to_answer(path, {"serving.max_tokens": 5})
    assert (config.model.base_model, config.serving.port, config.serving.max_tokens) == (
        "here",
        9,
        5,
    )
    assert config.data.max_tokens == 77
    assert "gone.py does not exist" in caplog.text
    with pytest.raises(ConfigError, match=r"'nosuch' is unknown|nosuch"):
        load_to_answer(settings(folder, "model: {nosuch: 1}\n"))


def test_wrong_settings_of_what_is_left_are_told_as_ever(folder):
    with pytest.raises(ConfigError, match="data"):
        load_to_answer(settings(folder, "plugins: [./gone.py]\ndata: 5\n"))
