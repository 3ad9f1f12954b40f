"""W&B mirrors the records: one run per job, made again from records at any time, and it never costs a run."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
import yaml
from safetensors.torch import load_file
from wandb.proto.wandb_internal_pb2 import Record

import thawline as api
from tests.conftest import REPOSITORY, TINY, records
from thawline.execution import run as experiment
from thawline.records import load_record
from thawline.trackers import Mirrored, WandB
from thawline.trackers import weights_and_biases as tracker

WANDB = [override for override in TINY if override != "logger=none"] + ["logger=wandb"]


def entries(folder: Path) -> list[Record]:
    """The entries of a W&B run's transaction log: W&B's own messages in LevelDB's log format.

    After W&B's header of 7 bytes, blocks of 32 KiB with fragments: checksum (4 bytes), length (2), kind (1), data.
    """
    (log,) = folder.glob("*.wandb")
    content, place, found, message = log.read_bytes(), 7, [], b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # too short for a fragment
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        message += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last fragment
            found.append(Record.FromString(message))
            message = b""
    return found


def values_of(items) -> dict:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


class Seen:
    """What a W&B run holds: its id, configuration, rows, summary and exit codes."""

    def __init__(self, folder: Path) -> None:
        of: dict[str, list] = {"history": [], "exit": [], "summary": []}
        for entry in entries(folder):
            kind = entry.WhichOneof("record_type")
            of.setdefault(kind, []).append(getattr(entry, kind))
        (self.run,) = of["run"]
        self.config = {key: value for key, value in values_of(self.run.config.update).items() if key != "_wandb"}
        every = [values_of(history.item) for history in of["history"]]
        rows = [row for row in every if "epoch" in row]
        self.rows = [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]
        self.steps = [row["_step"] for row in rows]
        self.after = [row for row in every if "epoch" not in row]
        self.directions: dict = {}
        for metric in of.get("metric", []):
            kinds = metric.summary
            self.directions[metric.name] = {"min": kinds.min, "max": kinds.max}
        # A table of W&B's is an artifact too.
        self.models = [artifact for artifact in of.get("artifact", []) if artifact.type == "model"]
        self.exits = [end.exit_code for end in of["exit"]]
        self.summary: dict = {}
        for summary in of["summary"]:
            self.summary.update(values_of(summary.update))


def folders(pattern: str = "outputs/runs/*") -> list[Path]:
    return sorted(Path().glob(f"{pattern}/wandb/offline-run-*"))


def assert_mirrors(seen: Seen, record) -> None:
    assert seen.steps == [row["epoch"] for row in record.history]
    assert seen.rows == [{key: value for key, value in row.items() if value is not None} for row in record.history]
    for split, values in record.metrics.items():
        for name, value in values.items():
            assert seen.summary[f"{split}/{name}"] == value
    assert seen.summary["parameters/trainable"] == record.parameters.trainable
    assert seen.summary["cost/total_seconds"] == record.cost.total_seconds
    assert seen.summary["cost/peak_memory_bytes"] == record.cost.peak_memory_bytes
    assert seen.summary["selection/epoch"] == record.selection.epoch
    assert seen.summary["diverged"] == int(record.diverged)


def test_a_wandb_run_that_gets_epochs_again_holds_each_once(tmp_path):
    """A run that goes on shows all epochs from the first one, and its W&B run may have some of them already."""
    mirror = WandB().open(Mirrored(tmp_path, "resumed", "resumed", None, {}))
    for epoch in (0, 1, 0, 1, 2):
        mirror.epoch({"epoch": epoch, "train/loss": 1.0 / (1 + epoch)})
    mirror.close(None)
    wandb.teardown()  # W&B's service writes the end of its log after `finish` returns
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    seen = Seen(folder)
    assert seen.steps == [0, 1, 2]
    assert [row["epoch"] for row in seen.rows] == [0, 1, 2]


def test_every_job_of_a_multirun_is_a_wandb_run_of_its_own(thawline):
    assert thawline("train", "-m", *WANDB, "freeze_policy.k=0,1", "sweep.name=grid").status == 0
    assert len(folders()) == 2
    for folder in folders():
        seen, record = Seen(folder), load_record(folder.parent.parent)
        assert seen.run.run_id == record.identity
        assert seen.run.run_group == "grid"
        assert seen.run.display_name == f"freeze_policy.k={record.config['freeze_policy']['k']}"
        assert seen.config == record.config
        assert seen.exits == [0]
        assert_mirrors(seen, record)
        k = record.config["freeze_policy"]["k"]
        groups = len(record.layer_groups)
        depth = {name: seen.summary[f"depth/{name}"] for name in ("k", "groups", "fraction")}
        assert depth == {"k": k, "groups": groups, "fraction": k / groups}
        assert seen.directions["val/top1"] == seen.directions["test/macro_f1"] == {"min": False, "max": True}
        assert seen.directions["val/loss"] == seen.directions["train/loss"] == {"min": True, "max": False}
        assert_has_the_matrix(seen, folder, record)
        assert seen.models == []
    assert {Seen(folder).config["freeze_policy"]["k"] for folder in folders()} == {0, 1}
    (folder,) = folders("outputs/sweeps/grid")
    assert_summarises(Seen(folder), folder)


def assert_has_the_matrix(seen: Seen, folder: Path, record) -> None:
    """Counts of images by true and predicted class, in a step after the last epoch."""
    (row,) = seen.after
    assert row["_step"] == len(record.history)
    table = json.loads(Path(folder, "files", row["confusion_matrix_table.path"]).read_text())
    assert table["columns"] == ["Actual", "Predicted", "nPredictions"]
    names = record.classes
    assert table["data"] == [
        [names[true], names[said], count]
        for true, counts in enumerate(record.confusion_matrix)
        for said, count in enumerate(counts)
    ]


@pytest.mark.slow
def test_the_model_is_an_artifact_by_choice(thawline):
    assert thawline("train", *WANDB, "logger.artifact=true", "trainer.max_epochs=1").status == 0
    (folder,) = folders()
    (run,) = records()
    (artifact,) = Seen(folder).models
    assert (artifact.name, artifact.type) == (f"model-{run.name}", "model")
    files = {entry.path: entry for entry in artifact.manifest.contents}
    assert set(files) == {"model.safetensors", "record.json"}
    assert Path(files["model.safetensors"].local_path) == (run / "model.safetensors").absolute()
    assert load_file(run / "model.safetensors").keys() == api.load_run(run).load_model().state_dict().keys()


def assert_summarises(seen: Seen, folder: Path) -> None:
    """The sweep's own W&B run has its tables and its figure."""
    assert seen.run.run_group == "grid"
    assert seen.run.job_type == "sweep"
    figure = Path(folder, "files", seen.summary["figure.path"])
    assert figure.read_bytes() == Path("outputs/sweeps/grid/report/figure.png").read_bytes()
    assert seen.summary["table._type"] == "table-file"
    assert seen.summary["runs.nrows"] == 2
    page = Path(folder, "files", seen.summary["report.path"])
    assert page.read_bytes() == Path("outputs/sweeps/grid/report/report.html").read_bytes()


