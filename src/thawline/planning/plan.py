"""A run before it starts: everything that can be wrong is found here, and its identity is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.backbones import Backbone, BackboneSpec, described
from thawline.datasets import Splits
from thawline.datasets.splits import Subset
from thawline.errors import counted, usage_error
from thawline.files import finite
from thawline.freeze_policies import Phase
from thawline.heads import strides_of
from thawline.network import Network, SourceClassifier
from thawline.optimization.batch_sizes import batch_sizes
from thawline.optimization.learning_rates import MeasuredRates
from thawline.own_code import SourceFile, own_code
from thawline.planning.devices import require_devices
from thawline.planning.phases import phases_of
from thawline.planning.session import Session
from thawline.planning.settings import RunSettings, parse, recorded_config, source_config
from thawline.planning.shift import ShiftedSet, shifted_sets
from thawline.planning.start import ModelKey, Start
from thawline.planning.task_fit import check_task
from thawline.planning.without_validation import check_without_validation
from thawline.preprocessing import Preprocessing
from thawline.records import RECORD_FILE, identity_of, require_record, run_folder
from thawline.records.names import MODEL_FILE
from thawline.specs import classes_in
from thawline.transforms import Transform

if TYPE_CHECKING:
    from thawline.network.model import TransferModel

IDENTITY_FORMAT = 2
"""Raised when the numbers of an unchanged configuration change, or what an identity is made of."""


@dataclass(frozen=True)
class Plan:
    """One run, ready to start.

    `outputs` are the names of the head's outputs; `code` is the source code of its own classes, by module;
    `identity_parts` are what the identity was made from.
    """

    identity: str
    settings: RunSettings
    config: Mapping[str, Any]
    overrides: tuple[str, ...]
    label: str
    splits: Splits
    transform: Transform
    network: Network
    phases: tuple[Phase, ...]
    source: Plan | None
    outputs: tuple[str, ...] = ()
    shifted: tuple[ShiftedSet, ...] = ()
    code: Mapping[str, SourceFile] = field(default_factory=dict)
    identity_parts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def start(self) -> Start:
        """The weights that the run starts from."""
        if self.settings.backbone.weights is None and self.source is None:
            return Start(repr(self.settings.backbone), None, self.settings.seed)
        return Start(repr(self.settings.backbone), str(self.identity_parts["weights"]), None)

    @property
    def model_key(self) -> ModelKey:
        """The run's model before training."""
        adapter, head = repr(self.settings.adapter), repr(self.settings.head)
        trainer = self.settings.trainer
        arithmetic = (trainer.precision, str(trainer.channels_last), trainer.accelerator)
        size = self.transform.output_size
        return ModelKey(self.start, adapter, head, self._drawn, self.outputs, size, arithmetic)

    @property
    def _drawn(self) -> int | None:
        """The seed, where it decides more than the start of what trains.

        Frozen parts of an adapter lie before the thaw line; code of one's own may draw parts that never train, or that
        no state dict holds.
        """
        frozen = any(not phase.trainable.issuperset(self.network.adapter) for phase in self.phases)
        own = own_code(classes_in([self.settings.adapter, self.settings.head]))
        return self.settings.seed if frozen or own else None

    @property
    def reading(self) -> dict[str, Any]:
        """What decides the pixels of an image beside its content and the transform.

        Code of one's own may make anything of the files that it reads: what it was configured with and its own files
        count, too.
        """
        images = self.splits.images
        while isinstance(images, Subset):
            images = images.source
        own = _by_own_code([self.settings.dataset]) if own_code([type(images)]) else {}
        return {"format": IDENTITY_FORMAT, **own}

    @property
    def reading_shifted(self) -> dict[str, Any]:
        """The same of the further test sets."""
        return {**self.reading, "shift": _by_own_code(list(self.settings.shift.values()))}

    @property
    def folder(self) -> Path:
        """Where the run leaves its files: named by its identity."""
        return run_folder(self.settings.output_dir, self.identity)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the results has to know of the data before believing them."""
        return (
            *self.splits.warnings,
            *self.settings.task.remarks(self.splits.train.targets),
            *self._seen_before(),
            *(warning for item in self.shifted for warning in item.warnings),
        )

    def _seen_before(self) -> list[str]:
        if self.source is None:
            return []
        test, source = self.splits.test, self.source.splits
        if test is None:
            return []
        seen = self.splits.copies(test, (source, "train"), (source, "val"))
        return [f"{seen} of {len(test)} test images were training or validation images of the source"] if seen else []


def plan_run(config: Mapping[str, Any], overrides: Sequence[str], session: Session, label: str = "") -> Plan:
    """The plan of the run that a resolved configuration describes.

    Args:
        config: the resolved configuration.
        overrides: what the command line changed.
        session: what the plans of this process share.
        label: how the run is called on the terminal; default: its overrides.

    Raises:
        UsageError: anything in it cannot be used: a wrong field, a missing file, k beyond the layer groups, ...
    """
    return _plan(parse(config), config, overrides, session, label or " ".join(overrides))


def plan_of_run(folder: Path, session: Session) -> Plan:
    """The plan of a finished run, from its record.

    Raises:
        UsageError: it has no valid record, is of another version of thawline, or what it was made from has changed.
    """
    record = require_record(folder)
    if record.identity_format != IDENTITY_FORMAT:
        made = f"made by another version of thawline (identity format {record.identity_format}, not {IDENTITY_FORMAT})"
        raise usage_error("run", f"{folder}: {made}; run it again")
    plan = plan_run(recorded_config(record.config, folder.parent.parent), record.overrides, session)
    if plan.identity != record.identity:
        raise usage_error("run", f"{folder}: its data, source weights or own code are not those that it was made from")
    return plan


def _plan(
    settings: RunSettings, config: Mapping[str, Any], overrides: Sequence[str], session: Session, label: str
) -> Plan:
    settings.backbone.check()
    check_task(settings)
    source = None
    if settings.source is not None:
        source = _plan(settings.source, source_config(config), (), session, f"source of {label}")
    splits = fitting_splits(session.data.splits(settings), settings)
    outputs = settings.task.outputs(splits.classes)
    skeleton = session.networks.skeleton(settings)
    transform = session.networks.transform(settings)
    session.networks.check_size(settings)
    classifier = _classifier_to_come(settings, source, session)
    network = session.networks.network(settings, outputs, classifier)
    phases = phases_of(settings.freeze_policy, network, settings.trainer.max_epochs)
    if splits.val is None:
        check_without_validation(settings, phases)
    if settings.trainer.shards_weights:
        _check_shared(settings, splits)
    if settings.probe is not None and settings.regularizer:
        raise usage_error("regularizer", "lbfgs_path takes no steps that could be pulled: it has a penalty of its own")
    if settings.probe is not None:
        _check_path(network, phases, transform)
    elif settings.average is None and _smallest_share(settings, splits) == 1:
        model, _ = session.networks.model_skeleton(settings, outputs, classifier)
        _check_single_images(settings, model, phases, transform.output_size)
    has_classifier = (skeleton.source_classifier or classifier) is not None
    for name, regularizer in settings.regularizer.items():
        regularizer.check(f"regularizer.{name}", skeleton.module, network, source_classifier=has_classifier)
    shifted = shifted_sets(settings.shift, splits, transform, lambda dataset: session.data.loaded(dataset, settings))
    code = own_code(classes_in([settings, transform]))
    decides: dict[str, Any] = {
        "format": IDENTITY_FORMAT,
        "settings": {**settings.deciding(), "transform": transform.deciding()},
        "code": {module: file.sha256 for module, file in code.items()},
        "data": data_identity(splits),
        "further_tests": {item.name: [item.fingerprint, item.split.sha256] for item in shifted},
        "input": _input_identity(skeleton),
        "weights": f"run:{source.identity}" if source else weights_identity(settings.backbone, settings, session),
        "teachers": {
            name: [
                weights_identity(teacher, settings, session, f"regularizer.{name}"),
                _images_of(teacher, settings, session).model_dump(mode="json"),
            ]
            for name, teacher in teachers(settings).items()
        },
    }
    decides = finite(decides)  # as a record gives it back
    return Plan(
        identity_of(decides),
        settings,
        config,
        tuple(overrides),
        label,
        splits,
        transform,
        network,
        phases,
        source,
        outputs,
        shifted,
        code,
        decides,
    )


def _by_own_code(parts: Sequence[Any]) -> dict[str, Any]:
    """What these parts of a configuration are and do, where any of it is code of one's own."""
    code = {module: file.sha256 for module, file in own_code(classes_in(parts)).items()}
    return {"code": code, "settings": finite([part.deciding() for part in parts])} if code else {}


