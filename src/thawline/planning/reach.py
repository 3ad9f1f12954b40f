"""Whether the weights that a run will have to fetch are within reach: asked before anything is trained."""

from __future__ import annotations

from thawline.backbones import BackboneSpec, FetchesWeights
from thawline.errors import UsageError
from thawline.planning.plan import Plan
from thawline.planning.session import Session
from thawline.records.names import RECORD_FILE


def require_weights(plan: Plan, session: Session) -> None:
    """Raise `UsageError` where a run that is to be made, or its source run, cannot get its library's weights.

    A server is asked once for each network, and only for weights that are not on this machine. A run that a launcher
    sends to another machine is not asked here: that machine may have other weights and another network.
    """
    first = plan if plan.source is None else plan.source
    if any((each.folder / RECORD_FILE).is_file() for each in (plan, first)):
        return
    spec = first.settings.backbone
    problem = session.once("weights within reach", repr(spec), lambda: _problem(spec))
    if problem is not None:
        raise problem


def _problem(spec: BackboneSpec) -> UsageError | None:
    if not isinstance(spec, FetchesWeights):
        return None
    try:
        spec.require_weights()
    except UsageError as error:
        return error
    return None