@pytest.mark.slow
def test_a_job_that_raises_ends_its_own_wandb_run_and_no_other(thawline, monkeypatch):
    validated = experiment._Run._validated

    def fails_for_one(run):
        if run._run.settings.seed == 1:
            raise RuntimeError("on purpose")
        return validated(run)

    monkeypatch.setattr(experiment._Run, "_validated", fails_for_one)
    result = thawline("train", "-m", *WANDB, "seed=0,1,2")
    assert result.status == 1
    assert "on purpose" in result.err
    seen = {Seen(folder).config["seed"]: Seen(folder) for folder in folders()}
    assert {seed: run.exits for seed, run in seen.items()} == {0: [0], 1: [1], 2: [0]}
    assert {seed: run.steps for seed, run in seen.items()} == {0: [0, 1], 1: [0, 1], 2: [0, 1]}


def test_without_a_network_online_runs_go_offline_after_one_bounded_wait(thawline, monkeypatch):
    import wandb

    tried = []
    init = wandb.init

    def spied(*arguments, **keywords):
        tried.append((keywords["mode"], keywords["settings"].init_timeout))
        return init(*arguments, **keywords)

    monkeypatch.setattr(wandb, "init", spied)
    monkeypatch.setattr(WandB, "_unreachable", set())
    monkeypatch.delenv("WANDB_MODE")
    # A port that nothing listens on: as far as this process can tell, there is no network.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    online = ["logger=wandb_online", "logger.init_timeout_seconds=1", "sweep.report=false"]
    assert thawline("train", "-m", *WANDB, *online, "seed=0,1").status == 0
    assert tried == [("online", 1), ("offline", 1), ("offline", 1)]
    assert len(folders()) == 2
    for folder in folders():
        assert_mirrors(Seen(folder), load_record(folder.parent.parent))