def fitting_splits(splits: Splits, settings: RunSettings) -> Splits:
    """The data set's splits, without test where the run may not open it, without val where it trains on it.

    Raises:
        UsageError: the task has no use for targets of this kind.
    """
    task = settings.task
    if splits.target != task.TARGET:
        needed = f"{task.NAME} needs a data set whose targets are of kind {task.TARGET!r}"
        raise usage_error("task", f"{needed}; those of this one are of kind {splits.target!r}")
    splits = splits if settings.open_test else splits.without_test()
    return splits.with_val_in_train() if settings.train_on == "train_val" else splits


def _input_identity(skeleton: Backbone) -> dict[str, Any]:
    """What files beside the weights, and the library, say of the weights: their images, and their classes."""
    classifier = skeleton.source_classifier
    return {
        "weights": skeleton.weights.description,
        "preprocessing": skeleton.preprocessing.model_dump(mode="json", include={"mean", "std", "network_size"}),
        "source_classes": None if classifier is None else list(classifier.classes),
    }


def data_identity(splits: Splits) -> dict[str, Any]:
    """The images with their targets, which class an output stands for, and which split each image is in."""
    return {
        "fingerprint": splits.fingerprint,
        "classes": list(splits.classes),
        "splits": {name: split.sha256 for name, split in splits.opened.items()},
    }


def _classifier_to_come(settings: RunSettings, source: Plan | None, session: Session) -> SourceClassifier | None:
    """Shape and classes of the classifier of a source model that thawline trains, or has trained; on the meta device.

    The model itself may not be there yet, and the names of its classes are not in the backbone's skeleton.
    """
    import torch

    weights = str(settings.backbone.weights)
    if source is not None:
        classes, network = source.outputs, source.network
    elif weights.startswith("run:"):
        record = require_record(run_folder(settings.output_dir, weights.removeprefix("run:")))
        classes = tuple(record.classes)
        network = session.networks.network(parse(record.config), classes)
    else:
        return None
    if not network.has_linear_head or strides_of(settings.head):
        return None
    width = session.networks.skeleton(settings).feature_dim
    with torch.device("meta"):
        return SourceClassifier(torch.empty(len(classes), width), torch.empty(len(classes)), classes)


def teachers(settings: RunSettings) -> dict[str, BackboneSpec]:
    """The backbones that the run's regularizers read beside its own, by ``name.field``."""
    return {
        f"{name}.{field}": value
        for name, regularizer in settings.regularizer.items()
        for field, value in vars(regularizer).items()
        if isinstance(value, BackboneSpec)
    }


def _images_of(teacher: BackboneSpec, settings: RunSettings, session: Session) -> Preprocessing:
    """What is known of the images of a teacher's weights."""
    file = teacher.local_weights()
    return session.networks.known_of_weights(teacher, settings) if file is None else described(file).preprocessing


def weights_identity(
    backbone: BackboneSpec, settings: RunSettings, session: Session, field: str = "backbone"
) -> str | None:
    """What a network starts from: a file's SHA-256, a hub tag, ``run:IDENTITY``, or None for random weights."""
    if backbone.weights == "source":
        raise usage_error(f"{field}.weights", "there is no source run here; name a file, a tag or run:IDENTITY")
    file = weights_file(backbone, settings, field)
    if file is not None and not str(backbone.weights).startswith("run:"):
        return f"sha256:{session.hashes.of(file)}"
    return backbone.weights


