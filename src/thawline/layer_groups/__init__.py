"""Layer groups: the steps of depth of a network, an ordered partition of its parameters from the input to the output.

Three questions are answered apart. *What belongs together?* timm's ``group_matcher`` says it where the model has one,
the module tree elsewhere. *In which order?* A forward pass on the meta device shows when each parameter is first used;
groups are intervals of that order, so what the patterns of a matcher miss, or put in the wrong place, goes where the
data meets it. *Is it a step of depth?* A group without a weight (a lone norm) joins the group below it, so that
"unfreeze one group" means the same in every architecture.
"""

from thawline.layer_groups.forward_pass import ForwardPass, feature_shape, forward_order, trace, used_parameters
from thawline.layer_groups.grouping import layer_groups
from thawline.layer_groups.layer_group import Granularity, LayerGroup
from thawline.layer_groups.meta_device import META_FAILURES
from thawline.layer_groups.table import GroupRow, group_table

__all__ = [
    "META_FAILURES",
    "ForwardPass",
    "Granularity",
    "GroupRow",
    "LayerGroup",
    "feature_shape",
    "forward_order",
    "group_table",
    "layer_groups",
    "trace",
    "used_parameters",
]
