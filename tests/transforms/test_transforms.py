from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from thawline.backbones import TimmBackbone, TorchvisionBackbone
from thawline.errors import UsageError
from thawline.preprocessing import Preprocessing
from thawline.specs import resolve
from thawline.transforms import Transform

CONF = Path(__file__).parents[2] / "conf" / "transform"
V2 = "torchvision.transforms.v2."


def random_image(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def own(height, width, interpolation, crop_pct, **more):
    """What a backbone says of its images."""
    return Preprocessing(size=(height, width), interpolation=interpolation, crop_pct=crop_pct, **more)


def config(name):
    return OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"), resolve=True)


def augmented(*steps, size=16, resize="squash"):
    node = {"_target_": "thawline.transforms.Transform", "resize": resize, "augmentation": list(steps)}
    return resolve(node).fitted(own(size, size, "bilinear", 0.9))


# ----------------------------------------------------------------------------------------------------------- fixed part


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(300, 200), (200, 333), (64, 64), (8, 8), (500, 31)])
@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
def test_crop_is_bit_for_bit_what_timm_does_at_evaluation(interpolation, shape, crop_pct):
    from timm.data import create_transform

    steps = create_transform((3, 64, 64), interpolation=interpolation, crop_pct=crop_pct).transforms
    expected = np.asarray(steps[1](steps[0](random_image(*shape))))
    transform = Transform().fitted(own(64, 64, interpolation, crop_pct))
    decoded = transform.decode(random_image(*shape))
    assert (decoded.dtype, decoded.shape, decoded.is_contiguous()) == (torch.uint8, (3, 64, 64), True)
    assert np.array_equal(decoded.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("shape", [(300, 200), (40, 333), (1, 1), (1, 500)])
def test_every_resize_gives_the_size_asked_for(resize, shape):
    transform = Transform(size=(24, 40), resize=resize).fitted(own(99, 99, "lanczos", 0.875))
    assert transform.output_size == (24, 40)
    assert transform.decode(random_image(*shape)).shape == (3, 24, 40)
    assert transform.decode(random_image(*shape), (10, 20)).shape == (3, 10, 20)


def test_squash_keeps_the_whole_picture_and_pad_its_proportions():
    halves = Image.new("RGB", (40, 20), "white")
    halves.paste((255, 0, 0), (0, 0, 20, 20))
    squashed = Transform(size=10, resize="squash", interpolation="nearest").decode(halves)
    assert squashed[1, 5].tolist() == [0] * 5 + [255] * 5
    padded = Transform(size=20, resize="pad", interpolation="nearest").decode(halves)
    assert padded[0, :, 0].tolist() == [0] * 5 + [255] * 10 + [0] * 5
    cropped = Transform(size=20, resize="crop", crop_pct=1.0, interpolation="nearest").decode(halves)
    assert cropped[1, 10].tolist() == [0] * 10 + [255] * 10


def test_the_backbone_fills_in_what_is_left_open_and_nothing_else():
    fitted = Transform().fitted(own(96, 128, "bilinear", 0.9))
    assert (fitted.output_size, fitted.interpolation, fitted.crop_pct) == ((96, 128), "bilinear", 0.9)
    chosen = Transform(size=32, interpolation="box", crop_pct=0.5).fitted(own(96, 128, "bilinear", 0.9))
    assert (chosen.output_size, chosen.interpolation, chosen.crop_pct) == ((32, 32), "box", 0.5)
    assert chosen.fitted(own(1, 1, "nearest", 1.0)) == chosen
    with pytest.raises(ValueError, match="the size is not known"):
        Transform().decode(random_image(8, 8))
    with pytest.raises(UsageError, match=r"transform\.interpolation"):
        Transform().fitted(own(96, 96, "random", 0.9))


def test_wrong_fields_are_all_named():
    node = {
        "_target_": "thawline.transforms.Transform",
        "size": 0,
        "resize": "crp",
        "crop_pct": 1.5,
        "interpolation": "cubic",
        "augment": [],
    }
    with pytest.raises(UsageError) as error:
        resolve({"transform": node})
    fields = {problem.field.split(".")[1] for problem in error.value.problems}
    assert fields == {"size", "resize", "crop_pct", "interpolation", "augment"}
    assert "transform.augment: unknown field; nearest: augmentation" in [str(item) for item in error.value.problems]


# --------------------------------------------------------------------------------------------------------- augmentation

STRONG = (
    {"_target_": V2 + "RandomResizedCrop", "scale": [0.3, 1.0], "interpolation": "bicubic"},
    {"_target_": V2 + "RandAugment", "interpolation": "bilinear"},
    {"_target_": V2 + "RandomApply", "p": 0.5, "transforms": [{"_target_": V2 + "ColorJitter", "brightness": 0.4}]},
    {"_target_": V2 + "RandomErasing", "p": 0.5},
)


class Views(Dataset):
    def __init__(self, transform, indices):
        self.transform, self.indices = transform, indices
        self.images = [transform.decode(random_image(20, 30, seed)) for seed in range(20)]

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, position):
        index = self.indices[position]
        # Something else in the worker draws from torch too.
        torch.rand(index + 1)
        return index, self.transform.augment(self.images[index], data_seed=3, epoch=2, index=index)


