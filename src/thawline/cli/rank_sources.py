"""``thawline rank-sources``: which source model promises most for a target, before any training."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from thawline.commands.console import console, errors
from thawline.config_paths import conf_folder
from thawline.errors import Problem, UsageError, usage_error

if TYPE_CHECKING:
    from thawline.sweeps.source_ranking import Candidate, SourceRanking

_HEADINGS = {
    "logme": "LogME",
    "shrunk_h_score": "H-score, shrunk",
    "h_score": "H-score",
    "leep": "LEEP",
    "nce": "NCE",
}
_RUN = "run:"
_WIDE = 110
"""Narrower terminals have no room for what a source costs."""


def run(argv: Sequence[str]) -> int:
    """Rank the sources, show the table and write it as JSON and CSV.

    Raises:
        UsageError: a source or the target cannot be used.
    """
    from thawline.files import atomic_write
    from thawline.planning.session import Session
    from thawline.reports.rendering import csv_text
    from thawline.sweeps.source_ranking import rank, write_ranking

    arguments = _parser().parse_intermixed_args(argv)
    candidates = _candidates(arguments)
    session = Session(len(candidates))
    with errors.status("") as status:
        ranking = rank(candidates, arguments.by, session, lambda label: status.update(Text(label)))
    file = write_ranking(ranking)
    table = file.with_suffix(".csv")
    with atomic_write(table) as stream:
        stream.write(csv_text(_rows(ranking)).encode("utf-8", errors="replace"))
    if arguments.json:
        print(json.dumps(_rows(ranking), indent=2, allow_nan=False))
    else:
        _show(ranking, file, table)
    return 0


def _candidates(arguments: argparse.Namespace) -> list[Candidate]:
    """The sources with their configurations; every problem of every source at once."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from thawline.commands.diagnosis import diagnose
    from thawline.commands.project import with_output_dir
    from thawline.commands.quoting import as_text
    from thawline.commands.training import opened
    from thawline.sweeps.source_ranking import Candidate

    shared, sources = _sources(arguments)
    found, problems = [], []
    for source in sources:
        overrides: list[str] = []
        try:
            label, network, overrides = _read(source)
            overrides = with_output_dir([opened(as_text(override)) for override in [*shared, *overrides]])
            found.append(Candidate(label, _composed(network, overrides)))
        except (HydraException, OmegaConfBaseException) as error:
            problems += diagnose(overrides, error)
        except UsageError as error:
            problems += error.problems
    labels = [candidate.label for candidate in found]
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        problems.append(Problem("", f"two sources are called {label!r}; name one: --source 'NAME: {label}'"))
    if problems:
        raise UsageError(list(dict.fromkeys(problems)))
    return found


