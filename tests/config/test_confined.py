"""What may not come from a page: programs, other addresses, paths out of the folder."""

import json

import pytest

from llama_factory.config.confined import MODELS, REFUSED_PARTS, refusals
from llama_factory.config.reference import REGISTRIES
from llama_factory.config.schema import RunConfig

ROW = '{"prompt": "Q?", "response": "A."}\n'


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "place"
    (folder / "data").mkdir(parents=True)
    (folder / "data/faq.jsonl").write_text(ROW)
    (folder / "data/dataset_info.json").write_text(
        json.dumps({"faq": {"file_name": "faq.jsonl"}, "far": {"hf_hub_url": "a/b"}})
    )
    (tmp_path / "secret.jsonl").write_text(ROW)
    (folder / "data/link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (folder / "data/out").symlink_to(tmp_path)
    (folder / "models/tiny").mkdir(parents=True)
    (folder / "models/tiny/config.json").write_text("{}")
    return folder


def refused(place, values, own=None):
    config = RunConfig.model_validate(values)
    return refusals(config, place, RunConfig.model_validate(own) if own else None)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"plugins": ["x.py"]}, "plugins"),
        ({"model": {"trust_remote_code": True}}, "model.trust_remote_code"),
        ({"training": {"checkpoint_mirror": "s3://a/b"}}, "training.checkpoint_mirror"),
        ({"training": {"preemption_notice": "http://169.254.169.254"}}, "training.preemption"),
        ({"training": {"report_to": ["mlflow"]}}, "training.report_to.0"),
        ({"evaluation": {"metrics": [{"type": "custom", "path": "data/x.py"}]}}, "evaluation"),
        ({"evaluation": {"metrics": ["pass_rate"]}}, "evaluation.metrics.0"),
        ({"evaluation": {"metrics": [{"type": "preference", "url": "http://x"}]}}, "evaluation"),
        ({"evaluation": {"guard": "/etc/passwd"}}, "evaluation.guard"),
        ({"strategies": [{"type": "anchor", "dataset": "../x.jsonl"}]}, "strategies.0.dataset"),
        ({"data": {"train_path": "../secret.jsonl"}}, "data.train_path"),
        ({"data": {"train_path": "~/x.jsonl"}}, "data.train_path"),
        ({"data": {"train_path": "~root/x.jsonl"}}, "data.train_path"),
        ({"data": {"train_path": "data/link.jsonl"}}, "data.train_path"),
        ({"data": {"train_path": "data/out/secret.jsonl"}}, "data.train_path"),
        ({"data": {"train_path": "data/\0.jsonl"}}, "data.train_path"),
        ({"data": {"train_path": "users.json"}}, "data.train_path"),
        ({"data": {"train_path": "data/missing.jsonl"}}, "data.train_path"),
        ({"data": {"eval_path": "/etc"}}, "data.eval_path"),
        ({"data": {"dataset_dir": "/etc", "dataset": ["x"]}}, "data.dataset_dir"),
        ({"data": {"dataset": ["far"]}}, "data.dataset"),
        ({"data": {"dataset": ["identity"]}}, "data.dataset"),
        ({"model": {"base_model": "/models/x"}}, "model.base_model"),
        ({"model": {"base_model": "../x"}}, "model.base_model"),
        ({"model": {"base_model": "~/x"}}, "model.base_model"),
        ({"model": {"base_model": "data"}}, "model.base_model"),
        ({"model": {"adapter_paths": ["models/a", "/b"]}}, "model.adapter_paths"),
        (
            {"training": {"objective": {"type": "distill", "teacher": "/x"}}},
            "training.objective.teacher",
        ),
        ({"log_dir": "/tmp/x"}, "log_dir"),
        ({"resume_from_checkpoint": "/tmp/x"}, "resume_from_checkpoint"),
    ],
)
def test_what_runs_programs_or_leaves_the_folder_is_refused(place, values, where):
    (found,) = refused(place, values)
    assert found.startswith(where)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"data": {"train_path": "data/faq.jsonl", "dataset": ["faq"]}},
        {"data": {"train_path": "data"}, "evaluation": {"guard": "data/faq.jsonl"}},
        {"model": {"base_model": "models/tiny", "adapter_paths": ["outputs/first"]}},
        {"model": {"base_model": "Qwen/Qwen3-0.6B"}},
        {"evaluation": {"metrics": ["rouge-l", "exact_match"]}, "strategies": "safe"},
        {"training": {"report_to": ["tensorboard"]}, "log_dir": "outputs/logs"},
    ],
)
def test_what_stays_in_the_folder_is_taken(place, values):
    assert refused(place, values) == {}


def test_what_the_workspace_has_already_is_taken(place):
    own = {
        "model": {"base_model": "/models/x", "trust_remote_code": True},
        "training": {"report_to": ["mlflow"]},
    }
    assert refused(place, own) != {}
    assert refused(place, own, own) == {}


def test_names_that_are_nearly_right_are_proposed(place):
    found = refused(place, {"data": {"dataset": ["fqa"], "train_path": "data/fac.jsonl"}})
    assert "Did you mean 'faq'?" in found["data.dataset"]
    assert "Did you mean 'data/faq.jsonl'?" in found["data.train_path"]


def test_no_part_takes_a_file_or_an_address_that_nobody_looked_at():
    """A new part with such a setting has to be thought about here."""
    known = {"anchor.dataset", *(f"distill.{each.rpartition('.')[2]}" for each in MODELS)}
    kinds = {"metric", "strategy", "objective", "optimizer", "adapter", "reporter", "cleaning step"}
    for registry in (each for each in REGISTRIES if each.kind in kinds or "clean" in each.kind):
        for name, part in registry.parts.items():
            for field, about in part.model_fields.items():
                is_open = "Path" in str(about.annotation) or field in ("url", "command", "teacher")
                if is_open and name not in REFUSED_PARTS:
                    assert f"{name}.{field}" in known
