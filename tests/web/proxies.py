"""Reverse proxies with TLS before the page: Debian's nginx as the guide says, and a small one."""

import http.client
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

GUIDE = Path(__file__).parents[2] / "docs" / "web.md"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
OPENSSL = shutil.which("openssl")
HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "host")
MOST_BYTES = 1 << 16


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate that nobody knows, and its key."""
    assert OPENSSL is not None
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([OPENSSL, *request, "/CN=127.0.0.1", *files], check=True, capture_output=True)
    return certificate, key


@contextmanager
def nginx(page: str, path: str, folder: Path) -> Iterator[str]:
    """nginx with the lines of the guide.

    Args:
        page: its address.
        path: under which it is to be, such as `/some/path/`.
        folder: a new one.

    Yields:
        The address in front.
    """
    assert NGINX is not None
    certificate, key = make_certificate(folder)
    (lines,) = re.findall(r"```nginx\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    lines = lines.replace("/bots/", path).replace("http://127.0.0.1:8000/", page)
    port = _free_port()
    settings = folder / "nginx.conf"
    scratch = "".join(
        f"{each}_temp_path {folder}/{each};"
        for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    settings.write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {scratch} server {{ listen 127.0.0.1:{port} ssl;\n"
        f"ssl_certificate {certificate}; ssl_certificate_key {key};\n{lines} }} }}\n"
    )
    log = folder / "error.log"
    process = subprocess.Popen([NGINX, "-e", str(log), "-c", str(settings), "-p", str(folder)])
    try:
        _wait_for(port, process, log)
        yield f"https://127.0.0.1:{port}{path}"
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def small(page: str, path: str, folder: Path) -> Iterator[str]:
    """A proxy as careless as proxies are: it tells its own name, and takes the path off.

    Args: and Yields: as `nginx`.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Passing)
    server.page, server.path = urlsplit(page).netloc, path  # type: ignore[attr-defined]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_certificate(folder))
    # The handshake is made by the thread of each connection: one that waits holds up nobody.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}{path}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Passing(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        path: str = self.server.path  # type: ignore[attr-defined]
        if not self.path.startswith(path):
            self.send_error(404)
            return
        there = http.client.HTTPConnection(self.server.page, timeout=600)  # type: ignore[attr-defined]
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length) if length else None
        there.request(self.command, f"/{self.path.removeprefix(path)}", body, self._headers())
        self._pass_back(there.getresponse())

    do_POST = do_GET  # noqa: N815 - the name is the base class's

    def _headers(self) -> dict[str, str]:
        sent = {
            name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP
        }
        return sent | {
            "X-Forwarded-For": "10.0.0.9",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": self.headers["host"],
        }

    def _pass_back(self, answer: http.client.HTTPResponse) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.end_headers()
        while piece := answer.read1(MOST_BYTES):
            self.wfile.write(piece)
            self.wfile.flush()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < until:
        with socket.socket() as knocking:
            if knocking.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nginx did not start: {log.read_text() if log.exists() else ''}")
