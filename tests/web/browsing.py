"""A visitor of the page, as far as no browser is needed: links, forms, cookies."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response

from llama_factory.serving.api import create_app
from llama_factory.serving.engines.engine import AnswerEngine
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions.workspace import Workspace
from llama_factory.web.app import beside_api, create_web

HTML = {"accept": "text/html"}


class Visitor:
    """Somebody with cookies."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    @staticmethod
    def of(folder: Path, **options: object) -> "Visitor":
        """A visitor of a new page on this machine."""
        return Visitor.on(create_web(folder, **options))  # type: ignore[arg-type]

    @staticmethod
    def on(app: FastAPI) -> "Visitor":
        """Another visitor of a page."""
        return Visitor(TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False))

    @staticmethod
    @contextmanager
    def beside_api(
        folder: Path, engine: AnswerEngine, *, api_key: str | None = None, **options: Any
    ) -> Iterator["Visitor"]:
        """A visitor of a page with the API beside it.

        Args:
            folder: the workspace.
            engine: makes the answers.
            api_key: that the API asks for.
            options: of the API.
        """
        page = create_web(folder, has_api=True)
        api = create_app(Workspace(folder), ServingSettings(), engine, api_key=api_key, **options)
        both = beside_api(page)(api)
        address = "http://127.0.0.1:8000"
        with TestClient(both, base_url=address, follow_redirects=False) as client:
            yield Visitor(client)

    def get(self, path: str, **headers: str) -> Response:
        """A page."""
        return self.client.get(path, headers=HTML | headers)

    def text(self, path: str, **headers: str) -> str:
        """The text of a page that must be there."""
        answer = self.get(path, **headers)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:500])
        return answer.text

    @property
    def token(self) -> str:
        """What forms of this visitor carry."""
        found = re.search(r'name="csrf" content="([0-9a-f]+)"', self.get("/login").text)
        assert found
        return found[1]

    def post(self, path: str, data: dict[str, Any] | None = None, **headers: str) -> Response:
        """A form as the page has it."""
        values = {"csrf": self.token} | (data or {})
        return self.client.post(path, data=values, headers=HTML | headers)

    def log_in(self, name: str, password: str) -> Response:
        """As a user."""
        return self.post("/login", {"user": name, "password": password})