def views(order, workers, batch_size):
    context = "fork" if workers else None  # a spawned worker imports torch anew, which takes seconds

    loader = DataLoader(
        Views(augmented(*STRONG), order), batch_size=batch_size, num_workers=workers, multiprocessing_context=context
    )
    return {int(index): view for indices, batch in loader for index, view in zip(indices, batch, strict=True)}


def test_a_view_is_the_same_bits_for_any_workers_batch_size_and_order():
    order = list(range(20))
    expected = views(order, 0, 1)
    assert len({view.numpy().tobytes() for view in expected.values()}) == 20
    for found in (views(order[::-1], 0, 7), views(order, 2, 7), views(order[::-1], 2, 1)):
        assert all(torch.equal(found[index], expected[index]) for index in order)


def test_a_view_is_a_function_of_seed_epoch_and_index_alone():
    transform, image = augmented(*STRONG), Transform(size=16).decode(random_image(20, 30))
    keys = [(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1)]
    found = {key: transform.augment(image, *key) for key in keys}
    assert len({view.numpy().tobytes() for view in found.values()}) == len(keys)
    state = torch.get_rng_state()
    for key in reversed(keys):
        assert torch.equal(augmented(*STRONG).augment(image, *key), found[key])
    assert torch.equal(torch.get_rng_state(), state)
    sent = ForkingPickler.loads(ForkingPickler.dumps(transform))
    assert torch.equal(sent.augment(image, 0, 1, 1), found[0, 1, 1])


def test_without_augmentation_a_picture_stays_as_it_is():
    image = torch.zeros((3, 4, 4), dtype=torch.uint8)
    assert Transform().augment(image, 0, 0, 0) is image
    assert not Transform().is_random
    assert augmented(*STRONG).is_random


def test_a_size_that_is_left_out_is_the_inputs():
    crop = augmented({"_target_": V2 + "RandomCrop", "padding": 4}, size=20)
    assert crop.augment(torch.zeros((3, 20, 20), dtype=torch.uint8), 0, 0, 0).shape == (3, 20, 20)


def test_equal_configs_stay_equal_after_use():
    first, second = augmented(*STRONG), augmented(*STRONG)
    first.augment(torch.zeros((3, 16, 16), dtype=torch.uint8), 0, 0, 0)
    assert first == second
    assert first.model_dump() == second.model_dump()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"_target_": V2 + "RandomHorizontalFlp"}, "has no class 'RandomHorizontalFlp'; nearest: RandomHorizontalFlip"),
        ({"_target_": V2 + "RandomErasing", "prob": 1}, "RandomErasing takes no argument 'prob'"),
        ({"_target_": V2 + "RandAugment", "magnitud": 7}, "takes no argument 'magnitud'; nearest: magnitude"),
        ({"_target_": V2 + "RandomErasing", "p": 7.0}, "RandomErasing: `p` should be"),
        ({"_target_": V2 + "RandAugment", "interpolation": "cubic"}, "'cubic' is not a valid InterpolationMode"),
        ({"_target_": "torchvision.transforms.RandomErasing"}, "is not a transform of torchvision.transforms.v2"),
        ({"_target_": "torch.nn.ReLU"}, "is not a transform of torchvision.transforms.v2"),
        ({"_target_": "os.system", "command": "true"}, "outside the allowed packages"),
        (
            {"_target_": V2 + "RandomApply", "transforms": [{"_target_": V2 + "ColorJiter"}]},
            "has no class 'ColorJiter'; nearest: ColorJitter",
        ),
    ],
)
def test_augmentation_that_cannot_be_built_is_refused_with_the_nearest_names(step, message):
    with pytest.raises(UsageError) as error:
        resolve({"transform": {"_target_": "thawline.transforms.Transform", "augmentation": [step]}})
    assert "transform.augmentation" in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"_target_": V2 + "RandomCrop", "size": 8}, r"must keep type and size: uint8 \(3, 16, 16\) became"),
        ({"_target_": V2 + "Grayscale"}, r"became \(torch.uint8, \(1, 16, 16\)\)"),
        ({"_target_": V2 + "ToPILImage"}, "became Image"),
        ({"_target_": V2 + "MixUp", "num_classes": 3}, "does not work on one image"),
    ],
)
def test_augmentation_must_keep_type_and_size(step, message):
    with pytest.raises(UsageError, match=message):
        augmented(step)


# -------------------------------------------------------------------------------------------------------------- configs


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_config_of_a_transform_is_whole_and_works(name):
    assert (CONF / f"{name}.yaml").read_text().startswith("# ")
    node = config(name)
    assert set(node) - {"_target_"} == set(Transform.model_fields)
    transform = resolve(node).fitted(own(32, 32, "bicubic", 0.9))
    assert transform.is_random == (name not in ("default", "squash"))
    image = transform.decode(random_image(50, 40))
    first, second = transform.augment(image, 0, 0, 0), transform.augment(image, 0, 1, 0)
    assert first.shape == (3, 32, 32)
    assert torch.equal(first, second) != transform.is_random


