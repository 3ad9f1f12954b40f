"""A finished run in Python: what its record says, and its model."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.api.images import GivenImages, given_images
from thawline.api.process import options
from thawline.errors import usage_error
from thawline.records import Record, require_record

if TYPE_CHECKING:
    import pandas as pd

    from thawline.network.model import TransferModel
    from thawline.planning.context import RunContext


class Run:
    """A finished run.

    Args:
        folder: the run's folder.
        allow: packages of your own that its classes are from.

    Attributes:
        folder: the run's folder.
        record: everything that the run wrote into ``record.json``.

    Raises:
        UsageError: the folder has no valid record.
    """

    def __init__(self, folder: Path, *, allow: Sequence[str] = ()) -> None:
        self.folder = folder
        self.record: Record = require_record(folder)
        self._allow = tuple(allow)

    @property
    def identity(self) -> str:
        """What names the run: a hash of all that decides its numbers."""
        return self.record.identity

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, a copy."""
        return copy.deepcopy(self.record.config)

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The metrics of each split that the run opened, ``metrics["test"]["top1"]``; NaN where one is not finite."""
        return {
            split: {name: math.nan if value is None else value for name, value in values.items()}
            for split, values in self.record.metrics.items()
        }

    @property
    def history(self) -> pd.DataFrame:
        """A row for each epoch: phase, epoch, learning rate, training loss and validation metrics."""
        import pandas as pd

        return pd.DataFrame(self.record.history)

    @property
    def predictions(self) -> pd.DataFrame:
        """What the model said of each test image, a row each; the index is the image's index in the data set.

        What the run kept of an image is one column (``label``), or one for each output (``probabilities.cat``).

        Raises:
            UsageError: the run did not open the test split, or the file is damaged.
        """
        import numpy as np
        import pandas as pd

        from thawline.execution.weights import recorded_file
        from thawline.planning.session import Session
        from thawline.records.names import PREDICTIONS_FILE

        if PREDICTIONS_FILE not in self.record.files:
            raise usage_error("predictions", f"{self.folder}: the run did not open the test split")
        with np.load(recorded_file(self.folder, PREDICTIONS_FILE, Session()), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        columns: dict[str, Any] = {}
        for name, values in arrays.items():
            if values.ndim == 1:
                columns[name] = values
            elif values.ndim == 2 and values.shape[1] == len(self.record.classes):
                columns |= {f"{name}.{label}": values[:, place] for place, label in enumerate(self.record.classes)}
            else:
                columns[name] = list(values)
        return pd.DataFrame(columns).set_index("index")

    def load_model(self) -> TransferModel:
        """A new copy of the model with the run's weights, on the CPU and in eval mode.

        It takes uint8 images (B, 3, H, W) of the run's input size, normalises them itself, and gives the outputs of the
        head (B, ...), such as logits. Its parts are ``model.backbone`` and ``model.head``.

        Raises:
            UsageError: a file of the run is damaged, or its data, source weights or own code are not what they were.
        """
        from thawline.execution.weights import tuned_model

        with options(self._allow, None):
            model = tuned_model(self._context)
        return model.cpu().eval()

    def predict(self, images: Any) -> pd.DataFrame:
        """What the model says of images: a row for each image, and a column for each output by its name.

        Of classification the values are probabilities, and ``predict(images).idxmax(axis=1)`` are the classes. The
        images are scaled, cropped and normalised as those of the run's evaluation.

        Of tasks whose targets lie in the image, the rows are those of ``thawline predict --csv``, in the pixels of each
        image itself: one for each image with the share of each class, or one for each object that was found.

        Args:
            images: one image or several: paths of images or of folders of them, PIL images, uint8 arrays (H, W) or
                (H, W, 3); or a batch, as a uint8 array (N, H, W, 3) or a uint8 tensor (N, 3, H, W).

        Returns:
            A table whose index has the paths, or the places of images that have none.

        Raises:
            UsageError: an image cannot be read, or the run's files or data are not what they were.
        """
        import pandas as pd

        from thawline.execution.predict import predict
        from thawline.tasks import SpatialTask

        found = given_images(images)
        if isinstance(self._context.settings.task, SpatialTask):
            return self._shown_of(found)
        with options(self._allow, None):
            values = predict(self._context.plan, self._tuned, found)
        if values.ndim != 2 or values.shape[1] != len(self._context.plan.outputs):
            raise usage_error("predict", f"task {self.record.task} has no table of an output for each name")
        names = pd.Index([found.key(index) for index in range(len(found))] if found.named else range(len(found)))
        return pd.DataFrame(values.numpy(), index=names.rename("image"), columns=list(self._context.plan.outputs))

    def evaluate(self, folder: str | os.PathLike[str]) -> pd.DataFrame:
        """The metrics of the model on a folder that is laid out like the run's data set, with the truth.

        These are class folders or a table, masks, boxes, ... as the data set itself has them; the metrics are computed
        as those of the record.

        Args:
            folder: The folder.

        Returns:
            A row for each part (train, val, test), or one, ``images``, where the folder is not divided; the column
            ``images`` counts them, the others are the metrics.

        Raises:
            UsageError: the folder is not laid out like that, or the run's files or data are not what they were.
        """
        import pandas as pd

        from thawline.execution.known_truth import known_truth
        from thawline.execution.predict import predictions

        place = Path(folder)
        with options(self._allow, None):
            truth, reasons = known_truth(self._context.plan, [place])
            if reasons:
                raise usage_error("images", reasons[place])
            files = given_images(truth.paths)

            def hold(outputs: Any, rows: Sequence[int]) -> None:
                truth.add(outputs, [truth.paths[row] for row in rows])

            for one in predictions(self._context.plan, self._tuned, files, on_outputs=hold):
                if one.shown is None:
                    raise usage_error("images", one.problem)
            found = truth.metrics()
        rows = [{"images": of.images, **of.metrics} for of in found.values()]
        return pd.DataFrame(rows, index=pd.Index(list(found), name="part"))

    def export(
        self,
        output: str | os.PathLike[str] | None = None,
        *,
        format: str | None = None,  # noqa: A002
        force: bool = False,
    ) -> Path:
        """Write the model for other programs, with a model card, as ``thawline export`` does.

        Args:
            output: the file, or timm's folder; default: ``model`` with the format's ending, in the current folder.
            format: ``safetensors``, ``onnx``, ``torchscript`` or ``timm``; default: by the ending of `output`.
            force: replace an earlier export.

        Returns:
            The file or folder.

        Raises:
            UsageError: it is there already, the model has no such form, or the run's files or data are not what they
                were.
        """
        return self._exported(output, format, force=force, chosen="")

    def _exported(self, output: str | os.PathLike[str] | None, form: str | None, *, force: bool, chosen: str) -> Path:
        from thawline.exports import export_run

        target = Path(output) if output is not None else None
        with options(self._allow, None):
            return export_run(self.folder, target, form=form, force=force, chosen=chosen).model

    def _shown_of(self, images: GivenImages) -> pd.DataFrame:
        """The rows of all images, by the task's own columns."""
        import pandas as pd

        from thawline.execution.predict import predictions

        keys: list[Any] = []
        rows: list[Any] = []
        columns: list[str] = []
        with options(self._allow, None):
            for one in predictions(self._context.plan, self._tuned, images):
                if one.shown is None:
                    raise usage_error("images", one.problem)
                columns, found = list(one.shown.columns()), one.shown.rows()
                rows += found
                keys += [images.key(one.index) if images.named else one.index] * len(found)
        return pd.DataFrame(rows, index=pd.Index(keys, name="image"), columns=columns)

    @cached_property
    def _context(self) -> RunContext:
        from thawline.planning.context import RunContext
        from thawline.planning.plan import plan_of_run
        from thawline.planning.session import Session

        session = Session()
        with options(self._allow, None):
            return RunContext(plan_of_run(self.folder, session), session)

    @cached_property
    def _tuned(self) -> TransferModel:
        return self.load_model()

    def __repr__(self) -> str:
        name = self.record.headline
        shown = [f"{split} {name} {values[name]:.4f}" for split, values in self.metrics.items() if name in values]
        return f"<Run {self.identity[:8]}: {', '.join(shown)}>"
