"""Data sets: images with labels, divided into train, val and test, with class-balanced nested subsets.

A new one is a subclass of `ImageDataset` (a class for each image) or `AnnotatedDataset` (masks, objects, several
classes, numbers) with `check` and `collect`, and a yaml in ``conf/dataset``.
"""

from thawline.datasets.base import AnnotatedDataset, ImageDataset
from thawline.datasets.coco import Coco
from thawline.datasets.digits import Digits
from thawline.datasets.hugging_face import HuggingFaceDataset
from thawline.datasets.ignored import not_reading
from thawline.datasets.image_folder import ImageFolder
from thawline.datasets.images import ArrayImages, FileImages
from thawline.datasets.instance_folder import InstanceFolder
from thawline.datasets.mask_folder import MaskFolder
from thawline.datasets.splits import Collection, Dataset, Images, Split, Splits
from thawline.datasets.tar_shards import TarShards
from thawline.datasets.targets import IGNORE, Mask, Objects
from thawline.datasets.torchvision_masks import PetSegmentation, VocSegmentation
from thawline.datasets.torchvision_sets import TorchvisionDataset
from thawline.datasets.value_tables import MultiHotCsv, NumberCsv
from thawline.datasets.voc_boxes import VocBoxes
from thawline.datasets.yolo import Yolo

__all__ = [
    "IGNORE",
    "AnnotatedDataset",
    "ArrayImages",
    "Coco",
    "Collection",
    "Dataset",
    "Digits",
    "FileImages",
    "HuggingFaceDataset",
    "ImageDataset",
    "ImageFolder",
    "Images",
    "InstanceFolder",
    "Mask",
    "MaskFolder",
    "MultiHotCsv",
    "NumberCsv",
    "Objects",
    "PetSegmentation",
    "Split",
    "Splits",
    "TarShards",
    "TorchvisionDataset",
    "VocBoxes",
    "VocSegmentation",
    "Yolo",
    "not_reading",
]
