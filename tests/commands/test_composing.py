"""A grid composed once and filled with values is the grid that Hydra composes cell by cell."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from thawline.commands.composing import Composer, Grid, plain
from thawline.config_paths import conf_folder
from thawline.errors import UsageError
from thawline.sweeps.cells import CellConfig


class Counting:
    """Hydra's config loader, counting what it composes."""

    def __init__(self, loader):
        self._loader = loader
        self.composed = []

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def load_sweep_config(self, config, overrides):
        self.composed.append(overrides)
        return self._loader.load_sweep_config(config, overrides)


@pytest.fixture
def hydra():
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
        yield SimpleNamespace(config_loader=Counting(loader), config=config)


@pytest.mark.parametrize(
    ("arguments", "composed"),
    [
        (["seed=0,1,2", "freeze_policy.k=range(0,3)"], 1),
        (["seed=0,1", "optimizer=sgd,adamw", "optimizer.lr=0.1,1e-3"], 2),
        (["freeze_policy=last_k,full", "seed=3", "trainer.precision=32-true,bf16-mixed"], 2),
        (["dataset.n_per_class=null,4", "backbone.weights=null,'a, b'", "cache.mode=auto,off"], 1),
        (["transform.size=32,48", "head=mlp", "head.hidden=[8],[8,4]"], 1),
        (["output_dir=a,b", "sweep.retries=1"], 1),
        (["source=none,digits_low", "seed=1,2"], 2),
        # What overlaps, adds, removes or is no plain value is left to Hydra.
        (["trainer={batch_size:3},{batch_size:4}", "trainer.max_epochs=5,6"], 4),
        (["trainer.max_epochs=5,6", "trainer={batch_size:3},{batch_size:4}"], 4),
        (["+backbone.arguments.pad_type=same,valid"], 2),
        (["~metrics.top_k", "seed=0,1"], 1),
        (["loss={label_smoothing:0.1},{label_smoothing:0.2}"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_values_set_later_are_what_hydra_sets(hydra, arguments, composed):
    grid = Grid(Composer(hydra, hydra.config), arguments)
    cells = [CellConfig(point.overrides, point.label, plain(point.config)) for point in grid]
    assert len(cells) == len(grid)
    assert len(hydra.config_loader.composed) == composed
    for cell in cells:
        whole = hydra.config_loader.load_sweep_config(hydra.config, list(cell.overrides))
        assert cell.config == plain(whole)
        assert repr(cell.config) == repr(plain(whole))
    assert len({repr(cell.config) for cell in cells}) == len(cells)


def test_the_last_key_runs_fastest_and_labels_hold_what_is_swept(hydra):
    grid = Grid(Composer(hydra, hydra.config), ["seed=0,1", "optimizer.lr=0.5", "freeze_policy.k=1,all"])
    assert grid.axes == {"seed": ["0", "1"], "freeze_policy.k": ["1", "all"]}
    assert [point.label for point in grid] == [
        "seed=0 freeze_policy.k=1",
        "seed=0 freeze_policy.k=all",
        "seed=1 freeze_policy.k=1",
        "seed=1 freeze_policy.k=all",
    ]
    assert [point.config.data_seed for point in grid] == [0, 0, 1, 1]


def test_a_single_cell_is_called_by_all_its_overrides(hydra):
    (point,) = Grid(Composer(hydra, hydra.config), ["seed=4", "optimizer.lr=0.5"])
    assert point.label == "seed=4 optimizer.lr=0.5"


def test_an_interval_is_no_grid(hydra):
    with pytest.raises(UsageError, match="an interval cannot be swept"):
        Grid(Composer(hydra, hydra.config), ["seed=interval(0,1)"])
