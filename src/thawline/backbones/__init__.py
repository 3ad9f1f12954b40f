"""Backbones: source networks without their classifier, of timm, of torchvision, or trained by thawline."""

from thawline.backbones.backbone import Backbone, BackboneSpec, FetchesWeights
from thawline.backbones.descriptions import described
from thawline.backbones.timm_backbone import TimmBackbone
from thawline.backbones.torchvision_backbone import TorchvisionBackbone

__all__ = ["Backbone", "BackboneSpec", "FetchesWeights", "TimmBackbone", "TorchvisionBackbone", "described"]
