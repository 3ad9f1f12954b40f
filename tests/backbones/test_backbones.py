"""Backbones: strict weights from every kind of file, measured features, the same network for the same seed."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from argparse import Namespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from tests.backbones.library_states import RESNET, assert_holds, library_state, refusal
from thawline.backbones import BackboneSpec, TimmBackbone, TorchvisionBackbone
from thawline.backbones.weights import state_hash
from thawline.config_paths import options
from thawline.errors import UsageError
from thawline.files import sha256_of_file
from thawline.specs import resolve, validate


def built(path, name=RESNET, **fields):
    return TimmBackbone(name=name, weights=str(path), **fields).build(seed=0)


# Files ----------


@pytest.mark.parametrize("kind", ["safetensors", "pth", "state_dict", "model", "ema", "ddp", "compiled", "args"])
def test_a_file_fills_the_network(tmp_path, kind):
    state = library_state()
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        prefix = {"ddp": "module.", "compiled": "_orig_mod."}.get(kind, "")
        flat = {f"{prefix}{name}": tensor for name, tensor in state.items()}
        content = {
            "state_dict": {"state_dict": flat, "epoch": 3},
            "model": {"model": flat},
            "ema": {"state_dict": {name: tensor * 0 for name, tensor in flat.items()}, "state_dict_ema": flat},
            "args": {"state_dict": flat, "args": Namespace(lr=0.1)},
        }.get(kind, flat)
        torch.save(content, path)
    backbone = built(path)
    assert_holds(backbone.module, state)
    assert backbone.weights.description == str(path)
    assert backbone.weights.sha256 == sha256_of_file(path)
    assert torch.equal(backbone.source_classifier.weight, state["fc.weight"])
    assert torch.equal(backbone.source_classifier.bias, state["fc.bias"])


def test_a_file_without_classifier_has_no_source_classifier(tmp_path):
    state = library_state(classes=0)
    torch.save(state, tmp_path / "features.pth")
    backbone = built(tmp_path / "features.pth")
    assert_holds(backbone.module, state)
    assert backbone.source_classifier is None


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_model_of_thawline_is_a_source(tmp_path, prefix):
    own = TimmBackbone(name=RESNET).build(seed=5)
    torch.manual_seed(0)
    head = nn.Linear(own.feature_dim, 3)
    state = {f"{prefix}backbone.{name}": tensor for name, tensor in own.module.state_dict().items()}
    state |= {f"{prefix}head.{name}": tensor for name, tensor in head.state_dict().items()}
    if prefix:
        path = tmp_path / "last.ckpt"
        torch.save({"state_dict": state, "epoch": 2, "pytorch-lightning_version": "2.6.6"}, path)
    else:
        path = tmp_path / "model.safetensors"
        save_file(state, path)
        (tmp_path / "record.json").write_text(json.dumps({"classes": ["zero", "one", "two"]}))
    backbone = TimmBackbone(name=RESNET, weights="source").build(seed=0, weights_file=path)
    assert_holds(backbone.module, own.module.state_dict())
    assert torch.equal(backbone.source_classifier.weight, head.weight)
    assert backbone.source_classifier.classes == (() if prefix else ("zero", "one", "two"))
    assert not backbone.source_classifier.weight.requires_grad


def test_the_names_of_the_classes_may_lie_beside_the_file(tmp_path):
    torch.save(library_state(classes=3), tmp_path / "birds.pth")
    assert built(tmp_path / "birds.pth").source_classifier.classes == ()
    (tmp_path / "birds.labels.txt").write_text("crow\nowl\ntit\n")
    assert built(tmp_path / "birds.pth").source_classifier.classes == ("crow", "owl", "tit")
    (tmp_path / "birds.labels.txt").write_bytes(b"\xef\xbb\xbfcrow\r\nowl\r\ntit\r\n\r\n")
    assert built(tmp_path / "birds.pth").source_classifier.classes == ("crow", "owl", "tit")
    (tmp_path / "birds.labels.txt").write_text("crow\nowl\n")
    with pytest.raises(UsageError, match=r"birds\.labels\.txt names 2 classes, but the classifier has 3 rows"):
        built(tmp_path / "birds.pth")
    (tmp_path / "birds.labels.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"birds\.labels\.txt: not readable as UTF-8 text"):
        built(tmp_path / "birds.pth")


def test_tensors_that_are_missing_left_over_or_of_other_shapes_are_named(tmp_path):
    state = library_state()
    path = tmp_path / "weights.pth"
    torch.save({name: tensor for name, tensor in state.items() if name != "layer1.0.conv1.weight"}, path)
    field, message = refusal(lambda: built(path))
    assert field == "backbone.weights"
    assert message.startswith(f"{path} does not fit test_resnet: lacks layer1.0.conv1.weight. Is it of another variant")
    torch.save(state | {"layer9.weight": torch.zeros(1)}, path)
    assert "has layer9.weight, which the network has not" in refusal(lambda: built(path))[1]
    torch.save(state | {"layer1.0.conv1.weight": torch.zeros(2, 3, 7, 7)}, path)
    field, message = refusal(lambda: TimmBackbone(name=RESNET, weights=str(path)).skeleton())
    assert field == "backbone.weights"
    assert "layer1.0.conv1.weight is (2, 3, 7, 7), not " in message
    torch.save(library_state("test_vit"), path)
    assert "none of its" in refusal(lambda: built(path))[1]
    torch.save(library_state("resnet18"), path)
    assert " more. Is it of another variant" in refusal(lambda: built(path))[1]


class Harmful:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (open, ("harm.txt", "w"))


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".pt", ".bin"])
def test_a_file_that_would_run_code_is_refused(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    torch.save({"state_dict": library_state(), "harm": Harmful()}, path)
    field, message = refusal(lambda: built(path))
    assert field == "backbone.weights"
    assert message.startswith(f"{path}: refused, it is not a plain file of tensors")
    assert not (tmp_path / "harm.txt").exists()
    path.write_bytes(pickle.dumps(Harmful()))
    assert str(path) in refusal(lambda: built(path))[1]
    assert not (tmp_path / "harm.txt").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path, suffix, share):
    path = tmp_path / f"weights{suffix}"
    save_file(library_state(), path) if suffix == ".safetensors" else torch.save(library_state(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    field, message = refusal(lambda: built(path))
    assert field == "backbone.weights"
    assert message.startswith(str(path))


def test_what_is_no_weights_file_is_named(tmp_path):
    absent, folder, empty = tmp_path / "absent.pth", tmp_path / "folder.pth", tmp_path / "empty.pth"
    folder.mkdir()
    torch.save({"epoch": 3}, empty)
    assert refusal(TimmBackbone(name=RESNET, weights=str(absent)).check) == (
        "backbone.weights",
        f"{absent}: no such file",
    )
    assert refusal(TimmBackbone(name=RESNET, weights=str(folder)).check)[1] == f"{folder}: is a folder, not a file"
    assert refusal(lambda: built(empty))[1] == f"{empty}: holds no tensors by name; it is a dictionary of epoch"


def test_timm_converts_what_it_knows(tmp_path):
    # A ViT trained on 160 pixels has 10 x 10 positions; on 96 pixels it needs 6 x 6.
    state = library_state("test_vit")
    torch.save(state, tmp_path / "vit.pth")
    small = built(tmp_path / "vit.pth", "test_vit", input_size=96)
    assert small.input_size == (96, 96)
    assert small.module.pos_embed.shape == (1, 37, 64)
    assert torch.equal(small.module.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])
    assert torch.equal(small.source_classifier.weight, state["head.weight"])
    assert small.module(torch.zeros(2, 3, 96, 96)).shape == (2, 64)


# Networks ----------


def test_a_random_network_is_a_function_of_the_seed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = TimmBackbone(name=RESNET).build(seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(10)
    assert state_hash(TimmBackbone(name=RESNET).build(seed=4).module) == state_hash(first.module)
    assert state_hash(TimmBackbone(name=RESNET).build(seed=5).module) != state_hash(first.module)
    assert (first.weights.description, first.weights.sha256, first.source_classifier) == ("random", None, None)


@pytest.mark.parametrize("name", [RESNET, "test_vit", "test_convnext", "test_efficientnet"])
def test_a_skeleton_is_the_network_without_its_numbers(name):
    spec = TimmBackbone(name=name)
    skeleton, backbone = spec.skeleton(), spec.build(seed=0)
    assert isinstance(spec, BackboneSpec)
    assert all(parameter.is_meta for parameter in skeleton.module.parameters())
    for field in ("name", "feature_dim", "input_size", "preprocessing", "groups"):
        assert getattr(skeleton, field) == getattr(backbone, field)
    images = torch.zeros(2, 3, *backbone.input_size)
    assert backbone.module.train()(images).shape == backbone.module.eval()(images).shape == (2, backbone.feature_dim)


def test_a_skeleton_knows_the_shape_of_the_source_classifier(tmp_path):
    torch.save(library_state(classes=7), tmp_path / "weights.pth")
    source = TimmBackbone(name=RESNET, weights=str(tmp_path / "weights.pth")).skeleton().source_classifier
    assert source.weight.is_meta
    assert source.weight.shape[0] == source.bias.shape[0] == 7
    source = TimmBackbone(name="resnet18", weights="pretrained").skeleton().source_classifier
    assert source.weight.shape == (1000, 512)
    assert source.classes[:2] == ("tench", "goldfish")
    assert TorchvisionBackbone(name="resnet18", weights="pretrained").skeleton().source_classifier.classes[0] == "tench"
    assert TimmBackbone(name=RESNET).skeleton().source_classifier is None


def test_what_is_configured_replaces_what_the_library_says():
    own = TimmBackbone(name="mobilenetv2_035").skeleton()
    assert (own.input_size, own.mean, own.preprocessing.crop_pct) == ((224, 224), (0.485, 0.456, 0.406), 0.875)
    changed = TimmBackbone(
        name="mobilenetv2_035", arguments={"pad_type": "same"}, input_size=96, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    ).skeleton()
    assert (changed.input_size, changed.mean, changed.std) == ((96, 96), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert type(changed.module.conv_stem).__name__ == "Conv2dSame"


def test_an_encoder_that_does_not_pool_is_pooled():
    backbone = TimmBackbone(name="mobilenetv5_300m_enc").skeleton()
    assert backbone.feature_dim == 2048
    names = {name for name, _ in backbone.module.named_parameters()}
    assert {name for group in backbone.groups for name in group.parameters} == names
    assert all(name.startswith("encoder.") for name in names)
    maps = TimmBackbone(name=RESNET, arguments={"global_pool": ""})
    images = torch.rand(2, 3, 160, 160)
    expected = TimmBackbone(name=RESNET).build(seed=0).module.eval()(images)
    assert torch.allclose(maps.build(seed=0).module.eval()(images), expected, atol=1e-6)


def test_parameters_that_nothing_uses_are_not_trained():
    if not timm.is_model("efficientvim_m1"):
        pytest.skip("this timm has no efficientvim_m1")
    backbone = TimmBackbone(name="efficientvim_m1").skeleton()
    assert "weights" not in dict(backbone.module.named_parameters())
    assert "weights" in backbone.module.state_dict()


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "test_vit", "test_convnext", "vit_relpos_small_patch16_224"])
def test_the_source_classifier_on_the_features_is_the_library_model(tmp_path, name):
    torch.manual_seed(0)
    full = timm.create_model(name, num_classes=5).eval()
    torch.save(full.state_dict(), tmp_path / "weights.pth")
    backbone = built(tmp_path / "weights.pth", name)
    images = torch.rand(1, 3, *backbone.input_size)
    with torch.no_grad():
        logits = nn.functional.linear(
            backbone.module.eval()(images), backbone.source_classifier.weight, backbone.source_classifier.bias
        )
        assert torch.allclose(logits, full(images), atol=1e-5)


def test_a_classifier_that_is_more_than_a_linear_layer_is_no_source_classifier(tmp_path):
    torch.save(library_state("levit_128s"), tmp_path / "weights.pth")  # two votes, each behind a norm
    assert built(tmp_path / "weights.pth", "levit_128s").source_classifier is None


# torchvision ----------


@pytest.mark.parametrize(
    "name", ["googlenet", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf"]
)
def test_torchvision_networks_give_features(name):
    spec = TorchvisionBackbone(name=name)
    skeleton, backbone = spec.skeleton(), spec.build(seed=1)
    assert skeleton.groups == backbone.groups
    assert state_hash(spec.build(seed=1).module) == state_hash(backbone.module)
    assert state_hash(spec.build(seed=2).module) != state_hash(backbone.module)
    features = backbone.module.train()(torch.rand(2, 3, 64, 64))
    assert features.shape == (2, backbone.feature_dim) == (2, skeleton.feature_dim)


def test_googlenet_sees_what_its_weights_were_trained_on(tmp_path):
    torch.manual_seed(0)
    full = models.googlenet(weights=None, aux_logits=True, transform_input=True, init_weights=False).eval()
    torch.save(full.state_dict(), tmp_path / "googlenet.pth")
    backbone = TorchvisionBackbone(name="googlenet", weights=str(tmp_path / "googlenet.pth")).build(seed=0)
    pixels = torch.rand(1, 3, 224, 224)
    imagenet = models.GoogLeNet_Weights.IMAGENET1K_V1.transforms()
    theirs = (pixels - torch.tensor(imagenet.mean).view(3, 1, 1)) / torch.tensor(imagenet.std).view(3, 1, 1)
    ours = (pixels - torch.tensor(backbone.mean).view(3, 1, 1)) / torch.tensor(backbone.std).view(3, 1, 1)
    with torch.no_grad():
        features = backbone.module.eval()(ours)
        logits = nn.functional.linear(features, backbone.source_classifier.weight, backbone.source_classifier.bias)
        assert torch.allclose(logits, full(theirs), atol=1e-4)


def test_the_dropout_before_the_classifier_goes_with_it():
    for name, kept in (("mobilenet_v2", 0), ("vgg11", 1), ("googlenet", 0)):
        module = TorchvisionBackbone(name=name).skeleton().module
        assert sum(isinstance(part, nn.Dropout) for part in module.modules()) == kept


def test_a_vit_of_torchvision_takes_another_size(tmp_path):
    torch.manual_seed(0)
    state = models.VisionTransformer(224, 32, 12, 12, 768, 3072).state_dict()
    torch.save(state, tmp_path / "vit.pth")
    spec = TorchvisionBackbone(name="vit_b_32", weights=str(tmp_path / "vit.pth"), input_size=96)
    backbone = spec.build(seed=0)
    assert backbone.module.encoder.pos_embedding.shape == (1, 10, 768)
    assert backbone.module.eval()(torch.zeros(1, 3, 96, 96)).shape == (1, 768)
    assert torch.equal(backbone.source_classifier.weight, state["heads.head.weight"])


# What cannot be used ----------


@pytest.mark.parametrize(
    ("spec", "field", "said"),
    [
        (TimmBackbone(name="resnet19"), "backbone.name", "timm has no model 'resnet19'; nearest: resnet18"),
        (TimmBackbone(name="resnet18", weights="a1_in2k"), "backbone.weights", "nearest: a1_in1k"),
        (TimmBackbone(name=RESNET, weights="pretrainde"), "backbone.weights", "there are r160_in1k"),
        (TimmBackbone(name="vgg16_gn", weights="pretrained"), "backbone.name", "timm has no model"),
        (TimmBackbone(name="resnet51q.nope"), None, ""),
        (TimmBackbone(name="mobilenetv2_035", weights="pretrained"), "backbone.weights", "timm has no weights for"),
        (TorchvisionBackbone(name="gogglenet"), "backbone.name", "nearest: googlenet"),
        (TorchvisionBackbone(name="resnet18", weights="V9"), "backbone.weights", "there are IMAGENET1K_V1"),
        (TorchvisionBackbone(name="resnet50", weights="ResNet50_Weights.IMAGENET1K_V2"), None, ""),
        (TimmBackbone(name="resnet50.a1_in1k", weights="pretrained"), None, ""),
    ],
    ids=lambda value: value.name if isinstance(value, (TimmBackbone, TorchvisionBackbone)) else "",
)
def test_a_check_names_what_is_not_there(spec, field, said):
    if field is None:
        spec.check()
        return
    found, message = refusal(spec.check)
    assert found == field
    assert said in message


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": RESNET, "arguments": {"pad_typ": "same"}}, "backbone.arguments"),
        ({"name": "vit_base_patch14_dinov2", "input_size": 5}, "backbone.input_size"),
        ({"name": "coatnet_0_rw_224", "input_size": 100}, "backbone.input_size"),
        ({"name": "inception_v3", "input_size": 32}, "backbone.input_size"),
    ],
)
def test_a_network_that_cannot_be_made_is_refused_with_its_field(fields, field):
    found, message = refusal(TimmBackbone(**fields).skeleton)
    assert found == field
    assert fields["name"] in message


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": RESNET, "input_size": 0}, "backbone.input_size"),
        ({"name": RESNET, "std": [0.5, 0.0, 0.5]}, "backbone.std"),
        ({"name": RESNET, "mean": [0.5]}, "backbone.mean"),
        ({"name": RESNET, "granularity": "layer"}, "backbone.granularity"),
        ({"name": RESNET, "arguments": {"num_classes": 3}}, "backbone.arguments"),
        ({"name": RESNET, "wieghts": None}, "backbone.wieghts"),
    ],
)
def test_a_wrong_field_is_named(values, field):
    with pytest.raises(UsageError) as caught:
        validate(TimmBackbone, values, "backbone")
    assert all(problem.field.startswith(field) for problem in caught.value.problems)


def test_none_is_random():
    assert TimmBackbone(name=RESNET, weights="none").weights is None


def test_where_the_weights_lie_does_not_decide_the_identity(tmp_path):
    one, other = (TimmBackbone(name=RESNET, weights=str(tmp_path / name)) for name in ("a.pth", "b.pth"))
    assert one.deciding() == other.deciding()
    assert one.deciding() != TimmBackbone(name=RESNET, weights=one.weights, input_size=64).deciding()


# The shipped configuration ----------


@pytest.mark.parametrize("option", sorted(options("backbone")))
def test_every_shipped_backbone_is_valid(option):
    from omegaconf import OmegaConf

    node = OmegaConf.load(options("backbone")[option])
    if OmegaConf.is_missing(node, "name"):
        node.name = "resnet18"
    spec = resolve(OmegaConf.to_container(node), "backbone")
    spec.check()
    assert set(node) - {"_target_"} == set(type(spec).model_fields)


# Real weights ----------


@pytest.mark.parametrize("weights", ["mobilenetv2_100.imagenet1k", "mobilenetv2_100.inat_birds"])
def test_real_weights_recognise_real_photographs(shared_data, weights):
    spec = TimmBackbone(
        name="mobilenetv2_100",
        weights=str(shared_data / "weights" / f"{weights}.pth"),
        arguments={"pad_type": "same"},
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    backbone = spec.build(seed=0)
    backbone.module.eval()
    classifier = backbone.source_classifier
    with tarfile.open(shared_data / "sanity_photos.tar") as tar:
        expected = json.load(tar.extractfile("sanity_photos/expected.json"))["models"][weights]
        for photo, answer in expected.items():
            image = Image.open(io.BytesIO(tar.extractfile(f"sanity_photos/{photo}").read())).convert("RGB")
            pixels = torch.from_numpy(np.array(image.resize((224, 224), Image.Resampling.BICUBIC))) / 255
            images = ((pixels - torch.tensor(backbone.mean)) / torch.tensor(backbone.std)).permute(2, 0, 1)[None]
            with torch.no_grad():
                logits = nn.functional.linear(backbone.module(images.float()), classifier.weight, classifier.bias)
            best = logits.softmax(1)[0].max(0)
            assert (int(best.indices), classifier.classes[int(best.indices)]) == (answer["top1"], answer["label"]), (
                photo
            )
            # Versions of Pillow read and resize a photograph with differences of a level in a few pixels.
            assert abs(float(best.values) - answer["prob"]) < 2e-3, photo


def test_real_features_without_classifier(shared_data):
    path = shared_data / "weights" / "mobilenetv2_035.imagenet_features.pth"
    backbone = TimmBackbone(name="mobilenetv2_035", weights=str(path), arguments={"pad_type": "same"}).build(seed=0)
    assert backbone.source_classifier is None
    assert backbone.feature_dim == 1280
    assert backbone.weights.sha256 == "0a01dd21a1d1ff39199c0b26d8b74e10f613cc414c45e6fba650deff07122368"


# One model of each kind of classifier ----------


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "beit_base_patch16_224",
        "cait_xxs24_224",
        "coat_tiny",
        "convit_tiny",
        "cs3darknet_s",
        "davit_tiny",
        "densenet121",
        "edgenext_xx_small",
        "efficientvit_b0",
        "fastvit_t8",
        "ghostnet_050",
        "hgnetv2_b0",
        "hrnet_w18_small",
        "inception_v4",
        "mambaout_femto",
        "mvitv2_tiny",
        "nextvit_small",
        "pvt_v2_b0",
        "rdnet_tiny",
        "regnetx_002",
        "repghostnet_050",
        "resnet50_clip_gap",
        "rexnet_100",
        "selecsls42",
        "sequencer2d_s",
        "starnet_s1",
        "swin_tiny_patch4_window7_224",
        "tiny_vit_5m_224",
        "tresnet_m",
        "vgg11",
        "visformer_tiny",
        "volo_d1_224",
        "xcit_nano_12_p16_224",
        "dla46x_c",
    ],
)
def test_features_and_source_classifier_agree_with_the_library(tmp_path, name):
    torch.manual_seed(0)
    full = timm.create_model(name, num_classes=5).eval()
    torch.save(full.state_dict(), tmp_path / "weights.pth")
    backbone = built(tmp_path / "weights.pth", name)
    if backbone.source_classifier is None:
        return
    images = torch.rand(1, 3, *backbone.input_size)
    with torch.no_grad():
        logits = nn.functional.linear(
            backbone.module.eval()(images), backbone.source_classifier.weight, backbone.source_classifier.bias
        )
        assert torch.allclose(logits, full(images), atol=1e-4 * float(full(images).abs().max()) + 1e-5)
