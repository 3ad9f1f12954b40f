"""Hydra stops at the first override that does not fit; this finds them all and names what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from thawline.config_paths import conf_folder, options, shipped_root
from thawline.dotted import dotted
from thawline.errors import Problem, UsageError, nearest, nearest_path
from thawline.specs import without_libraries

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

    from thawline.planning.settings import RunSettings

_WITH_VALUE = {
    "--config-name", "-cn", "--config-path", "-cp", "--package", "-p", "--cfg", "-c",
}  # fmt: skip
_REFUSED = {"--experimental-rerun": "it would load a pickle, which can run code"}


def flags_first(argv: Sequence[str]) -> list[str]:
    """The arguments with Hydra's flags before the overrides: its parser takes them in no other order.

    Raises:
        UsageError: an argument is neither, or a flag is refused.
    """
    flags: list[str] = []
    overrides: list[str] = []
    problems: list[Problem] = []
    waiting = iter(argv)
    for argument in waiting:
        name = argument.partition("=")[0]
        if name in _REFUSED:
            problems.append(Problem(name, f"refused: {_REFUSED[name]}"))
        elif argument in _WITH_VALUE:
            flags += [argument, next(waiting, "")]
        elif argument.startswith("-"):
            flags.append(argument)
        elif is_override(argument):
            overrides.append(argument)
        else:
            problems.append(Problem("", f"{argument!r} is neither FIELD=VALUE nor an option"))
    if problems:
        raise UsageError(problems)
    return [*flags, *overrides]


def is_override(argument: str) -> bool:
    """Whether an argument of the command line changes the configuration."""
    key, equals, _ = argument.partition("=")
    return argument.startswith("~") or bool(equals and key.strip("+") and not key.startswith("-"))


def diagnose(argv: Sequence[str], error: Exception) -> list[Problem]:
    """The problems of a command line that Hydra refused with `error`: one for each override at fault.

    What is left without them is checked as a configuration, so that its wrong fields are named at once, too.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

    problems: list[Problem] = []
    later: list[Problem] = []
    try:
        composer = _Composer(argv)
        overrides = composer.parsed([argument for argument in argv if is_override(argument)], problems)
        chosen = [override for override in overrides if composer.is_choice(override)]
        unknown = [override for override in chosen if not composer.can_choose(override, problems)]
        chosen = [override for override in chosen if override not in unknown]
        # Which fields an option has that is not there, nobody can say.
        fields = [each for each in overrides if not composer.is_choice(each) and not _is_below(each, unknown)]
        with_choices = composer.compose(chosen)
        if not {"-m", "--multirun"} & set(argv) and with_choices.hydra.mode != RunMode.MULTIRUN:
            problems += [
                Problem(override.key_or_group, "several values are a sweep: add -m (or write [a,b] for a list)")
                for override in overrides
                if override.is_sweep_override()
            ]
        fields = [override for override in fields if _fits(override, with_choices, problems)]
        if not problems:
            _check_each_choice(composer, chosen, fields, problems)
        config = composer.compose([*chosen, *fields])
        checked(config, [str(override.input_line) for override in fields])
    except UsageError as found:
        later = list(found.problems)
    except (HydraException, OmegaConfBaseException) as next_error:
        # A combination that fits nowhere, or a mistake in the user's own YAML: Hydra's words are the best there are.
        error = next_error
    finally:
        GlobalHydra.instance().clear()
    # A field whose override has been left out has its default again, which is not what was asked for.
    named = {problem.field for problem in problems}
    problems += [problem for problem in later if problem.field not in named]
    return list(dict.fromkeys(problems)) or [Problem("", one_line(str(error)))]


