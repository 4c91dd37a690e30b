"""The public Python API: what `import llama_factory` offers, and that docs/python.md works."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import llama_factory as lf
from llama_factory import run
from llama_factory.core import plugins
from llama_factory.core.progress import SILENT
from llama_factory.evaluation.metrics import METRICS
from llama_factory.training.strategy import STRATEGIES
from llama_factory.versions import releases
from tests.rounds.rounds import SETTINGS, drop
from tests.tiny import make_workspace, publish_version

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs/python.md").read_text(encoding="utf-8")
FENCES = re.findall(r"```(\w+)\n(.*?)```", GUIDE, flags=re.DOTALL)
PLUGIN = next(code for _, code in FENCES if code.startswith("# mine.py"))
VERBS = [name for name in lf.__all__ if name.islower() and name != "__version__"]


@pytest.fixture(autouse=True)
def _no_plugin_is_left(monkeypatch):
    monkeypatch.setattr(METRICS, "parts", dict(METRICS.parts))
    monkeypatch.setattr(STRATEGIES, "parts", dict(STRATEGIES.parts))
    monkeypatch.setattr(plugins, "_imported", {})


def test_importing_the_package_imports_nothing_else_and_each_name_is_there():
    code = (
        "import sys\nimport llama_factory as lf\n"
        "print([n for n in ('torch', 'pydantic', 'yaml') if n in sys.modules])\n"
        "lf.init, lf.learn, lf.train, lf.load, lf.serve, lf.promote\n"
        "print('torch' in sys.modules, lf.run is sys.modules['llama_factory.run'])\n"
        "print(sorted(lf.__all__) == lf.__all__, set(lf.__all__) <= set(dir(lf)))\n"
        "lf.lern\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.splitlines() == ["[]", "False True", "True True"]
    assert "module 'llama_factory' has no attribute 'lern'" in run.stderr
    assert [name for name in lf.__all__ if not hasattr(lf, name)] == []


def test_names_for_type_checkers_are_those_that_are_exported():
    """A type checker reads the imports alone: it would believe every name of `__getattr__`."""
    source = inspect.getsource(lf)
    known = source.split("if TYPE_CHECKING:")[1].split("_HOMES")[0]
    names = re.findall(r"^        (\w+),$|import ([\w, ]+)$", known, flags=re.MULTILINE)
    listed = {each.strip() for pair in names for part in pair for each in part.split(",") if each}
    assert listed == set(lf.__all__) - {"__version__"}
    assert (ROOT / "src/llama_factory/py.typed").is_file()


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_documented_and_typed(name):
    verb = getattr(lf, name)
    assert f"`lf.{name}(" in GUIDE
    assert inspect.getdoc(verb)
    parameters = inspect.signature(verb).parameters.values()
    assert all(each.annotation is not inspect.Parameter.empty for each in parameters)


@pytest.mark.slow
def test_the_guide_runs_from_its_top_to_its_end(tmp_path, monkeypatch, tiny_model, capsys):
    monkeypatch.chdir(tmp_path)
    values = {}
    for kind, code in FENCES:
        if kind == "python" and code is not PLUGIN:
            exec(code.replace('"smollm2"', f'"{tiny_model}"'), values)
    said = capsys.readouterr().out
    assert "outputs/prices" in said
    assert values["first"].version.id == "v0001"
    assert values["done"].loss > 0
    assert values["guard"].tasks


@pytest.fixture(scope="module")
def answering(tmp_path_factory, tiny_model):
    workspace = make_workspace(tmp_path_factory.mktemp("answering") / "bot", tiny_model)
    version = publish_version(workspace, tiny_model, marker_seed=1)
    releases.promote(workspace.releases, version.id, "test")
    return workspace


@pytest.fixture(scope="module")
def answering_model(answering):
    return lf.load(answering)


@pytest.mark.slow
def test_every_way_to_name_a_model_answers(answering, tiny_model):
    expected = lf.load(answering).chat("hello", max_tokens=8)
    assert lf.load(answering, "v0001").chat("hello", max_tokens=8) == expected
    assert lf.load(answering.versions / "v0001/adapter").chat("hello", max_tokens=8) == expected
    assert lf.chat(str(answering.folder)).answer("hello").text.startswith(expected)
    plain = lf.load(str(tiny_model)).chat("hello", max_tokens=8)
    assert plain != expected
    assert (
        lf.load(lf.ModelReference(str(answering.folder), "v0000")).chat("hello", max_tokens=8)
        == plain
    )


def test_an_answer_comes_in_pieces_and_may_be_left(answering):
    model = lf.load(answering)
    whole = model.chat("hello", max_tokens=16)
    pieces = list(model.stream("hello", max_tokens=16))
    assert "".join(pieces) == whole
    assert len(pieces) > 1
    stream = model.stream("hello", max_tokens=300)
    next(stream)
    stream.close()
    assert model.chat([{"role": "user", "content": "hello"}], max_tokens=16) == whole
    assert model.chat([lf.Message("user", "hello")], max_tokens=16) == whole
    with pytest.raises(lf.ServingError, match="messages.0: must have a role"):
        model.chat([{"content": "hello"}])
    with pytest.raises(lf.ServingError, match="Shorten them"):
        list(model.stream("hello " * 600))


@pytest.mark.slow
def test_a_stop_string_alone_is_one_string(answering):
    model = lf.load(answering)
    whole = model.chat("hello", max_tokens=16)
    stop = whole[4:7]
    expected = whole[: whole.index(stop)]
    for given in (stop, [stop], (stop,)):
        assert model.chat("hello", max_tokens=16, stop=given) == expected
        assert "".join(model.stream("hello", max_tokens=16, stop=given)) == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stop", "", "stop: must be a text that is not empty"),
        ("stop", ["END", ""], "stop: must be a text"),
        ("stop", 5, "stop: must be a text"),
        ("max_tokens", 0, "max_tokens: must be a whole number from 1; it is 0"),
        ("max_tokens", 2.5, "max_tokens: must be a whole number"),
        ("max_tokens", None, "max_tokens: must be a whole number"),
        ("temperature", -1, "temperature: must be a number from 0; it is -1"),
        ("temperature", float("nan"), "temperature: .* it is nan"),
        ("top_p", 1.5, "top_p: must be a number from 0 to 1; it is 1.5"),
        ("top_p", "high", "top_p: must be a number"),
    ],
)
def test_options_out_of_range_are_refused_at_the_call(answering_model, name, value, message):
    with pytest.raises(lf.FactoryError, match=message):
        answering_model.chat("hello", **{name: value})
    with pytest.raises(lf.FactoryError, match=message):
        answering_model.stream("hello", **{name: value})


@pytest.mark.slow
def test_paths_may_be_strings(answering, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": "hello", "output": f"{n}"} for n in range(8)]
    Path("faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lf.predict(lf.ModelReference(str(answering.folder)), "faq.jsonl", "answers")
    assert Path("answers").exists()
    lf.export(answering, "merged", prompts="faq.jsonl")
    assert Path("merged/config.json").is_file()
    run.report(answering, "v0001", "report.html")
    run.show(answering, "v0001", "picture.png", curves="curves.png")
    assert Path("report.html").is_file()
    run.clean_data("faq.jsonl", "clean", str(answering.folder))
    assert any(Path("clean").iterdir())
    with pytest.raises(lf.DataError, match="clean exists and is not empty"):
        run.clean_data("faq.jsonl", "clean")
    lf.evaluate(answering, ["guard"], "measured")
    assert Path("measured").is_dir()
    bot = lf.init("bot", Path("merged"))
    assert lf.load(bot).version_id == "v0000"


def test_a_workspace_that_cannot_be_made_leaves_nothing(tmp_path, tiny_model, monkeypatch):
    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("llama_factory.versions.store.create_base", fail)
    with pytest.raises(OSError, match="no space"):
        lf.init(tmp_path / "bot", tiny_model)
    assert not (tmp_path / "bot").exists()


@pytest.mark.parametrize("text", ["a: !foo 1\n", "? [a]\n: 1\n", "x: &a [*a]\n"])
def test_settings_that_are_no_yaml_keep_nobody_from_going_back(tmp_path, tiny_model, text):
    workspace = make_workspace(tmp_path / "bot", tiny_model)
    publish_version(workspace, tiny_model, marker_seed=1)
    releases.promote(workspace.releases, "v0001", "test")
    workspace.settings.write_text(text)
    with pytest.raises(lf.ConfigError, match=r"factory\.yaml, line 1"):
        lf.learn(workspace)
    assert lf.rollback(workspace, "v0000") == ("v0001", "v0000")


def test_what_cannot_be_loaded_is_one_message(tmp_path, answering):
    (tmp_path / "empty").mkdir()
    with pytest.raises(lf.VersionError, match="empty holds neither an adapter nor a model"):
        lf.load(tmp_path / "empty")
    with pytest.raises(lf.VersionError, match="v0007"):
        lf.load(answering, "v0007")
    with pytest.raises(lf.FactoryError, match="is not a workspace"):
        lf.learn(tmp_path / "empty")


@pytest.mark.slow
def test_a_run_from_a_file_with_changes(tmp_path, tiny_model):
    rows = [{"instruction": f"Question {n}?", "output": f"{n}."} for n in range(8)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    file = tmp_path / "sft.yaml"
    values = {
        "model_name_or_path": str(tiny_model),
        "data_path": str(tmp_path / "rows.json"),
        "output_dir": str(tmp_path / "out"),
    }
    file.write_text(yaml.safe_dump(values))
    done = lf.train(str(file), {"max_steps": 1, "training.seed": 3}, SILENT)
    assert done.folder == tmp_path / "out"
    assert (done.folder / "adapter_model.safetensors").is_file()
    assert done.results["training"]["steps"] == 1


@pytest.mark.slow
def test_a_round_with_parts_of_a_plugin_is_read_again(tmp_path, tiny_model, monkeypatch):
    bot = lf.init(tmp_path / "bot", str(tiny_model))
    (bot.folder / "mine.py").write_text(PLUGIN)
    ((_, strategies),) = ((k, code) for k, code in FENCES if k == "yaml")
    settings = yaml.safe_load(SETTINGS.format(model=tiny_model)) | yaml.safe_load(strategies)
    settings["evaluation"]["max_new_tokens"] = 4
    bot.settings.write_text(yaml.safe_dump(settings))
    for name in ("faq", "shop"):
        drop(bot, name)
        done = lf.learn(bot)
        assert done is not None
        lf.promote(bot, done.version.id)
    assert done.version.memory.numbers["decay_to_parent.rounds"] == 2
    assert all("first_word" in task.scores for task in done.version.scores.tasks.values())
    assert "decay_to_parent" in done.version.report["strategies"]
    again = yaml.safe_load((done.version.folder / "run.yaml").read_text())
    assert again["plugins"] == [str(bot.folder / "mine.py")]
    drop(bot, "third")
    refused = lf.learn(bot, {"gate.max_guard_ratio": 0.01})
    assert not lf.learn(bot, {"gate.max_guard_ratio": 0.01}).is_new
    (bot.folder / "mine.py").write_text(PLUGIN + "\n# edited\n")
    again = lf.learn(bot, {"gate.max_guard_ratio": 0.01})
    assert (again.is_new, again.version.parent) == (True, refused.version.parent)
    shutil.move(bot.folder / "mine.py", bot.folder / "gone.py")
    with pytest.raises(lf.ConfigError, match="line .*: plugin .*mine.py does not exist"):
        lf.learn(bot)
    assert lf.load(bot).version_id == "v0002"  # answers need no strategy
    assert lf.rollback(bot, "v0001") == ("v0002", "v0001")
