"""`thawline export`: each format gives the model's own answers, says all of its images, and writes over nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import thawline as api
from tests.cli.test_predict import DETECT
from tests.conftest import TINY, records
from tests.drawn_objects import draw_yolo
from tests.execution.test_gallery import TRAIN
from tests.masked_squares import draw_masks
from thawline.cli import main
from thawline.records import load_record

CLASSES = ("bars", "dots", "plain")
PARTS = {"train": 6, "val": 3, "test": 7}
SIZES = ((48, 64), (57, 41), (40, 40))
PHOTOS = (
    *(item for item in TINY if not item.startswith(("dataset", "transform"))),
    "dataset=image_folder",
    "dataset.root=photos",
    "transform.size=32",
    "optimizer=adamw",
    "optimizer.lr=0.01",
)


def draw_photos(root: Path) -> Path:
    """Images of three classes and sizes, in ``root/<part>/<class>``."""
    for place, label in enumerate(CLASSES):
        for part, count in PARTS.items():
            folder = root / part / label
            folder.mkdir(parents=True)
            for index in range(count):
                rng = np.random.default_rng([place, len(part), index])
                height, width = SIZES[index % 3]
                pixels = rng.integers(0, 90, (height, width, 3))
                if label == "bars":
                    pixels[:, :: rng.integers(4, 9)] += 150
                if label == "dots":
                    pixels[:: rng.integers(4, 9), :: rng.integers(4, 9)] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a sweep over two depths."""
    folder = tmp_path_factory.mktemp("finished")
    draw_photos(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "-m", *PHOTOS, "freeze_policy.k=0,1", "sweep.name=photos", "sweep.report=false"]) == 0
    return folder


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A folder with a run on masks, one on boxes, and one whose adapter stays an adapter."""
    folder = tmp_path_factory.mktemp("others")
    draw_masks(folder / "masks")
    draw_yolo(folder / "objects")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *TRAIN, "output_dir=masked"]) == 0
        boxes = ("dataset=yolo", "dataset.root=objects", "output_dir=boxed", "trainer.max_epochs=1")
        assert main(["train", *DETECT, *boxes]) == 0
        adapted = ("backbone=test_vit", "adapter=bottleneck", "freeze_policy=linear_probe", "output_dir=adapted")
        assert main(["train", *TINY, *adapted, "trainer.max_epochs=1"]) == 0
    return folder


@pytest.fixture
def photos(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def dense(others, tmp_path):
    shutil.copytree(others, tmp_path, dirs_exist_ok=True)


def best() -> Path:
    return max(records(), key=lambda folder: rank(load_record(folder).metrics["val"]))


def rank(metrics):
    return metrics["top1"], -metrics["loss"]


def paths() -> list[str]:
    """The data set's images in its own order, which is that of their paths."""
    return sorted(f"{part}/{label}/{i}.png" for part, count in PARTS.items() for label in CLASSES for i in range(count))


