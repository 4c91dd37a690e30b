import yaml

from llama_factory.config.explain import explain
from llama_factory.config.loading import load_config, resolve
from tests.config.dialects.test_translate import EXAMPLE
from tests.config.test_loading import ARTICLE


def explained(tmp_path, text, *changes):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return explain(resolve(path, changes))


def line_of(text, key):
    return next(line for line in text.splitlines() if line.strip().startswith(f"{key}:"))


def test_the_explanation_is_a_settings_file_that_means_the_same(tmp_path):
    for number, text in enumerate((ARTICLE, EXAMPLE, "")):
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
        before = resolve(tmp_path / "run.yaml", ["data.train_path='数据: 1.jsonl'"])
        again = tmp_path / f"again{number}.yaml"
        again.write_text(explain(before), encoding="utf-8")
        assert load_config(again) == before.config


def test_every_value_that_was_set_says_where_it_came_from(tmp_path, monkeypatch):
    monkeypatch.setenv("API_PORT", "9000")
    told = explained(tmp_path, EXAMPLE, "learning_rate=1e-5", "training.max_minutes=5")
    assert line_of(told, "base_model").endswith("# line 2: model_name_or_path")
    assert line_of(told, "rank").endswith("# line 9: lora_rank")
    assert line_of(told, "learning_rate").endswith("# --learning_rate 1e-5")
    assert line_of(told, "max_minutes").endswith("# --set training.max_minutes=5")
    assert line_of(told, "seed").endswith("# LLaMA-Factory's default of seed")
    assert line_of(told, "strategies").endswith("# LLaMA-Factory's default")
    assert line_of(told, "port").endswith("# environment API_PORT=9000")
    assert "#" not in line_of(told, "max_grad_norm")
    assert "# plot_loss: training_loss.png is always drawn. (changes nothing)" in told


def test_sections_name_their_lines_and_the_articles_rank_too(tmp_path):
    told = explained(tmp_path, ARTICLE + "strategies: [replay]\n")
    assert line_of(told, "rank").endswith("# line 1")
    assert line_of(told, "warmup_steps").endswith("# line 2")
    assert line_of(told, "strategies").endswith("# line 4")
    assert "#" not in line_of(told, "alpha")


def test_values_that_yaml_could_misread_keep_their_type(tmp_path):
    told = explained(tmp_path, "training: {learning_rate: 0.00001}\nmodel: {base_model: 'no'}\n")
    values = yaml.safe_load(told)
    assert float(values["training"]["learning_rate"]) == 1e-5
    assert values["model"]["base_model"] == "no"


def test_what_keeps_states_of_frozen_layers_from_being_kept_is_named(tmp_path):
    text = "model: {freeze_layers: 2}\ntraining: {neftune_alpha: 5, quick_layers: false}\n"
    (said,) = [line for line in explained(tmp_path, text).splitlines() if "not kept" in line]
    assert "training.neftune_alpha and training.quick_layers: false" in said
    for other in ("model: {freeze_layers: 2}\n", "strategies: []\n" + text.replace("2", "0", 1)):
        assert "not kept" not in explained(tmp_path, other)
