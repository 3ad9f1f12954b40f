"""Whether the weights that a run will have to fetch are within reach: asked before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from thawline.backbones import BackboneSpec, FetchesWeights
from thawline.errors import UsageError
from thawline.planning.plan import Plan, teachers
from thawline.planning.session import Session
from thawline.records.names import RECORD_FILE


def require_weights(plan: Plan, session: Session) -> None:
    """Raise `UsageError` where a run that is to be made, or its source run, cannot get a library's weights.

    Those are the weights of its backbone, and of its regularizers' teachers. A server is asked once for each network,
    and only for weights that are not on this machine. A run that a launcher sends to another machine is not asked here:
    that machine may have other weights and another network.
    """
    for field, spec in _fetched(plan):
        problem = session.once("weights within reach", repr(spec), partial(_problem, spec))
        if problem is not None:
            raise problem.of(field, "backbone")


def _fetched(plan: Plan) -> Iterator[tuple[str, BackboneSpec]]:
    """The networks that a run, and its source run, start from, by field; none of what is done."""
    if (plan.folder / RECORD_FILE).is_file():
        return
    if plan.source is not None:
        yield from _fetched(plan.source)
    else:
        yield "backbone", plan.settings.backbone
    for name, teacher in teachers(plan.settings).items():
        yield f"regularizer.{name}", teacher


def _problem(spec: BackboneSpec) -> UsageError | None:
    if not isinstance(spec, FetchesWeights):
        return None
    try:
        spec.require_weights()
    except UsageError as error:
        return error
    return None
