"""A report's page as its tests read it: its data, its scripts, and what it lets a browser do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_SCRIPT = re.compile(r"<script([^>]*)>(.*?)</script>", re.DOTALL)


def text_of(page: Path) -> str:
    """The page, byte for byte: no line end is changed."""
    return page.read_bytes().decode("utf-8")


def data_of(page: Path) -> dict[str, Any]:
    """The block of data that the page's charts and table of runs are drawn from."""
    (block,) = (text for attributes, text in _SCRIPT.findall(text_of(page)) if 'id="data"' in attributes)
    found: dict[str, Any] = json.loads(block)
    return found


def scripts_of(page: Path) -> list[str]:
    """The code of the scripts that a browser runs."""
    return [text for attributes, text in _SCRIPT.findall(text_of(page)) if 'type="module"' in attributes]


def policy_of(page: Path) -> dict[str, list[str]]:
    """The page's content security policy: for each directive its sources."""
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text_of(page))
    parts = [part.split() for part in policy.replace("&#39;", "'").split(";")]
    return {name: sources for name, *sources in parts}