def checked(config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved values of a configuration, right as far as that can be known without torch.

    A field that takes text has what its override says, also where Hydra reads that as a number; weights of a run have
    its whole identity.

    Raises:
        UsageError: with one problem for each wrong value.
    """
    from thawline.commands.composing import plain
    from thawline.commands.finding import name_runs_whole
    from thawline.commands.quoting import restore_text

    values = plain(config)
    problems = wrong_fields(values, config)
    if restore_text(values, overrides, [problem.field for problem in problems if problem.wants_text]):
        problems = wrong_fields(values, config)
    if problems:
        raise UsageError(problems)
    name_runs_whole(values)
    return values


def wrong_fields(values: Mapping[str, Any], config: DictConfig) -> list[Problem]:
    """What is wrong with the values of a configuration, one problem for each value that is written in it.

    Args:
        values: the resolved values.
        config: the same before interpolations were resolved: a field that only repeats a wrong one
            (``data_seed: ${seed}``) is not named.

    The arguments of a library's classes are checked only where the library is imported already.
    """
    from thawline.planning.settings import parse

    try:
        with without_libraries():
            settings = parse(values)
            return _absent(settings) + [
                Problem(f"source.{problem.field}", problem.message)
                for problem in (_absent(settings.source) if settings.source is not None else ())
            ]
    except UsageError as error:
        wrong = {problem.field for problem in error.problems}
        return [problem for problem in error.problems if _repeated(config, problem.field) not in wrong]


def _absent(settings: RunSettings) -> list[Problem]:
    """The files and folders that the settings name and that are not there."""
    from thawline.backbones.weights import check_file

    problems: list[Problem] = []
    weights = settings.backbone.local_weights()
    for check in (settings.dataset.check, *([lambda: check_file(weights)] if weights is not None else [])):
        try:
            check()
        except UsageError as error:
            problems += error.problems
    return problems


def one_line(text: str) -> str:
    """A message on one line."""
    return " ".join(line.strip() for line in text.strip().splitlines())


class _Composer:
    """Composes configurations with the groups and options that the command line's program has."""

    def __init__(self, argv: Sequence[str]) -> None:
        from hydra._internal.hydra import Hydra
        from hydra._internal.utils import create_config_search_path
        from hydra.core.global_hydra import GlobalHydra
        from hydra.core.override_parser.overrides_parser import OverridesParser

        GlobalHydra.instance().clear()
        hydra = Hydra.create_main_hydra2("thawline", create_config_search_path(str(conf_folder())))
        self._loader = hydra.config_loader
        self._parser = OverridesParser.create(config_loader=self._loader)
        # The options of groups are known only once a configuration was composed.
        self.compose([])

    def parsed(self, arguments: Sequence[str], problems: list[Problem]) -> list[Override]:
        """The overrides that can be read."""
        from hydra.errors import OverrideParseException

        from thawline.commands.quoting import in_shell, quoted

        found = []
        for argument in arguments:
            try:
                found += self._parser.parse_overrides([argument])
            except OverrideParseException as error:
                key, _, value = argument.partition("=")
                reason = one_line(str(error)).partition(" See http")[0]
                shown = in_shell(f"{key}={quoted(value)}")
                problems.append(Problem(key, f"cannot be read: {reason}; if it is meant as text: {shown}"))
        return found

    def compose(self, overrides: Sequence[Override]) -> DictConfig:
        """The configuration; of a sweep's values, with the first."""
        from hydra.types import RunMode

        lines = [_lines(override)[0] for override in overrides]
        return self._loader.load_configuration("config", lines, run_mode=RunMode.RUN)

    def is_choice(self, override: Override) -> bool:
        """Whether the override chooses an option of a group; a mapping in the group's place is a value."""
        return bool(self._options(override.key_or_group)) and not isinstance(override.value(), Mapping)

    def can_choose(self, override: Override, problems: list[Problem]) -> bool:
        """Whether the group has the options that are chosen."""
        options = self._options(override.key_or_group)
        wrong = [name for name in _choices(override) if name not in options]
        for name in wrong:
            hint = nearest(name, options) or f"; options: {', '.join(options)}"
            problems.append(Problem(override.key_or_group, f"there is no option {name!r}{hint}"))
        return not wrong

    def _options(self, group: str) -> list[str]:
        found: list[str] = self._loader.get_group_options(group)
        if group == "experiments":
            # They lie beside the config groups, each in a folder of its own: experiments=NAME/sweep.
            root = shipped_root() / group
            found += [str(path.relative_to(root).with_suffix("")) for path in sorted(root.glob("*/*.yaml"))]
        return found


def _check_each_choice(
    composer: _Composer, chosen: Sequence[Override], fields: Sequence[Override], problems: list[Problem]
) -> None:
    """Keep as problems the fields that fit the first option of a sweep over options, and not another one."""
    for override in chosen:
        for line in _lines(override)[1:]:
            others = [other for other in chosen if other is not override]
            config = composer.compose([*others, *composer.parsed([line], problems)])
            missing: list[Problem] = []
            for field in fields:
                _fits(field, config, missing)
            problems += [Problem(each.field, f"with {line}: {each.message}") for each in missing]


def _choices(override: Override) -> list[str]:
    """The names of options that an override chooses, over all values of a sweep; ``null`` chooses none."""
    values = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    listed = [name for value in values for name in (value if isinstance(value, list) else [value])]
    return [str(getattr(name, "text", name)) for name in listed if name is not None]


def _is_below(override: Override, groups: Sequence[Override]) -> bool:
    """Whether the override is of a field of one of these groups."""
    return any(override.key_or_group.startswith(f"{group.key_or_group.replace('/', '.')}.") for group in groups)


def _lines(override: Override) -> list[str]:
    """The override as it is written, or one with each of a sweep's values."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _fits(override: Override, config: DictConfig, problems: list[Problem]) -> bool:
    """Whether an override of a field finds its place in the configuration."""
    from omegaconf import DictConfig, ListConfig, OmegaConf

    if override.is_force_add():
        return True
    key = override.key_or_group
    above, _, name = key.rpartition(".")
    parent = OmegaConf.select(config, above) if above else config
    there = isinstance(parent, ListConfig) or (isinstance(parent, DictConfig) and name in list(parent))
    if override.is_add():
        message = "is there already; leave out the +" if there and not isinstance(parent, ListConfig) else ""
    elif there:
        message = ""
    elif isinstance(parent, DictConfig):
        # Compared without what they share, or every sibling would look near.
        hint = nearest(name, map(str, parent)) if above else ""
        whole = re.sub("(: |, )", rf"\1{above}.", hint)
        elsewhere = _elsewhere(above, name) if above else ""
        message = f"unknown field{elsewhere or whole or nearest_path(key, _flat(config))}"
    else:
        message = f"unknown field{nearest_path(key, _flat(config))}"
    if message:
        problems.append(Problem(key, message))
    return not message


def _elsewhere(group: str, name: str) -> str:
    """Which other options of a group have a field of this name."""
    texts = {option: file.read_text(encoding="utf-8", errors="replace") for option, file in options(group).items()}
    having = [option for option, text in texts.items() if re.search(rf"^{re.escape(name)}:", text, re.MULTILINE)]
    return f" of the chosen option; of {group} it is in {', '.join(having)}" if having else ""


def _flat(node: DictConfig) -> list[str]:
    from omegaconf import OmegaConf

    values = cast("dict[str, Any]", OmegaConf.to_container(node, resolve=False))
    return [name for name, _ in dotted(values) if not name.startswith("hydra.")]


def _repeated(config: DictConfig, field: str) -> str | None:
    """The field that another one repeats, if it does nothing else."""
    from omegaconf import DictConfig, OmegaConf

    above, _, name = field.rpartition(".")
    try:
        parent = OmegaConf.select(config, above) if above else config
    except ValueError:
        return None
    values = OmegaConf.to_container(parent, resolve=False) if isinstance(parent, DictConfig) else {}
    written = values.get(name) if isinstance(values, dict) else None
    match = re.fullmatch(r"\$\{([\w.]+)\}", written) if isinstance(written, str) else None
    return match[1] if match else None
