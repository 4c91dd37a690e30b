"""Addresses of other servers, as settings name them."""

from urllib.parse import urlsplit

from llama_factory.core.sentences import kind_of_sentence

NO_ADDRESS = kind_of_sentence(
    "settings.no_address", "'{url}' is no address. Write it as http://host:port."
)


def address(url: str) -> str:
    """An address without the slash at its end.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(NO_ADDRESS(url=url))
    return url.rstrip("/")
