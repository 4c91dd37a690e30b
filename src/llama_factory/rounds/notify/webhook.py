"""A message by HTTP, signed. It goes to the addresses that were checked and follows no redirect."""

import hashlib
import hmac
import http.client
import ipaddress
import json
import os
import socket
import ssl
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import field_validator

from llama_factory.core.durations import Duration
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.rounds.notify import RECEIVERS, NotDeliveredError, Receiver

TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""How translators write addresses of the old kind (RFC 6052)."""
PORTS = {"http": 80, "https": 443}


NO_WEB_ADDRESS = kind_of_sentence(
    "settings.no_web_address", "'{url}' is no address of http or https."
)


@RECEIVERS.register("webhook")
class Webhook(Receiver):
    """Sends each message as JSON in a POST.

    The header `X-Signature` is `sha256=` and the HMAC-SHA256, with the secret, of the header
    `X-Timestamp`, a dot and the body; `Idempotency-Key` is the same when a message comes again.
    """

    url: str
    """Where to; http or https."""
    secret_env: str = ""
    """Name of the environment variable that holds the secret; empty sends no signature."""
    allow_internal: bool = False
    """Whether it may be an address of this machine or of a private network."""
    timeout: Duration = timedelta(seconds=10)
    """How long to wait for the receiver at each step."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname:
            raise ValueError(NO_WEB_ADDRESS(url=url))
        _ = parts.port
        return url

    @property
    def name(self) -> str:
        """See `Receiver`; without what may be secret in the address."""
        parts = urlsplit(self.url)
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:8]
        return f"webhook {parts.scheme}://{parts.hostname} {digest}"

    def problem(self) -> str:
        """See `Receiver`."""
        if self.secret_env and not os.environ.get(self.secret_env):
            return f"secret_env: the environment has no {self.secret_env}. Set it, and start anew."
        return ""

    def send(self, key: str, message: dict[str, Any], folder: Path) -> None:
        """See `Receiver`."""
        if problem := self.problem():
            raise NotDeliveredError(problem)
        body = json.dumps(message, ensure_ascii=False).encode()
        try:
            status = self._post(body, self._headers(key, body))
        except (OSError, http.client.HTTPException) as error:
            raise NotDeliveredError(f"{self.name}: {type(error).__name__}: {error}") from error
        if not 200 <= status < 300:
            raise NotDeliveredError(
                f"{self.name}: it answered with status {status}; 2xx is expected, and redirects "
                "are not followed."
            )

    def _headers(self, key: str, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if self.secret_env:
            stamp = str(int(time.time()))
            signed = f"{stamp}.".encode() + body
            secret = os.environ[self.secret_env].encode()
            digest = hmac.new(secret, signed, hashlib.sha256).hexdigest()
            headers |= {"X-Timestamp": stamp, "X-Signature": f"sha256={digest}"}
        return headers

    def _post(self, body: bytes, headers: dict[str, str]) -> int:
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
        connection = http.client.HTTPConnection(host, port)
        connection.sock = self._connect(host, port, is_secure=parts.scheme == "https")
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", path, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def _connect(self, host: str, port: int, *, is_secure: bool) -> socket.socket:
        """A connection to the very address that was checked: a name may mean another one later."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(each[4][0]) for each in found]
        inside = [each for each in addresses if not is_public(each)]
        if inside and not self.allow_internal:
            raise NotDeliveredError(
                f"{self.name}: {host} is {inside[0]}, an address of this machine or of a private "
                "network. Set allow_internal: true if that is meant."
            )
        plain = socket.create_connection((addresses[0], port), self.timeout.total_seconds())
        if not is_secure:
            return plain
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)


def _translated(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The address of the old kind that a translator would reach."""
    return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) if address in TRANSLATED else None


def is_public(address: str) -> bool:
    """Whether an address is one of the internet's: not this machine's, not a private network's."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or _translated(parsed)
        if inner is not None:
            return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast
