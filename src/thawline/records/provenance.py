"""Where a run's numbers come from: software, hardware, data, weights, own code."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from thawline.records.part import RecordPart

Purpose = Literal["tune", "select", "test"]
"""What a stage of a protocol is for."""


class Commit(RecordPart):
    """The commit of thawline's own checkout, and the SHA-256 of what was not committed; None where there is none."""

    sha: str | None = None
    dirty_sha256: str | None = None


class Software(RecordPart):
    """Version of Python and of each package ("absent" where it is not installed), and thawline's commit."""

    python: str
    packages: dict[str, str]
    commit: Commit = Commit()

    @property
    def made_by(self) -> str:
        """What made the record: thawline's version, its commit, and whether the code was changed since."""
        commit = f" at commit {self.commit.sha[:10]}" if self.commit.sha else ""
        changed = f" with changes {self.commit.dirty_sha256[:8]}" if self.commit.dirty_sha256 else ""
        return f"{self.packages.get('thawline', 'unknown')}{commit}{changed}"


class Hardware(RecordPart):
    """Operating system, processor, the cores that the process may use, and the names of the GPUs."""

    platform: str
    processor: str
    cores: int | None
    gpus: list[str]


class Arithmetic(RecordPart):
    """In which numbers a run computed, and how its tensors lay in memory.

    Attributes:
        precision: ``trainer.precision``. Mixed: of training, validation, test and the values that are stored; what a
            diagnostic or a regularizer measures before training is in float32.
        device: cpu, cuda or mps.
        channels_last: whether the backbone's channels were last in memory.
        bfloat16_instructions: of the CPU: amx, avx512_bf16, arm_bf16, none, or unknown; None on another device.
    """

    precision: str
    device: str
    channels_last: bool
    bfloat16_instructions: str | None = None


class WeightsRecord(RecordPart):
    """The weights that a backbone started from: in words, and their SHA-256 (None: random).

    Attributes:
        description: in words, or the path of the file.
        sha256: of the file or of the state dict; None for random weights.
        container: the entry of a checkpoint that held the weights, if it was inside one.
        prefix: what was taken off the names of the tensors.
        left_out: what the file holds beside the network: the first part of a name -> how many tensors.
        described_by: the file that names the classes and the preprocessing, if any.
    """

    description: str
    sha256: str | None
    container: str = ""
    prefix: str = ""
    left_out: dict[str, int] | None = None
    described_by: str = ""


class SourceFileRecord(RecordPart):
    """A file of a user's code, by its path below the folder that Python found it in, and the SHA-256 of its bytes."""

    file: str
    sha256: str


class Resumption(RecordPart):
    """A run that was interrupted went on: in which phase, from which of its epochs, and when (UTC, ISO 8601)."""

    phase: str
    epoch: int
    at: str


class StageRecord(RecordPart):
    """The stage of a protocol that asked for a run; another command may ask for the same run.

    Attributes:
        protocol: the name of the protocol, whose manifest lists its stages.
        kind: its class.
        stage: the name of the stage.
        purpose: what the stage is for; only ``test`` opens the test split.
        candidate: what of the grid the run belongs to.
        trials: how many settings are tried for each candidate; 0: nothing is tuned.
    """

    protocol: str
    kind: str
    stage: str
    purpose: Purpose
    candidate: str
    trials: int = 0


class Provenance(Software):
    """Where the numbers come from: software, hardware, data, weights, command.

    Attributes:
        hardware: of the machine.
        threads: CPU threads of an operation.
        arithmetic: its precision and layout, and what the CPU has for it; None in records of earlier versions.
        command: the command line of the process.
        options: what a command of this run needs before its overrides: ``--allow``, ``--config-dir``, ...
        started_at: UTC, ISO 8601.
        finished_at: UTC, ISO 8601.
        resumed: each time that the run went on after an interruption.
        data_fingerprint: SHA-256 of the data set and its splits.
        own_code: module -> file, of own classes and of what they import.
        weights: what the backbone started from.
        source_run: identity of the run that trained the source model, where the same command asks for it.
        stage: the stage of a protocol that asked for the run, if it was one.
    """

    hardware: Hardware
    threads: int | None = None
    arithmetic: Arithmetic | None = None
    command: str = ""
    options: list[str] = Field(default_factory=list)
    started_at: str = ""
    finished_at: str = ""
    resumed: list[Resumption] = Field(default_factory=list)
    data_fingerprint: str
    own_code: dict[str, SourceFileRecord] = Field(default_factory=dict)
    weights: WeightsRecord
    source_run: str | None = None
    stage: StageRecord | None = None