@pytest.mark.parametrize("broken", ["open", "epoch", "close"])
def test_a_broken_mirror_costs_nothing_but_itself(thawline, monkeypatch, broken, caplog):
    def fail(*arguments, **keywords):
        raise OSError("the mirror is broken")

    owner = WandB if broken == "open" else tracker._WandBMirror
    monkeypatch.setattr(owner, broken, fail)
    assert thawline("train", *WANDB).status == 0
    assert len(records()) == 1
    (said,) = [entry for entry in caplog.records if entry.name == "thawline"]
    assert "its record stays whole" in said.getMessage()


@pytest.mark.slow
def test_sync_makes_wandb_runs_again_from_records_alone(thawline):
    assert thawline("train", "-m", *TINY, "freeze_policy.k=0,1", "sweep.name=grid").status == 0
    assert folders() == []
    for _ in range(2):
        result = thawline("sync", "grid", "--project", "rebuilt")
        assert result.status == 0, result.err
        assert "2 runs and the sweep's summary" in result.out
        assert "wandb sync outputs/sweeps/grid/wandb/offline-run-*" in result.out
    made = {Seen(folder).run.run_id: Seen(folder) for folder in folders("outputs/sweeps/grid")}
    assert set(made) == {folder.name for folder in records()} | {tracker.summary_identity("grid")}
    assert len(folders("outputs/sweeps/grid")) == 3
    for folder in records():
        record = load_record(folder)
        seen = made[record.identity]
        assert (seen.run.project, seen.run.run_group) == ("rebuilt", "grid")
        assert seen.run.display_name == f"freeze_policy.k={record.config['freeze_policy']['k']}"
        assert seen.config == record.config
        assert seen.exits == [0]
        assert_mirrors(seen, record)