def weights_file(backbone: BackboneSpec, settings: RunSettings, field: str = "backbone") -> Path | None:
    """The local file that ``weights`` names, by its path or by the identity of a run that made it."""
    weights = backbone.weights
    if weights is None or weights == "source":
        return None
    if weights.startswith("run:"):
        folder = run_folder(settings.output_dir, weights.removeprefix("run:"))
        if not (folder / RECORD_FILE).is_file():
            raise usage_error(f"{field}.weights", f"{folder} holds no finished run")
        return folder / MODEL_FILE
    return backbone.local_weights()


def _check_shared(settings: RunSettings, splits: Splits) -> None:
    """Refuse what reads whole weights or gradients in a step, where each device holds a share of them."""
    said = "trainer.strategy=fsdp leaves each device a share of the weights, and this needs them whole; use ddp"
    if settings.regularizer:
        raise usage_error("regularizer", said)
    if settings.probe is not None:
        raise usage_error("probe", said)
    if isinstance(settings.learning_rates, MeasuredRates):
        raise usage_error("learning_rates", said)
    if settings.trainer.precision in ("16-mixed", "64-true"):
        precision = settings.trainer.precision
        raise usage_error("trainer.precision", f"{precision} does not go with fsdp; take bf16-mixed or 32-true")
    smallest = min(len(split.indices) for split in splits.opened.values())
    if smallest < settings.trainer.devices:
        raise usage_error(
            "trainer.devices", f"{settings.trainer.devices}: a split has {counted(smallest, 'sample')} only"
        )


def _smallest_share(settings: RunSettings, splits: Splits) -> int:
    """The images of the smallest training batch that the device with the fewest of them has."""
    trainer, images = settings.trainer, len(splits.train.indices)
    smallest = min(batch_sizes(images, trainer.batch_size), default=0)
    if smallest < trainer.devices:
        require_devices(settings)
        why = f"a training batch of {counted(smallest, 'image')} cannot be shared by {trainer.devices} devices"
        raise usage_error(
            "trainer.devices", f"{why} ({counted(images, 'image')}, trainer.batch_size={trainer.batch_size})"
        )
    return smallest // trainer.devices


def _check_single_images(
    settings: RunSettings, model: TransferModel, phases: Sequence[Phase], size: tuple[int, int]
) -> None:
    """Refuse batches of one image on a device where a batch norm that trains would see one value of each channel."""
    import torch

    image = torch.empty(1, 3, *size, dtype=torch.uint8, device="meta")
    for phase in phases:
        model.set_trainable(phase.trainable, statistics_frozen=phase.running_statistics == "frozen")
        model.train()
        try:
            # A head of maps may need targets; what it normalises has many positions in each image.
            (model.trunk if strides_of(settings.head) else model)(image)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            on = f" on each of {settings.trainer.devices} devices" if settings.trainer.devices > 1 else ""
            raise usage_error(
                "trainer.batch_size",
                f"{settings.trainer.batch_size} leaves batches of one image{on}, and phase {phase.name!r} trains a "
                "batch norm that needs two: take larger batches, or a policy that leaves the norms frozen",
            ) from None


def _check_path(network: Network, phases: Sequence[Phase], transform: Transform) -> None:
    """Refuse to solve a path where there is more to train than one linear layer on fixed features."""
    if len(phases) != 1 or phases[0].trainable != frozenset(network.head):
        raise usage_error("probe", "lbfgs_path solves a linear probe: it needs freeze_policy=linear_probe")
    if not network.has_linear_head or set(network.head) != {"head.weight", "head.bias"}:
        raise usage_error("probe", "lbfgs_path solves one linear layer: it needs head=linear without dropout")
    if transform.is_random:
        raise usage_error("probe", "lbfgs_path needs the same features in every step: no augmentation")
