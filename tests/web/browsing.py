"""A visitor of the page, as far as no browser is needed: links, forms, cookies."""

import re
from pathlib import Path

from fastapi.testclient import TestClient
from httpx import Response

from llama_factory.web.app import create_web

HTML = {"accept": "text/html"}


class Visitor:
    """Somebody with cookies."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    @staticmethod
    def of(folder: Path, **options: object) -> "Visitor":
        """A visitor of a new page on this machine."""
        app = create_web(folder, **options)  # type: ignore[arg-type]
        return Visitor(TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False))

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

    def post(self, path: str, data: dict[str, str] | None = None, **headers: str) -> Response:
        """A form as the page has it."""
        values = {"csrf": self.token} | (data or {})
        return self.client.post(path, data=values, headers=HTML | headers)

    def log_in(self, name: str, password: str) -> Response:
        """As a user."""
        return self.post("/login", {"user": name, "password": password})