@pytest.mark.slow
def test_sync_keeps_the_models_of_runs_whose_logger_asks_for_it(thawline, monkeypatch):
    """The runs were made without W&B, so that nothing has written their whole networks yet."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    grid = ("freeze_policy.k=0,1", "sweep.name=grid", "sweep.report=false", "logger.artifact=true")
    assert thawline("train", "-m", *WANDB, *grid).status == 0
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not list(Path().glob("outputs/runs/*/model.safetensors"))
    result = thawline("sync", "grid")
    assert (result.status, "no model artifact" in result.err) == (0, False), result.err
    for run in records():
        (folder,) = Path().glob(f"outputs/sweeps/grid/wandb/offline-run-*-{run.name}")
        (artifact,) = Seen(folder).models
        assert artifact.name == f"model-{run.name}"
        files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
        # The model where it lies; of the record W&B keeps a copy.
        assert set(files) == {"model.safetensors", "record.json"}
        assert files["model.safetensors"] == (run / "model.safetensors").absolute()
        assert files["record.json"].read_bytes() == (run / "record.json").read_bytes()
        kept, expected = load_file(run / "model.safetensors"), api.load_run(run).load_model().state_dict()
        assert {name: bool((kept[name] == value).all()) for name, value in expected.items()} == dict.fromkeys(
            kept, True
        )


def test_sync_of_nothing_is_refused(thawline):
    result = thawline("sync", "nowhere")
    assert result.status == 2
    assert "no sweep 'nowhere'" in result.err


@pytest.mark.slow
def test_a_wandb_agent_finds_its_run_whether_or_not_it_had_to_be_trained():
    program = Path(sys.executable).with_name("thawline")
    for agent in ("agent1", "agent2"):
        environment = {**os.environ, "WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": agent}
        subprocess.run([program, "train", *WANDB, "freeze_policy.k=1"], env=environment, check=True)
    (record,) = [load_record(folder) for folder in records()]
    by_id = {Seen(folder).run.run_id: Seen(folder) for folder in folders()}
    assert set(by_id) == {"agent1", "agent2"}
    for seen in by_id.values():
        assert seen.run.sweep_id == "sweep1"
        assert_mirrors(seen, record)


def test_the_shipped_wandb_sweep_names_real_options(thawline):
    sweep = yaml.safe_load((REPOSITORY / "experiments/wandb_agent/wandb_sweep.yaml").read_text())
    assert sweep["command"] == ["${env}", "thawline", "train", "${args_no_hyphens}"]
    first = {key: node["value"] if "value" in node else node["values"][0] for key, node in sweep["parameters"].items()}
    overrides = [f"{key}={value}" for key, value in first.items()]
    result = thawline("train", *overrides, "--cfg", "job", "--resolve")
    assert result.status == 0, result.err
    composed = yaml.safe_load(result.out)
    assert composed["logger"]["mode"] == "online"
    assert composed["freeze_policy"]["k"] == 0
    assert sweep["metric"]["name"] == "val/top1"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("logger.project=my/project", "logger.project: a name of W&B holds no / (got 'my/project')"),
        (f"logger.project={'p' * 129}", "logger.project: String should have at most 128 characters"),
        ("logger.entity=a/b", "logger.entity: a name of W&B holds no / (got 'a/b')"),
        (f"logger.tags=[short,{'t' * 65}]", "logger.tags.1: String should have at most 64 characters"),
        ("logger.tags=['']", "logger.tags.0: String should have at least 1 character"),
        ("logger.mode=disabled", "logger.mode: Input should be 'offline' or 'online' (got 'disabled')"),
    ],
)
def test_what_wandb_would_refuse_is_refused_before_a_run_starts(thawline, override, message):
    result = thawline("train", *WANDB, override)
    assert result.status == 2
    assert result.err.startswith(f"error: {message}")
    assert not Path("outputs").exists()


def test_a_name_is_cut_to_what_wandb_takes(thawline):
    assert thawline("train", *WANDB, "trainer.max_epochs=1", "freeze_policy.k=0").status == 0
    (folder,) = folders()
    label = " ".join([*WANDB, "trainer.max_epochs=1", "freeze_policy.k=0"])
    assert Seen(folder).run.display_name == label[:128] != label


@pytest.mark.slow
def test_the_environment_of_wandb_counts(thawline, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert thawline("train", *WANDB, "trainer.max_epochs=1", "seed=1").status == 0
    assert not list(Path().rglob("wandb"))
    assert "WANDB_MODE: W&B is disabled" in thawline("sync", "runs", "--outputs", "outputs").err
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    settings = []
    true_settings = wandb.Settings
    monkeypatch.setattr(wandb, "Settings", lambda **given: settings.append(given) or true_settings(**given))
    online = ["logger=wandb_online", "logger.project=a", "trainer.max_epochs=1"]
    assert thawline("train", *WANDB, *online, "logger.tags=one").status == 0
    assert len(folders("elsewhere")) == 1 and not folders()
    assert settings[-1]["silent"] is True
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert thawline("sync", "outputs/runs").status == 0
    assert "silent" not in settings[-1]
    assert len(folders("elsewhere")) == 3
