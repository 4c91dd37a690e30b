"""Who a request comes from: signed cookies, and the tokens that changes must carry. No HTTP."""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llama_factory.core import files
from llama_factory.serving.users import PageUser

SECRET_FILE = ".web-secret"
SECRET_BYTES = 32
SESSION_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class Session:
    """One browser.

    Attributes:
        user: its name; empty before a log-in.
        nonce: random, unlike every other session's.
        issued: seconds since 1970.
    """

    user: str
    nonce: str
    issued: int


class Sessions:
    """Issues and reads sessions of one workspace. Nothing of them is stored."""

    def __init__(self, secret: bytes, clock: Callable[[], float]) -> None:
        self._secret = secret
        self._clock = clock
        self.cookie = f"lf_session_{hashlib.sha256(secret).hexdigest()[:8]}"

    def begin(self, user: str = "") -> Session:
        """A new session."""
        return Session(user, secrets.token_urlsafe(18), int(self._clock()))

    def write(self, session: Session, user: PageUser | None) -> str:
        """The cookie of a session; another password of the user makes it worthless."""
        values = [session.user, session.nonce, session.issued]
        text = base64.urlsafe_b64encode(json.dumps(values).encode()).decode()
        return f"{text}.{self._sign('session', text, user)}"

    def name_in(self, cookie: str) -> str:
        """Whose session a cookie claims to be; empty where it can be read by nobody."""
        session = _parse(cookie.partition(".")[0])
        return session.user if session else ""

    def read(self, cookie: str, user: PageUser | None) -> Session | None:
        """The session of a cookie; None where it was not issued here, or too long ago.

        Args:
            cookie: what the browser sent.
            user: who `name_in` names; None for nobody.
        """
        text, _, signature = cookie.partition(".")
        expected = self._sign("session", text, user)
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            return None
        session = _parse(text)
        if session is None or session.user != (user.name if user else ""):
            return None
        age = self._clock() - session.issued
        return session if -60 <= age < SESSION_SECONDS else None

    def token(self, session: Session) -> str:
        """What every change of a session must carry."""
        return self._sign("change", f"{session.user}:{session.nonce}", None)

    def is_token(self, session: Session, sent: str) -> bool:
        """Whether a change of a session carries its token."""
        return hmac.compare_digest(self.token(session).encode(), sent.encode())

    def _sign(self, purpose: str, text: str, user: PageUser | None) -> str:
        parts = "\n".join([purpose, text, user.scrypt if user else ""])
        return hmac.new(self._secret, parts.encode(), hashlib.sha256).hexdigest()


def read_secret(folder: Path) -> bytes:
    """The secret that signs a folder's sessions; made where there is none yet."""
    path = folder / SECRET_FILE
    with files.locked(folder / ".web.lock", what="making the page's secret", seconds=10):
        if path.exists() and len(known := path.read_bytes()) == SECRET_BYTES:
            return known
        made = secrets.token_bytes(SECRET_BYTES)
        with files.writing(path, is_private=True) as file:
            file.write(made)
    return made


def _parse(text: str) -> Session | None:
    try:
        user, nonce, issued = json.loads(base64.urlsafe_b64decode(text.encode()))
        return Session(str(user), str(nonce), int(issued))
    except (ValueError, TypeError):
        return None
