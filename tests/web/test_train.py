"""The page of single runs: form, what it comes to, queue, runs side by side."""

import json
import re
import time
from html import unescape

import pytest

from llama_factory import experiment, operate, oversee
from llama_factory.core import files
from llama_factory.core.times import now
from llama_factory.jobs import background
from llama_factory.versions.workspace import Workspace
from llama_factory.web.pages import TEMPLATES
from llama_factory.web.routes.static import FOLDER as STATIC
from tests.web.bots import EVIL
from tests.web.browsing import Visitor

PASSWORD = "correct horse"
ROWS = [{"instruction": f"Question {n}?", "output": f"Answer {n}."} for n in range(12)]


def put_rows(folder, name="faq"):
    (folder / "data").mkdir(exist_ok=True)
    files.write_jsonl(folder / f"data/{name}.jsonl", ROWS)
    files.write_json(folder / "data/dataset_info.json", {name: {"file_name": f"{name}.jsonl"}})


@pytest.fixture
def bot_with_rows(bot):
    put_rows(bot.folder)
    return bot


@pytest.fixture
def busy(bot_with_rows):
    """A workspace in which a job runs: others wait."""
    earlier = bot_with_rows.jobs / "0001"
    earlier.mkdir(parents=True)
    asked = {"words": ["learn"], "who": "ann", "began": now()}
    files.write_json(earlier / background.ASKED, asked)
    with files.locked(earlier / background.LOCK, what="running", seconds=1):
        yield bot_with_rows


def blocks(text):
    return [unescape(each) for each in re.findall(r"<pre>(.*?)</pre>", text, re.S)]


def problems(text):
    return [unescape(each) for each in re.findall(r'role="alert">([^<]+)</p>', text)]


def waited(place, job_id, *states):
    until = time.monotonic() + 120
    while (job := experiment.job_of(place, job_id)[0]).state not in states:
        assert time.monotonic() < until, job
        time.sleep(0.05)
    return job


@pytest.mark.parametrize(("language", "words"), [("en", "New run"), ("zh", "新训练")])
def test_the_form_is_shown_in_both_languages(page, language, words):
    text = page.text("/train", **{"accept-language": language})
    assert words in text
    assert 'name="training.learning_rate"' in text
    assert problems(text) == []
    help_text = "Peak rate." if language == "en" else "学习率的峰值。"
    assert help_text in text


def test_a_folder_of_workspaces_has_the_page_too(bot_with_rows):
    place = Visitor.of(bot_with_rows.folder.parent)
    assert 'href="./train"' in place.text("/")
    assert "bot/data/faq.jsonl" in place.text("/train")
    assert "data/faq.jsonl" in place.text("/w/bot/train")


def test_settings_file_and_command_line_are_shown_without_a_script(bot_with_rows):
    page = Visitor.of(bot_with_rows.folder)
    sent = {"name": "first", "training.epochs": "5", "data.dataset": "faq", "training.seed": "0"}
    text = page.post("/train/show", sent).text
    command, yaml, flags = blocks(text)
    assert command == "llama-factory train outputs/first.yaml"
    assert "training:\n  epochs: 5.0\n" in yaml
    assert "seed" not in yaml  # a default
    assert "'data.dataset=[faq]' training.epochs=5.0" in flags
    assert 'value="faq" checked' in text
    assert not (bot_with_rows.folder / "outputs").exists()


def test_problems_stand_at_their_fields_and_nothing_begins(bot_with_rows):
    page = Visitor.of(bot_with_rows.folder)
    sent = {"name": "a/b", "training.epochs": "many", "model.adapter.rank": "0"}
    answer = page.post("/train/start", sent)
    assert answer.status_code == 422
    assert "must be greater than or equal to 1; it is '0'." in problems(answer.text)
    assert 'value="many"' in answer.text
    answer = page.post("/train/start", {"name": "a/b", "data.train_path": "../../x"})
    assert [each for each in problems(answer.text) if "cannot name a run" in each]
    assert [each for each in problems(answer.text) if "lies outside the folder bot" in each]
    assert "Choose the rows" in page.post("/train/start", {"name": "x"}).text
    assert oversee.jobs(bot_with_rows) == []


def test_problems_are_told_in_chinese_too(bot_with_rows):
    page = Visitor.of(bot_with_rows.folder)
    chinese = {"accept-language": "zh"}
    wrong = {"training.epochs": "many", "model.adapter.rank": "0", "model.dtype": "float8"}
    told = problems(page.post("/train/show", wrong, **chinese).text)
    assert "必须大于或等于 1；当前值为 '0'。" in told
    assert any(each.startswith("必须是数字，此文本无法读作数字；当前值为 'many'") for each in told)
    assert any(each.startswith("必须是 'auto', 'float32'") for each in told)
    assert "请选择用于训练的数据。" in problems(page.post("/train/show", {}, **chinese).text)
    pasted = page.post(
        "/train/read", {"text": "stage: sft\ncutoff_len: x\nstag: 1"}, **chinese
    ).text
    assert "必须是数字；当前值为" in pasted
    assert "没有此键。是否指" in pasted


