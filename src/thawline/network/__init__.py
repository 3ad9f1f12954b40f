"""The network that is trained: its parameters by name and kind, and the model of backbone and head."""

from thawline.network.features import Features
from thawline.network.network import Network, SourceClassifier, names_of

__all__ = ["Features", "Network", "SourceClassifier", "names_of"]