@pytest.mark.usefixtures("photos")
def test_timm_gives_the_record_s_answers_to_the_last_image(thawline):
    result = thawline("export", "photos", "--format", "timm", "--output", "net")
    assert result.status == 0, result.err
    folder = best()
    record, said = load_record(folder), np.load(folder / "predictions.npz")
    assert f"run {folder.name} is the best of 2 runs of sweep photos by validation top-1 accuracy" in result.out
    model = timm.create_model("local-dir:net", pretrained=True).eval()
    assert (model.num_classes, model.pretrained_cfg["label_names"]) == (3, list(CLASSES))
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model.pretrained_cfg))
    files = [paths()[index] for index in said["index"]]
    assert [Path(file).parts[:2] for file in files] == [("test", CLASSES[label]) for label in said["label"]]
    with torch.inference_mode():
        images = torch.stack([transform(Image.open(f"photos/{file}")) for file in files])
        probabilities = model(images).softmax(dim=1).numpy()
    assert probabilities == pytest.approx(said["probabilities"], abs=1e-5)
    right = probabilities.argmax(axis=1) == said["label"]
    assert right.mean() == pytest.approx(record.metrics["test"]["top1"], abs=1e-7)
    assert np.array_equal(probabilities.argmax(axis=1), said["probabilities"].argmax(axis=1))
    config = model.pretrained_cfg
    images = record.preprocessing
    assert tuple(config["input_size"]) == (3, *images.size)
    assert (config["mean"], config["std"]) == (list(images.mean), list(images.std))
    assert (config["interpolation"], config["crop_pct"]) == (images.interpolation, images.crop_pct)
    assert sorted(path.name for path in Path("net").iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_the_card_of_a_plain_network_says_how_its_output_becomes_the_number(thawline):
    for index in range(12):
        pixels = np.full((32, 32, 3), 20 * index, np.uint8)
        Path("bright").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(f"bright/{index}.png")
    Path("bright/labels.csv").write_text("path,age\n" + "".join(f"{i}.png,{1000 + 10 * i}\n" for i in range(12)))
    plain = [item for item in TINY if not item.startswith("dataset")]
    scaled = (
        "task.center=1000",
        "task.scale=50.5",
        "dataset=number_csv",
        "dataset.root=bright",
        "trainer.max_epochs=1",
    )
    assert thawline("train", *plain, *scaled).status == 0
    (folder,) = records()
    assert thawline("export", folder.name, "--format", "timm", "--output", "net").status == 0
    said = "The number of an image is 1000.0 + 50.5 * output (task.center, task.scale)."
    assert said.replace("*", r"\*") in Path("net/README.md").read_text()
    model_file = "net.pt"
    assert thawline("export", folder.name, "--output", model_file).status == 0
    assert "The number of an image" not in Path(f"{model_file}.md").read_text()
    model = timm.create_model("local-dir:net", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model.pretrained_cfg))
    with torch.inference_mode():
        (output,) = model(transform(Image.open("bright/3.png").convert("RGB"))[None]).flatten().tolist()
    assert thawline("predict", folder.name, "bright/3.png", "--json", "said.json").status == 0
    (image,) = json.loads(Path("said.json").read_text())["images"]
    assert 1000 + 50.5 * output == pytest.approx(image["values"]["value"], rel=1e-6)


def check_about(about):
    record = load_record(best())
    assert (about["run"], about["task"], json.loads(about["classes"])) == (record.identity, record.task, record.classes)
    assert json.loads(about["preprocessing"]) == record.preprocessing.model_dump(mode="json")


@pytest.mark.usefixtures("photos")
def test_torchscript_takes_uint8_images_and_gives_probabilities(thawline):
    result = thawline("export", "photos", "--output", "net.pt")
    assert result.status == 0, result.err
    extra = {"thawline.json": ""}
    model = torch.jit.load("net.pt", _extra_files=extra)
    check_about(json.loads(extra["thawline.json"]))
    loaded = api.load_run(best())
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        for batch in (images, images[:1]):
            outputs, values = model(batch)
            assert torch.equal(outputs, loaded.load_model()(batch))
            assert torch.equal(values, outputs.softmax(dim=1))


@pytest.mark.slow
@pytest.mark.usefixtures("photos")
def test_onnx_takes_any_number_of_uint8_images(thawline):
    import onnxruntime

    result = thawline("export", "photos", "--output", "net.onnx")
    assert result.status == 0, result.err
    assert "held against the model in onnxruntime on 16 test images: the largest difference is" in result.out
    session = onnxruntime.InferenceSession("net.onnx")
    check_about(session.get_modelmeta().custom_metadata_map)
    model = api.load_run(best()).load_model()
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    for batch in (images, images[:1]):
        outputs, values = session.run(["outputs", "values"], {"images": batch.numpy()})
        with torch.inference_mode():
            expected = model(batch)
        assert outputs == pytest.approx(expected.numpy(), abs=1e-5)
        assert values == pytest.approx(expected.softmax(dim=1).numpy(), abs=1e-5)


