"""Train: a form for the settings of single runs, the queue of runs, runs side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request, Response, UploadFile

from llama_factory import experiment
from llama_factory import run as verbs
from llama_factory.config.minimal import inline
from llama_factory.core.errors import ConfigError
from llama_factory.jobs.row_choices import RowChoices
from llama_factory.jobs.run_comparison import RunComparison
from llama_factory.jobs.single_runs import OUTPUTS, run_of, updates
from llama_factory.reports.listing import VersionRow
from llama_factory.versions.workspace import SETTINGS_FILE, Workspace
from llama_factory.web.charts.curves import Plot, Sample, plot, thin
from llama_factory.web.charts.training import NUM_LABELS, course_of
from llama_factory.web.forms import draw_form, read_form, written
from llama_factory.web.live_pages import LiveBody, asks_part, render_part
from llama_factory.web.pages import Who, attempt, back, has_token, may, render, version_name, words
from llama_factory.web.site import Place

NUM_RUNS = 30
MOST_NAMES = 200
MOST_SENT_BYTES = 300_000
"""Of the form, and of a file of settings."""
EMPTY: Mapping[str, Any] = {
    **{"pasted": None, "text": "", "read_problem": ""},
    **{"estimate": None, "estimate_problem": ""},
}
"""Parts of the page that are not asked for."""
router = APIRouter()


@dataclass(frozen=True)
class FilledForm:
    """A form as somebody filled it.

    Attributes:
        given: by name of a setting what was written for it.
        name: of the run; empty for a free one.
        is_asked: whether problems of the settings are shown.
        problem: why the form could not be filled as wished.
    """

    given: Mapping[str, str]
    name: str = ""
    is_asked: bool = False
    problem: str = ""

    @staticmethod
    def of(sent: Mapping[str, str]) -> "FilledForm":
        """What was sent."""
        return FilledForm(sent, sent.get("name", ""), is_asked=True)


async def _sent(request: Request) -> dict[str, str]:
    """What a form holds; what is ticked in a list, with commas between."""
    found: dict[str, str] = {}
    for key, value in (await request.form()).multi_items():
        if isinstance(value, str):
            found[key] = ",".join(filter(None, (found.get(key), value)))
    return found


Sent = Annotated[dict[str, str], Depends(_sent)]


@router.get("/train")
def train(request: Request, place: Place, start: str = "") -> Response:
    """The form, filled as somebody wishes, and the queue."""
    if asks_part(request):
        body = LiveBody("queue", ("jobs", "runs"), partial(_queue, place))
        return render_part(request, place, body)
    values, problem = attempt(partial(_beginning, place, start))
    return _page(request, place, FilledForm(written(values or {}), problem=problem))


@router.post("/train/show", dependencies=[has_token], max_body_size=MOST_SENT_BYTES)
def show(request: Request, place: Place, sent: Sent) -> Response:
    """What the form comes to: settings file, command line, problems. Nothing is written."""
    return _page(request, place, FilledForm.of(sent))


@router.post("/train/read", dependencies=[has_token], max_body_size=MOST_SENT_BYTES)
def read(
    request: Request,
    place: Place,
    text: Annotated[str, Form()] = "",
    file: Annotated[UploadFile | None, Form()] = None,
) -> Response:
    """A settings file in either dialect: what its keys came to, and the form filled with them."""
    from llama_factory.config.pasted import read_pasted

    if file is not None and file.size:
        text = file.file.read().decode("utf-8-sig", "replace")
    pasted, problem = attempt(partial(read_pasted, text.replace("\r\n", "\n")))
    given = written(pasted.values) if pasted else {}
    draft = FilledForm(given, is_asked=pasted is not None)
    return _page(request, place, draft, pasted=pasted, text=text, read_problem=problem)


@router.post("/train/estimate", dependencies=[may("operator")], max_body_size=MOST_SENT_BYTES)
def estimate(request: Request, place: Place, sent: Sent) -> Response:
    """Memory and time of a run."""
    values, unreadable = read_form(sent)
    name = sent.get("name", "")
    wanted = None if unreadable else partial(experiment.estimate_run, place, values, name)
    found, problem = attempt(wanted) if wanted else (None, "")
    return _page(request, place, FilledForm.of(sent), estimate=found, estimate_problem=problem)


@router.post("/train/start", dependencies=[may("operator")], max_body_size=MOST_SENT_BYTES)
def start(request: Request, place: Place, sent: Sent, who: Who) -> Response:
    """Put a run into the queue; it begins at once where nothing runs."""
    values, unreadable = read_form(sent)
    name = sent.get("name", "")
    try:
        if unreadable:
            raise ConfigError("")  # shown at the fields
        job = experiment.begin_run(place, values, name, who)
    except ConfigError:
        return _page(request, place, FilledForm.of(sent), status=422)
    return back(request, "train", words(request, "train.begun", name=name, id=job.id))


@router.post("/train/again", dependencies=[may("operator")])
def again(request: Request, place: Place, who: Who, name: Annotated[str, Form()]) -> Response:
    """Put a run that was stopped into the queue again."""
    job = experiment.continue_run(place, name, who)
    return back(request, "train", words(request, "train.begun", name=name, id=job.id))


@router.get("/train/compare")
def compare(
    request: Request,
    place: Place,
    run: Annotated[list[str] | None, Query()] = None,
    version: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """Runs and versions side by side."""
    runs, versions = run or [], [version_name(each) for each in version or []]
    names, problem = attempt(partial(experiment.run_names, place))
    compared, wrong = attempt(partial(experiment.compare_runs, place, runs, versions))
    listed: list[VersionRow] | None = None
    if (place.folder / SETTINGS_FILE).is_file():
        listed, _ = attempt(partial(verbs.versions, place, last=NUM_RUNS))
    return render(
        request,
        "runs",
        compared=compared if runs or versions else None,
        losses=_losses(compared) if compared else None,
        names=(names or [])[:MOST_NAMES],
        versions=[each.id for each in reversed(listed or [])],
        chosen={*runs, *versions},
        inline=inline,
        problem=problem or wrong,
    )


def _losses(compared: RunComparison) -> Plot | None:
    """The loss of every run by the number of the update."""
    series = {
        each.name: thin([Sample(float(step), loss) for step, loss in each.losses])
        for each in compared.runs
    }
    last = max((step for each in compared.runs for step, _ in each.losses), default=0)
    marks = {float(round(last * n / NUM_LABELS)) for n in range(NUM_LABELS + 1)}
    return plot(series, {each: f"{each:.0f}" for each in sorted(marks)})


@router.get("/train/jobs/{job_id}")
def job(request: Request, place: Place, job_id: str) -> Response:
    """A run as it goes, with the end of what it printed."""
    shown, log = experiment.job_of(place, job_id)
    name = run_of(shown)
    rows = updates(place.folder / OUTPUTS / name) if name else ()
    return render(
        request, "job", job=shown, log=log, run=name, course=course_of(rows), list_page="train"
    )


@router.post("/train/jobs/{job_id}/stop", dependencies=[may("operator")])
def stop(request: Request, place: Place, job_id: str) -> Response:
    """Ask a run to stop, or take it out of the queue."""
    experiment.stop_job(place, job_id)
    return back(request, "train", words(request, "rounds.stopping"))


def _beginning(place: Workspace, start: str) -> dict[str, Any]:
    """Settings to begin with: those of the workspace, of a run, or none."""
    if start.startswith("run:"):
        return experiment.settings_of_run(place, start.removeprefix("run:"))
    return {} if start == "defaults" else experiment.run_settings(place)


def _page(
    request: Request, place: Workspace, draft: FilledForm, *, status: int = 200, **more: Any
) -> Response:
    rows = experiment.rows_to_choose(place)
    given = _with_folder_of_sets(draft.given, rows.named)
    values, unreadable = read_form(given)
    name = draft.name or experiment.free_name(place)
    checked = experiment.check_run(place, values, name)
    found = {**unreadable, **checked.problems} if draft.is_asked else {}
    groups = draw_form(given, found, _proposed(rows, given))
    shown = {each.problem for group in groups for field in group.fields for each in field.every()}
    return render(
        request,
        "train",
        status=status,
        groups=groups,
        run_name=name,
        name_problem=found.get("name", ""),
        checked=checked,
        is_asked=draft.is_asked,
        problems=[draft.problem, *rows.problems, *_elsewhere(found, shown)],
        is_workspace=(place.folder / SETTINGS_FILE).is_file(),
        **{**EMPTY, **_queue(place), **more},
    )


def _queue(place: Workspace) -> dict[str, Any]:
    runs, problem = attempt(partial(experiment.queue, place, NUM_RUNS))
    return {
        "runs": runs or [],
        "num_alive": sum(each.job.is_alive for each in runs or []),
        "queue_problem": problem,
    }


def _proposed(rows: RowChoices, given: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """By name of a setting what there is to choose."""
    names = rows.named.get(given.get("data.dataset_dir") or "data", ())
    return {
        "data.dataset": names,
        "data.eval_dataset": names,
        "data.dataset_dir": tuple(rows.named),
    } | dict.fromkeys(("data.train_path", "data.eval_path", "evaluation.guard"), rows.paths)


def _with_folder_of_sets(given: Mapping[str, str], named: Mapping[str, Any]) -> dict[str, str]:
    """The form with a folder of named sets chosen, where the usual one has none."""
    if "data.dataset_dir" in given or "data" in named or not named:
        return dict(given)
    return {**given, "data.dataset_dir": next(iter(named))}


def _elsewhere(found: Mapping[str, str], shown: set[str]) -> list[str]:
    """Problems that no field of the form shows."""
    listed = []
    for where, text in found.items():
        if where != "name" and not any(text in each for each in shown):
            listed.append(": ".join(filter(None, (where, text))))
    return listed
