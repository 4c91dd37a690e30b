"""Addresses of other servers, as settings name them."""

from urllib.parse import urlsplit


def address(url: str) -> str:
    """An address without the slash at its end.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"'{url}' is no address. Write it as http://host:port.")
    return url.rstrip("/")