@pytest.mark.usefixtures("photos")
def test_safetensors_say_all_of_their_images(thawline):
    result = thawline("export", best().name)
    assert result.status == 0, result.err
    with safe_open("model.safetensors", framework="pt") as file:
        check_about(file.metadata())
    state = api.load_run(best()).load_model().state_dict()
    exported = load_file("model.safetensors")
    assert exported.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in exported.items())
    size = Path("model.safetensors").stat().st_size
    assert f"model.safetensors: {size / 1e6:.1f} MB" in result.out
    (card,) = (path.read_text() for path in Path().glob("*.md"))
    record = load_record(best())
    for name, value in record.metrics["test"].items():
        assert f"| test | 21 | {record.metric_definitions[name].label} | {value:.4f} |" in card
    assert "## Licence" in card and "photos (ImageFolder)" in card
    assert 'with safe_open("model.safetensors", framework="pt")' in card
    assert "thawline train " in card and "dataset.root=photos" in card


@pytest.mark.usefixtures("photos")
def test_python_writes_the_same_file_and_its_card_says_how_the_run_was_chosen(thawline):
    assert thawline("export", "photos", "--output", "command.safetensors").status == 0
    sweep = api.load_sweep("photos")
    assert sweep.export("python.safetensors") == Path("python.safetensors")
    for ending in ("", ".md"):
        command, python = (Path(f"{name}.safetensors{ending}").read_bytes() for name in ("command", "python"))
        assert command.replace(b"command.safe", b"python.safe") == python
    assert b"is the best of 2 runs of sweep photos by validation" in python
    with pytest.raises(api.UsageError, match="exists; --force replaces it"):
        sweep.best.export("python.safetensors")
    with pytest.raises(api.UsageError, match="there is no 'onx'"):
        sweep.best.export(format="onx")


@pytest.mark.usefixtures("photos")
def test_without_its_packages_onnx_names_the_extra(thawline, monkeypatch):
    from thawline.exports import graphs

    found = graphs.importlib.util.find_spec
    monkeypatch.setattr(graphs.importlib.util, "find_spec", lambda name: found(name) if name != "onnxscript" else None)
    result = thawline("export", best().name, "--output", "net.onnx")
    assert (result.status, result.err) == (
        2,
        "error: --format: onnx needs onnxscript: pip install 'thawline[export]'\n",
    )
    assert not list(Path().glob("*net.onnx*"))


@pytest.mark.usefixtures("photos")
def test_an_earlier_file_stays_unless_its_replacement_is_asked_for(thawline):
    run = best().name
    Path("net.pt").write_text("precious")
    refused = thawline("export", run, "--output", "net.pt")
    assert (refused.status, Path("net.pt").read_text()) == (2, "precious")
    assert "error: --output: net.pt exists; --force replaces it" in refused.err
    assert thawline("export", run, "--output", "net.pt", "--force").status == 0
    torch.jit.load("net.pt")
    Path("mine").mkdir()
    Path("mine/diary.txt").write_text("precious")
    refused = thawline("export", run, "--format", "timm", "--output", "mine", "--force")
    assert (refused.status, Path("mine/diary.txt").read_text()) == (2, "precious")
    assert "mine holds more than an earlier export" in refused.err
    for force in ((), ("--force",)):
        assert thawline("export", run, "--format", "timm", "--output", "net", *force).status == 0
    assert not list(Path().glob(".*.partial"))


FITS, COMPUTING = "; formats that fit: ", "safetensors, onnx, torchscript"
STAYS = "its adapter (Bottleneck) cannot be folded into plain weights; formats that fit: onnx, torchscript"