def _sources(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The overrides of all sources, and the sources: those of ``backbones=[...]``, then those of ``--source``."""
    shared, sources = [], []
    for override in arguments.overrides:
        name, _, value = override.partition("=")
        if name == "backbones":
            sources += [item.strip() for item in value.strip().removeprefix("[").removesuffix("]").split(",")]
        else:
            shared.append(override)
    sources = [source for source in [*sources, *arguments.source] if source]
    if not sources:
        raise usage_error("", "name the sources: backbones=[mobilenetv2,resnet18] or --source 'resnet18 OVERRIDE ...'")
    return shared, sources


def _read(source: str) -> tuple[str, str, list[str]]:
    """Of one source its label, the run that made it (or nothing), and the overrides that make its network."""
    try:
        words = shlex.split(source)
    except ValueError as error:
        raise usage_error("", f"{source!r} cannot be read: {error}") from None
    label = words.pop(0).removesuffix(":") if len(words) > 1 and words[0].endswith(":") else ""
    options = [word for word in words if "=" not in word and not word.startswith("~")]
    rest = [word for word in words if word not in options]
    if len(options) > 1:
        raise usage_error("", f"{source!r} names {len(options)} backbones; OVERRIDES are FIELD=VALUE")
    label = label or ", ".join([*options, *map(_in_words, rest)])
    if options and options[0].startswith(_RUN):
        if rest:
            raise usage_error("", f"{source!r}: the network of a run is taken as it is, without {rest[0]}")
        return label, options[0].removeprefix(_RUN), []
    return label, "", [*(f"backbone={option}" for option in options), *rest]


def _in_words(override: str) -> str:
    """An override in a label: without the words that all have, a file by its name."""
    name, _, value = override.lstrip("+").partition("=")
    return f"{name.removeprefix('backbone.')}={value.rpartition('/')[2]}"


def _composed(network: str, overrides: Sequence[str]) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from thawline.commands.composing import plain
    from thawline.commands.finding import name_runs_whole, whole_identity
    from thawline.sweeps.source_ranking import of_run

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = plain(compose("config", list(overrides), return_hydra_config=False))
    if config.get("source") is not None:
        raise usage_error("source", "train the source first; then name it as run:IDENTITY")
    name_runs_whole(config)
    return of_run(config, whole_identity(network, Path(config["output_dir"]))) if network else config


def _rows(ranking: SourceRanking) -> list[dict[str, Any]]:
    """A row per source, best first, in full precision."""
    return [
        {
            "rank": place,
            "source": source.label,
            "backbone": source.backbone,
            "weights": source.weights["description"],
            "features": source.feature_dim,
            "source_classes": source.source_classes,
            **source.scores,
            "seconds": source.seconds,
        }
        for place, source in enumerate(ranking.sources, start=1)
    ]


def _show(ranking: SourceRanking, file: Path, csv: Path) -> None:
    from thawline.reports.escaping import plain as plain_text

    shown = [name for name in _HEADINGS if any(source.scores[name] is not None for source in ranking.sources)]
    wide = console.width >= _WIDE
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("source", overflow="fold", min_width=20)
    for heading in (*(_HEADINGS[name] for name in shown), *(("features", "seconds") if wide else ())):
        table.add_column(heading, justify="right")
    for place, source in enumerate(ranking.sources, start=1):
        scores = [source.scores[name] for name in shown]
        printed = ["-" if score is None else f"{score:.4f}" for score in scores]
        cost = (f"{source.feature_dim:,}", f"{source.seconds:.1f}") if wide else ()
        # Names come from outside: as Text they are shown as they are, as a string they would be read as markup.
        table.add_row(*(Text(plain_text(entry)) for entry in (str(place), source.label, *printed, *cost)))
    console.print(table)
    target = ranking.target
    console.print(
        Text(
            f"by {_HEADINGS[ranking.by]}, on {target['samples']:,} training images of {len(target['classes'])} "
            "classes; higher is better, within a column only"
        )
    )
    if any(source.scores["h_score"] is None for source in ranking.sources):
        console.print(Text("H-score says nothing where there are not more samples than features", style="dim"))
    if any(source.scores["leep"] is None for source in ranking.sources):
        console.print(Text("LEEP and NCE need a source with its own classifier", style="dim"))
    console.print(Text(f"ranking: {file}\ntable:   {csv}"), soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thawline rank-sources",
        description="Rank source models for a target by transferability scores of its training split; trains nothing.",
        epilog="example: thawline rank-sources dataset=image_folder dataset.root=flowers 'backbones=[mobilenetv2,"
        "resnet18]' --source 'birds: mobilenetv2 backbone.weights=birds.pth' --source run:0123456789abcdef0123",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="FIELD=VALUE as of thawline train: the target; backbones=[A,B] names sources by their option",
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="'[NAME:] BACKBONE OVERRIDE ...'",
        help="a source with its own overrides, or run:IDENTITY, a model that thawline trained; again for each",
    )
    parser.add_argument("--by", choices=tuple(_HEADINGS), default="logme", help="the score that ranks (default: logme)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