def test_the_default_config_is_the_default_of_the_class():
    assert resolve(config("default")) == Transform()
    assert resolve(config("squash")) == Transform(resize="squash")


# ----------------------------------------------------------------------------------------- preprocessing of the weights


def photographs(*shapes):
    """Crops of two photographs, of odd sizes (height, width)."""
    from sklearn.datasets import load_sample_images

    for photograph, (height, width) in zip(load_sample_images().images * len(shapes), shapes, strict=False):
        yield Image.fromarray(photograph[:height, :width])


def as_timm_evaluates(config, image):
    """The uint8 image (3, H, W) of timm's own evaluation transform."""
    from timm.data import create_transform

    return create_transform(**config, use_prefetcher=True)(image)


@pytest.mark.parametrize(
    "tag",
    ["resnet50.a1_in1k", "efficientnet_b5.sw_in12k_ft_in1k", "dm_nfnet_f0.dm_in1k",
     "convnextv2_huge.fcmae_ft_in22k_in1k_512"],
)  # fmt: skip
def test_images_are_prepared_as_the_weights_want_it(tag):
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    config = resolve_data_config(pretrained_cfg=get_pretrained_cfg(tag).to_dict())
    backbone = TimmBackbone(name=tag, weights="pretrained")
    transform = Transform().fitted(backbone.images())
    for image in photographs((427, 640), (300, 201)):
        assert torch.equal(transform.decode(image), as_timm_evaluates(config, image))


@pytest.mark.parametrize("crop_pct", [0.8, 0.91, 1.0, 1.15])
@pytest.mark.parametrize(("mode", "resize"), [("center", "crop"), ("squash", "squash"), ("border", "border")])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_every_crop_mode_is_timm_s(mode, resize, crop_pct, size):
    mean = (0.2, 0.4, 0.9)
    config = {"input_size": (3, *size), "interpolation": "bicubic", "crop_pct": crop_pct, "crop_mode": mode,
              "mean": mean, "std": mean}  # fmt: skip
    known = Preprocessing(size=size, interpolation="bicubic", crop_pct=crop_pct, resize=resize, fill=(51, 102, 230))
    transform = Transform().fitted(known)
    for shape in ((300, 201), (33, 127), (127, 33), (64, 64), (5, 7)):
        assert torch.equal(transform.decode(random_image(*shape)), as_timm_evaluates(config, random_image(*shape))), (
            shape
        )


def test_a_resize_that_is_asked_for_keeps_the_whole_image_and_a_crop_what_the_weights_keep():
    weights = Preprocessing(size=(8, 8), interpolation="bilinear", crop_pct=0.5, resize="squash", fill=(1, 2, 3))
    chosen = {name: Transform(resize=name).fitted(weights) for name in ("crop", "squash", "border", "pad")}
    assert {name: one.crop_pct for name, one in chosen.items()} == {"crop": 0.5, "squash": 1, "border": 1, "pad": 1}
    left = Transform().fitted(weights)
    assert (left.resize, left.crop_pct) == ("squash", 0.5)
    long = Image.new("RGB", (40, 20), "white")
    assert chosen["border"].decode(long)[:, 0, 0].tolist() == [1, 2, 3]
    assert chosen["pad"].decode(long)[:, 0, 0].tolist() == [0, 0, 0]
    assert Transform(resize="pad", fill=(9, 9, 9)).fitted(weights).decode(long)[:, 0, 0].tolist() == [9, 9, 9]


@pytest.mark.slow
def test_every_tag_of_timm_is_prepared_as_timm_does():
    import timm
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    seen = {}
    for tag in timm.list_pretrained():
        config = resolve_data_config(pretrained_cfg=get_pretrained_cfg(tag).to_dict())
        images = TimmBackbone(name=tag, weights="pretrained").images()
        assert (images.mean, images.std) == (tuple(config["mean"]), tuple(config["std"])), tag
        decides = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean")
        seen.setdefault(tuple(str(config[name]) for name in decides), (tag, config, images))
    assert len(seen) > 50
    for tag, config, images in seen.values():
        transform = Transform().fitted(images)
        for image in photographs((427, 640), (333, 500), (401, 187), (61, 640), (9, 5)):
            assert torch.equal(transform.decode(image), as_timm_evaluates(config, image)), (tag, image.size)


@pytest.mark.slow
def test_every_set_of_weights_of_torchvision_is_prepared_as_torchvision_does():
    from torchvision import models
    from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            preset = weights.transforms()
            transform = Transform().fitted(TorchvisionBackbone(name=name, weights=weights.name).images())
            for image in photographs((427, 640), (401, 187)):
                expected = resize(image, preset.resize_size, interpolation=preset.interpolation)
                expected = pil_to_tensor(center_crop(expected, preset.crop_size))
                assert torch.equal(transform.decode(image), expected), (name, weights.name)