@pytest.mark.slow
@pytest.mark.usefixtures("dense")
@pytest.mark.parametrize(
    ("outputs", "form", "message"),
    [
        (
            "masked",
            "timm",
            f"its head (FPN) is not one linear layer on the features{FITS}safetensors, onnx, torchscript",
        ),
        ("boxed", "onnx", f"task detection finds another number of objects in each image{FITS}safetensors"),
        ("adapted", "timm", STAYS),
        ("adapted", "safetensors", STAYS),
    ],
)
def test_what_has_no_such_form_is_refused_with_those_that_fit(thawline, outputs, form, message):
    (folder,) = records(outputs)
    result = thawline("export", str(folder), "--format", form, "--output", "net")
    assert result.status == 2
    assert result.err == f"error: --format: {form}: {message}\n"
    assert not Path("net").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("dense")
@pytest.mark.parametrize("place", ["masked", "adapted"])
def test_masks_and_adapters_compute_outside_too(thawline, place):
    import onnxruntime

    (folder,) = records(place)
    for ending in ("pt", "onnx"):
        result = thawline("export", str(folder), "--output", f"net.{ending}")
        assert result.status == 0, result.err
    images = torch.randint(0, 256, (3, 3, *load_record(folder).preprocessing.size), dtype=torch.uint8)
    with torch.inference_mode():
        expected = api.load_run(folder).load_model()(images)
        outputs, values = torch.jit.load("net.pt")(images)
    assert torch.equal(outputs, expected)
    assert torch.allclose(values, expected.softmax(dim=1))
    found = onnxruntime.InferenceSession("net.onnx").run(None, {"images": images.numpy()})
    assert found[0] == pytest.approx(expected.numpy(), abs=1e-4)
    assert found[1] == pytest.approx(values.numpy(), abs=1e-5)


HEAD = """
from typing import final

import torch
from torch import nn

from thawline.specs import Spec


class Branching(nn.Module):
    def __init__(self, width, outputs):
        super().__init__()
        self.linear = nn.Linear(width, outputs)

    def forward(self, features):
        return self.linear(features) if features.mean() < 1e9 else features


@final
class Branches(Spec):
    def build(self, features, classes, source, seed):
        torch.manual_seed(seed)
        return Branching(features.width, len(classes))
"""


@pytest.mark.slow
def test_what_torch_makes_no_graph_of_is_one_message(thawline, own_class, train):
    own_class("heads", HEAD, "head/branches", "_target_: mine.heads.Branches\n")
    own = ("--allow", "mine", "--config-dir", "conf")
    assert thawline(*own, "train", *TINY, "head=branches", "trainer.max_epochs=1").status == 0
    (folder,) = records()
    result = thawline(*own, "export", str(folder), "--output", "net.onnx")
    assert result.status == 2
    (line,) = (line for line in result.err.splitlines() if line.startswith("error"))
    assert line.startswith("error: --format: onnx: torch cannot make a graph of this network: ")
    assert not list(Path().glob("*net.onnx*"))


@pytest.mark.slow
def test_an_adapter_that_can_be_folded_is_folded_for_timm(thawline, train):
    record = train("adapter=ssf", "freeze_policy=linear_probe", "optimizer.lr=0.1")
    result = thawline("export", record.identity, "--format", "timm", "--output", "net")
    assert result.status == 0, result.err
    model = timm.create_model("local-dir:net", pretrained=True).eval()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        expected = api.load_run(record.identity).load_model()(images)
        assert torch.allclose(model((images / 255 - mean) / std), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("photos")
def test_a_file_that_gives_other_answers_is_not_kept(thawline, monkeypatch):
    from thawline.exports import graphs

    load = graphs._onnx_session

    def wrong(file):
        run = load(file)
        return lambda images: [result + 0.01 for result in run(images)]

    monkeypatch.setattr(graphs, "_onnx_session", wrong)
    result = thawline("export", best().name, "--format", "onnx")
    assert result.status == 2
    assert "gives other outputs than the model (by 0.01); it is not kept" in result.err
    assert not list(Path().glob("*model.onnx*"))
