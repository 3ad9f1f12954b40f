"""One toy data set of drawn images, written in every format that the readers know."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

SIZE = (12, 16)
CLASSES = ("sky", "disc", "bar")
OBJECTS = {
    # Of each image: class, xmin, ymin, xmax, ymax; right and bottom are exclusive.
    "a": [(1, 2, 3, 6, 8), (2, 8, 1, 15, 4)],
    "b": [(1, 0, 0, 4, 4)],
    "c": [(2, 5, 5, 16, 12)],
    "d": [],
    "e": [(2, 1, 9, 10, 11), (2, 11, 0, 13, 12)],
    "f": [(1, 3, 3, 9, 9)],
}
PARTS = {"a": "train", "b": "train", "c": "train", "d": "train", "e": "val", "f": "test"}


def mask(name):
    """(12, 16) the class of every pixel; sky is 0, and later objects lie over earlier ones."""
    values = np.zeros(SIZE, dtype=np.uint8)
    for label, xmin, ymin, xmax, ymax in OBJECTS[name]:
        values[ymin:ymax, xmin:xmax] = label
    return values


def instances(name):
    values = np.zeros(SIZE, dtype=np.uint8)
    for number, (_, xmin, ymin, xmax, ymax) in enumerate(OBJECTS[name], start=1):
        values[ymin:ymax, xmin:xmax] = number
    return values


def image(name):
    pixels = np.random.default_rng(ord(name)).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def mask_folder(root, names=tuple(OBJECTS)):
    """``images`` and ``masks``, undivided."""
    for name in names:
        save(image(name), root / "images" / f"{name}.png")
        save(Image.fromarray(mask(name)), root / "masks" / f"{name}.png")
    return root


def camvid(root):
    """``train`` and ``trainannot``."""
    for name, part in PARTS.items():
        save(image(name), root / part / f"{name}.png")
        save(Image.fromarray(mask(name)), root / f"{part}annot" / f"{name}.png")
    return root


def mask_table(root):
    mask_folder(root)
    rows = [f"images/{name}.png,masks/{name}.png,{part}" for name, part in PARTS.items()]
    (root / "splits.csv").write_text("\n".join(["path,mask,split", *rows]) + "\n")
    return root


def penn_fudan(root):
    for name in OBJECTS:
        save(image(name), root / "PNGImages" / f"{name}.png")
        save(Image.fromarray(instances(name)), root / "PedMasks" / f"{name}_mask.png")
    rows = [
        f"PedMasks/{name}_mask.png,{number},{CLASSES[label]}"
        for name, objects in OBJECTS.items()
        for number, (label, *_) in enumerate(objects, start=1)
    ]
    (root / "classes.csv").write_text("\n".join(["mask,value,class", *rows]) + "\n")
    return root


def voc(root, lists=True):
    for name, objects in OBJECTS.items():
        save(image(name), root / "JPEGImages" / f"{name}.png")
        boxes = [(CLASSES[label], xmin + 1, ymin + 1, xmax, ymax) for label, xmin, ymin, xmax, ymax in objects]
        voc_xml(root, name, boxes)
    if lists:
        for part in ("train", "val", "test"):
            file = root / "ImageSets" / "Main" / f"{part}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{name}\n" for name, of in PARTS.items() if of == part))
    return root


def voc_xml(root, name, boxes, size=SIZE, more=""):
    objects = "".join(
        f"<object><name>{label}</name>{more}<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax>"
        f"<ymax>{ymax}</ymax></bndbox></object>\n"
        for label, xmin, ymin, xmax, ymax in boxes
    )
    stated = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    file = root / "Annotations" / f"{name}.xml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"<annotation>\n{stated}\n{objects}</annotation>\n")
    return file


def coco_content(part):
    """The json of one part: ids of images and categories that are no indices."""
    names = [name for name, of in PARTS.items() if of == part]
    annotations = [
        {
            "id": 1000 * ord(name) + number,
            "image_id": ord(name),
            "category_id": {1: 7, 2: 90}[label],
            "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
            "segmentation": [[xmin, ymin, xmax, ymin, xmax, ymax, xmin, ymax]],
            "iscrowd": 0,
        }
        for name in names
        for number, (label, xmin, ymin, xmax, ymax) in enumerate(OBJECTS[name])
    ]
    return {
        "images": [
            {"id": ord(name), "file_name": f"{name}.png", "height": SIZE[0], "width": SIZE[1]} for name in names
        ],
        "annotations": annotations,
        "categories": [{"id": 90, "name": "bar"}, {"id": 7, "name": "disc"}],
    }


def coco(root):
    for name, part in PARTS.items():
        save(image(name), root / f"{part}2017" / f"{name}.png")
    for part in ("train", "val", "test"):
        write_json(root / "annotations" / f"instances_{part}2017.json", coco_content(part))
    return root


def write_json(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def yolo(root):
    height, width = SIZE
    for name, part in PARTS.items():
        save(image(name), root / "images" / part / f"{name}.png")
        lines = [
            f"{label - 1} {(x0 + x1) / 2 / width:.6f} {(y0 + y1) / 2 / height:.6f} {(x1 - x0) / width:.6f} "
            f"{(y1 - y0) / height:.6f}\n"
            for label, x0, y0, x1, y1 in OBJECTS[name]
        ]
        file = root / "labels" / part / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(lines))
    (root / "data.yaml").write_text(
        "train: images/train\nval: images/val\ntest: images/test\nnames: {0: disc, 1: bar}\n"
    )
    return root