def test_settings_that_no_field_shows_are_told_as_well(bot_with_rows):
    page = Visitor.of(bot_with_rows.folder)
    text = page.post("/train/show", {"training.early_stopping_steps": "2"}).text
    assert [each for each in problems(text) if "eval_steps" in each]


def test_their_file_is_explained_and_fills_the_form(bot_with_rows):
    page = Visitor.of(bot_with_rows.folder)
    theirs = "model_name_or_path: smollm2\nlora_rank: 4\nlora_alhpa: 8\ndataset: faq\nfp8: true\n"
    text = page.post("/train/read", {"text": theirs.replace("\n", "\r\n")}).text
    assert "model.adapter.rank: 4" in text
    assert "Did you mean &#39;lora_alpha&#39;?" in text
    assert 'name="model.adapter.rank" value="4"' in text
    assert 'value="faq" checked' in text
    token = {"csrf": page.token}
    file = {"file": ("sft.yaml", theirs.encode(), "text/yaml")}
    assert "model.adapter.rank: 4" in page.client.post("/train/read", data=token, files=file).text


def test_hostile_files_are_refused_in_words(bot_with_rows):
    page = Visitor.of(bot_with_rows.folder)
    text = page.post("/train/read", {"text": "a: &a [1]\nb: *a"}).text
    assert "stands for something written elsewhere" in text
    assert page.post("/train/read", {"text": "x" * 1_000_000}).status_code == 413
    evil = page.post("/train/read", {"text": f"'{EVIL}': 1\nlora_rank: '{EVIL}'\n"}).text
    assert EVIL not in evil


@pytest.mark.parametrize(
    "sent",
    [
        {"plugins": "./evil.py"},
        {"model.trust_remote_code": "true"},
        {"training.preemption_notice": "http://x"},
        {"output_dir": "/tmp/x"},
    ],
)
def test_what_the_form_does_not_have_cannot_be_sent(bot_with_rows, sent):
    page = Visitor.of(bot_with_rows.folder)
    text = page.post("/train/show", {"name": "x", "data.dataset": "faq"} | sent).text
    assert blocks(text)[1] == "data:\n  dataset: [faq]\noutput_dir: outputs/x\n"


@pytest.mark.slow
def test_runs_wait_for_each_other_and_are_taken_out(busy):
    page = Visitor.of(busy.folder)
    sent = {"name": "first", "data.dataset": "faq", "training.max_steps": "2"}
    done = page.post("/train/start", sent)
    assert (done.status_code, done.headers["location"]) == (303, "../train")
    (run,) = experiment.queue(busy)
    assert (run.name, run.job.state, run.job.who, run.num_before) == (
        "first",
        "waiting",
        "local",
        1,
    )
    assert (busy.folder / "outputs/first.yaml").read_text().startswith("data:")
    text = page.text("/train")
    assert "1 before it" in text
    assert "Queue behind 1" in text
    assert "is in the queue already" in page.post("/train/start", sent).text
    assert "There is a run" not in page.post("/train/start", sent | {"name": "second"}).text
    page.post(f"/train/jobs/{run.job.id}/stop")
    waited(busy, run.job.id, "stopped")
    assert "There is a run &#39;first&#39; already" in page.post("/train/start", sent).text
    assert page.post("/train/again", {"name": "first"}).status_code == 303
    again = next(each for each in experiment.queue(busy) if each.name == "first")
    assert again.job.state == "waiting"
    for each in experiment.queue(busy):
        experiment.stop_job(busy, each.job.id)


def test_the_settings_of_a_run_are_taken_for_another(busy):
    values = {"data": {"dataset": ["faq"]}, "training": {"epochs": 7}}
    experiment.stop_job(busy, experiment.begin_run(busy, values, "first").id)
    text = Visitor.of(busy.folder).text("/train?start=run:first")
    assert 'name="training.epochs" value="7.0"' in text
    lost = Visitor.of(busy.folder).text("/train?start=run:../../x")
    assert "cannot name a run" in lost


def test_a_viewer_looks_and_starts_nothing(bot_with_rows):
    for role in ("viewer", "operator"):
        operate.add_user(bot_with_rows, role, role, PASSWORD)
    viewer = Visitor.of(bot_with_rows.folder)
    assert viewer.get("/train").status_code == 303
    viewer.log_in("viewer", PASSWORD)
    text = viewer.text("/train")
    assert "Start now" not in text
    assert viewer.post("/train/show", {"data.dataset": "faq"}).status_code == 200
    sent = {"name": "x", "data.dataset": "faq"}
    for path in ("/train/start", "/train/estimate", "/train/again", "/train/jobs/0001/stop"):
        assert viewer.post(path, sent).status_code == 403
    assert oversee.jobs(bot_with_rows) == []


@pytest.mark.variants
@pytest.mark.parametrize("path", ["show", "read", "start", "estimate", "again", "jobs/0001/stop"])
def test_no_change_is_made_without_the_token(bot_with_rows, path):
    page = Visitor.of(bot_with_rows.folder.parent)
    assert page.client.post(f"/train/{path}", data={"name": "x"}).status_code in (403, 422)
    assert page.client.post(f"/w/bot/train/{path}", data={"name": "x"}).status_code in (403, 422)


