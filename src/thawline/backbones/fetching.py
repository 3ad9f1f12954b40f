"""Weights from the internet: found in the cache, or fetched, or refused at once where the server is out of reach."""

from __future__ import annotations

import contextlib
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlparse

from thawline.backbones.descriptions import FIELD
from thawline.errors import UsageError, first_line, usage_error

_PATIENCE_SECONDS = 10.0


def hub_file(repository: str, filenames: Sequence[str]) -> Path | None:
    """A file of a Hugging Face repository that is in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = repository.partition("@")
    for filename in filenames:
        found = try_to_load_from_cache(name, filename, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def downloaded_file(url: str) -> Path | None:
    """What torch.hub downloaded from `url` before, if it did."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    return path if path.is_file() else None


@contextlib.contextmanager
def within_reach(url: str, network: str) -> Iterator[None]:
    """A block that fetches `network` from the server of `url`.

    The libraries try again for most of a minute, or for ever, where there is no way to the server; so that is asked
    first, and sockets get a time limit.

    Raises:
        UsageError: the server cannot be reached, or the block fails.
    """
    parts = urlparse(url)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE_SECONDS)
    try:
        _ask(f"{parts.scheme}://{parts.netloc}/")
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise unreachable(network, error) from None
    finally:
        socket.setdefaulttimeout(before)


def _ask(server: str) -> None:
    if not server.startswith(("https://", "http://")):
        raise ValueError(f"{server} is no web address")
    request = urllib.request.Request(server, method="HEAD")  # noqa: S310  # the scheme is checked above
    with contextlib.suppress(urllib.error.HTTPError):  # an answer, whatever it says
        urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS).close()  # noqa: S310  # as above


def unreachable(network: str, error: Exception) -> UsageError:
    """What is said when the library's weights cannot be fetched."""
    return usage_error(
        FIELD,
        f"the weights of {network} cannot be fetched ({first_line(error)}); give a local file (.safetensors or .pth), "
        "or null for random weights",
    )
