"""Settings: factory.yaml with a check and its difference before it is saved; keys; users."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from llama_factory import operate, oversee
from llama_factory.core.errors import ConfigError
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.serving.access import SCOPES, ApiKey
from llama_factory.versions.workspace import Workspace
from llama_factory.web.pages import attempt, back, may, needs, render, words
from llama_factory.web.site import Here, visit_of

WRONG_KEY = kind("problem.wrong_key", "'{scopes}', '{rate}': take scopes of the list and a number.")

Text = Annotated[str, Form()]
router = APIRouter()


@router.get("/settings", dependencies=[needs("operator")])
def settings(request: Request, workspace: Here) -> Response:
    """The file as it is, and the keys."""
    (text, seen), problem = _read(workspace)
    return _page(request, workspace, text=text, seen=seen, problem=problem)


@router.post("/settings/check", dependencies=[may("operator")])
def check(request: Request, workspace: Here, text: Text, seen: Text) -> Response:
    """What would change; nothing is written."""
    lines, problem = attempt(partial(oversee.settings_change, workspace, _plain(text)))
    return _page(request, workspace, text=_plain(text), seen=seen, problem=problem, lines=lines)


@router.post("/settings/save", dependencies=[may("operator")])
def save(request: Request, workspace: Here, text: Text, seen: Text) -> Response:
    """Write the file."""
    try:
        oversee.save_settings(workspace, _plain(text), seen)
    except ConfigError as error:
        return _page(request, workspace, text=_plain(text), seen=seen, problem=str(error))
    return back(request, "settings", words(request, "settings.saved"))


@router.post("/settings/keys", dependencies=[may("operator")])
def create_key(
    request: Request,
    workspace: Here,
    name: Text,
    scopes: Annotated[list[str], Form()],
    rate: Annotated[str, Form()] = "",
) -> Response:
    """A new key, which is shown only in this answer."""
    if not set(scopes) <= set(SCOPES) or not (rate.isdigit() or not rate):
        raise ConfigError(WRONG_KEY(scopes=", ".join(scopes), rate=rate))
    chosen = tuple(each for each in SCOPES if each in scopes)
    wanted = ApiKey(name, chosen, int(rate) if rate else None)
    secret = operate.create_key(workspace, wanted)
    (text, seen), problem = _read(workspace)
    return _page(
        request, workspace, text=text, seen=seen, problem=problem, secret=secret, key_name=name
    )


@router.post("/settings/keys/revoke", dependencies=[may("operator")])
def revoke_key(request: Request, workspace: Here, name: Text) -> Response:
    """End a key."""
    operate.revoke_key(workspace, name)
    return back(request, "settings", words(request, "settings.revoked", name=name))


def _read(workspace: Workspace) -> tuple[tuple[str, str], str]:
    read, problem = attempt(partial(oversee.settings_text, workspace))
    return read or ("", ""), problem


def _page(
    request: Request, workspace: Workspace, *, text: str, seen: str, problem: str, **more: object
) -> Response:
    keys, wrong = attempt(partial(operate.keys, workspace))
    values = {"lines": None, "secret": "", "key_name": ""} | more
    return render(
        request,
        "settings",
        text=text,
        seen=seen,
        problem=problem,
        keys=keys or (),
        keys_problem=wrong,
        scopes=SCOPES,
        users=visit_of(request).site.users,
        **values,  # type: ignore[arg-type]
    )


def _plain(text: str) -> str:
    """As a file has it: browsers send two characters at the end of a line."""
    return text.replace("\r\n", "\n")
