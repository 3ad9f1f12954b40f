"""Hooks of mkdocs (``make docs``): pages that lie outside ``docs/``, and the pages of the API reference."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {
    "README.md": "start.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "tests/README.md": "tests.md",
    "experiments/digits_depth/README.md": "digits_depth.md",
    "experiments/shallow_rates/README.md": "shallow_rates.md",
    "experiments/defaults/README.md": "defaults.md",
    "experiments/wandb_agent/README.md": "wandb_agent.md",
    "constraints.txt": "constraints.txt",
}
"""Files of the repository -> what they are called in the documentation, which is flat."""
_LINK = re.compile(r"\]\(([^)#\s]+)((?:#[^)\s]*)?)\)")
_CLASS = re.compile(r"`(thawline\.[\w.]+\.[A-Z]\w+)`")
_ORIGINS = {target: source for source, target in OUTSIDE.items()}
_REFERENCE = """\
# thawline.{name}

::: thawline.{name}
    options:
      show_root_heading: false
      show_root_toc_entry: false
      show_submodules: true
"""


def documented() -> list[str]:
    """The packages and modules below ``thawline`` that have a page in the reference."""
    source = ROOT / "src" / "thawline"
    packages = [file.parent.name for file in source.glob("*/__init__.py")]
    return sorted([*packages, *(file.stem for file in source.glob("*.py") if not file.stem.startswith("__"))])


def relinked(markdown: str, page: str) -> str:
    """The links of a page as they are in the documentation; `page` is its path in the repository."""

    def renamed(match: re.Match[str]) -> str:
        link, anchor = match.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
        if "://" not in link:
            link = OUTSIDE.get(path, path.removeprefix("docs/"))
        return f"]({link}{anchor})"

    return _LINK.sub(renamed, markdown)


def on_config(config: Any) -> Any:
    """Add the pages of the reference to the navigation."""
    config.nav.append({"Reference": ["api.md", *({name: f"reference_{name}.md"} for name in documented())]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside ``docs/``, and a page for each package."""
    for source, target in OUTSIDE.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text(encoding="utf-8")))
    for name in documented():
        files.append(File.generated(config, f"reference_{name}.md", content=_REFERENCE.format(name=name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Follow the pages to where they are in the documentation."""
    if page.file.src_uri == "api.md":
        markdown = _CLASS.sub(r"[`\1`][\1]", markdown)
    return relinked(markdown, _ORIGINS.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