@pytest.mark.variants
@pytest.mark.parametrize(
    "path",
    [
        "/train/jobs/..%2f..%2fusers.json",
        "/train/jobs/0009",
        "/train/compare?run=../bot",
        "/train/compare?run=/etc",
        "/train/compare?version=../x",
    ],
)
def test_no_path_can_be_named(page, path):
    answer = page.get(path)
    assert answer.status_code in (200, 404, 409)
    assert "root:" not in answer.text
    assert answer.status_code != 200 or "There is no run" in answer.text


def write_run(folder, name, rank, losses):
    """A finished run as its files are."""
    output = folder / "outputs" / name
    output.mkdir(parents=True)
    updates = [
        {"current_steps": n, "total_steps": len(losses), "loss": each}
        for n, each in enumerate(losses, 1)
    ]
    files.write_jsonl(output / "trainer_log.jsonl", updates)
    scored = {"guard_perplexity": None, "seconds": 1.0}
    task = {"task": "faq", "count": 2, "token_f1": losses[-1] / 10}
    training = {"steps": len(losses), "tokens": 100, "seconds": 2.0, "tokens_per_second": 50.0}
    results = {
        "training": training,
        "before": scored | {"tasks": []},
        "after": scored | {"tasks": [task]},
    }
    files.write_json(output / "all_results.json", results)
    (output / "adapter_model.safetensors").touch()
    text = f"model: {{adapter: {{type: lora, rank: {rank}}}}}\nplugins: [./evil.py]\n"
    (folder / f"outputs/{name}.yaml").write_text(text)


def test_runs_and_versions_stand_side_by_side(bot):
    write_run(bot.folder, "one", 4, [3.0, 2.0, 1.0])
    write_run(bot.folder, "two", 8, [3.0, 2.5, 2.0, 1.5])
    page = Visitor.of(bot.folder)
    text = page.text("/train/compare?run=outputs/one&run=outputs/two&version=v0003")
    rank = re.search(r'<tr class="differs"><th scope="row">model.adapter.rank.*?</tr>', text)
    assert rank
    assert re.findall(r'<td class="number">(\d+)</td>', rank[0]) == ["4", "8"]
    assert 'class="line c1" d="M' in text
    found = experiment.compare_runs(bot, ["outputs/one", "outputs/two"])
    assert [each.name for each in found.settings if each.differs] == ["model.adapter.rank"]
    assert [each.values for each in found.scores] == [(0.1, 0.15)]
    assert {each.name for each in found.costs} == {
        "steps",
        "tokens",
        "seconds",
        "tokens_per_second",
    }


def test_damaged_runs_hide_no_others(bot):
    write_run(bot.folder, "one", 4, [1.0])
    write_run(bot.folder, "two", 4, [1.0])
    (bot.folder / "outputs/two/all_results.json").write_text("{")
    text = Visitor.of(bot.folder).text("/train/compare?run=outputs/one&run=outputs/two")
    assert "outputs/two: its files are damaged" in text
    assert "0.1" in text


def test_what_a_run_shows_is_escaped(busy):
    sent = {"name": "x", "data.dataset": EVIL, "model.base_model": EVIL, "strategies": EVIL}
    text = Visitor.of(busy.folder).post("/train/show", sent).text
    assert EVIL not in text


@pytest.mark.slow
def test_a_run_goes_from_the_form_to_a_trained_model(tmp_path, tiny_model):
    import shutil

    put_rows(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "models/tiny")
    page = Visitor.of(tmp_path)
    sent = {
        "name": "first",
        "model.base_model": "models/tiny",
        "model.adapter.rank": "4",
        "data.dataset": "faq",
        "training.max_steps": "2",
        "strategies": "naive",
    }
    text = page.post("/train/estimate", sent).text
    assert "Training time" in text
    assert page.post("/train/start", sent).status_code == 303
    (run,) = experiment.queue(tmp_path)
    job = waited(tmp_path, run.job.id, "finished", "failed")
    assert job.state == "finished", experiment.job_of(tmp_path, job.id)[1]
    assert json.loads((tmp_path / "outputs/first/adapter_config.json").read_text())["r"] == 4
    shown = page.text(f"/train/jobs/{job.id}")
    assert "Update 2 of 2" in shown
    assert Workspace(tmp_path).jobs.is_dir()
    text = page.text("/train/compare?run=outputs/first")
    assert "model.adapter.rank" in text


def test_every_script_has_names_of_its_own():
    """In one scope a second `const` of a name stops a whole script, and nobody is told."""
    tags = re.compile(r"<script[^>]*>")
    pages = [page.read_text("utf-8") for page in TEMPLATES.glob("*.jinja")]
    found = [tag for page in pages for tag in tags.findall(page)]
    assert len(found) == len(list(STATIC.glob("*.js")))
    assert all(tag.startswith('<script type="module" src=') for tag in found)
