"""Adapters: where they sit, that the network starts as it is, what trains, and that folding them in changes nothing."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from tests.conftest import TINY, records
from thawline.adapters import SSF, Bottleneck, LoRA, VisualPrompt, attach, refuse_unused
from thawline.errors import UsageError
from thawline.execution.weights import build_model, ensure_model, restore
from thawline.freeze_policies import BiasOnly, FullFineTuning, LastK, LinearProbe, NormOnly
from thawline.layer_groups import layer_groups
from thawline.network.model import TransferModel, network_of
from thawline.planning.context import RunContext
from thawline.planning.plan import plan_run
from thawline.planning.session import Session
from thawline.records import load_record

SIZE = (64, 64)
VIT, CONVNETS = "test_vit", ("test_resnet", "test_convnext", "test_efficientnet")
IDENTITIES = [
    *((LoRA(), name) for name in (VIT, *CONVNETS)),
    *((SSF(), name) for name in (VIT, *CONVNETS)),
    *((Bottleneck(width=4), name) for name in (VIT, *CONVNETS)),
    (Bottleneck(width=4, form="parallel", scale=0.1, activation="relu"), VIT),
    (LoRA(target_modules=r"\.mlp\.fc1$"), VIT),
    (SSF(target_modules=r"norm2$"), VIT),
]
MERGING = [(adapter, name) for adapter, name in IDENTITIES if not isinstance(adapter, Bottleneck)]


def backbone(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"img_size": SIZE} if name == VIT else {}
    module = timm.create_model(name, num_classes=0, **options)
    with torch.no_grad():  # norms that do nothing would hide where a scale has gone
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module.eval()


def attached(adapter, name):
    module = backbone(name)
    groups = layer_groups(module)
    return module, groups, attach(adapter, module, groups, SIZE, seed=0)


def moved(module: nn.Module, names) -> None:
    torch.manual_seed(1)
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name in names:
            parameters[name].add_(0.3 * torch.randn_like(parameters[name]))


IMAGES = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(("adapter", "name"), IDENTITIES, ids=str)
def test_the_network_starts_as_it_is(adapter, name):
    plain = backbone(name)
    module, _, added = attached(adapter, name)
    torch.testing.assert_close(module(IMAGES), plain(IMAGES), rtol=1e-5, atol=1e-6)
    moved(module, added.parameters)
    assert not torch.allclose(module(IMAGES), plain(IMAGES), rtol=1e-2)


@pytest.mark.parametrize(("adapter", "name"), [*IDENTITIES, (VisualPrompt(), VIT)], ids=str)
def test_every_parameter_of_the_source_keeps_its_group_and_its_value(adapter, name):
    plain = dict(backbone(name).named_parameters())
    module, before, added = attached(adapter, name)
    after = dict(module.named_parameters())
    assert [group.name for group in added.groups] == [group.name for group in before]
    for old, new in zip(before, added.groups, strict=True):
        assert len(old.parameters) == len(new.parameters)
        assert all(torch.equal(plain[o], after[n]) for o, n in zip(old.parameters, new.parameters, strict=True))
    held = [name for group in added.groups for name in group.parameters]
    assert sorted([*held, *added.parameters]) == sorted(after)


@pytest.mark.parametrize(("adapter", "name"), [*IDENTITIES, (VisualPrompt(depth="deep"), VIT)], ids=str)
def test_every_part_of_the_adapter_is_used_and_gets_a_gradient(adapter, name):
    module, _, added = attached(adapter, name)
    refuse_unused(module, added, SIZE)
    module(IMAGES).square().sum().backward()
    parameters = dict(module.named_parameters())
    assert all(parameters[name].grad is not None for name in added.parameters)


@pytest.mark.parametrize(("adapter", "name"), MERGING, ids=str)
def test_merged_weights_equal_the_unmerged_network_under_its_plain_names(adapter, name):
    module, _, added = attached(adapter, name)
    moved(module, added.parameters)
    module, images = module.double(), IMAGES.double()
    before = module(images)
    assert adapter.merge(module) is True
    torch.testing.assert_close(module(images), before)
    plain = backbone(name).double()
    plain.load_state_dict(module.state_dict(), strict=True)
    torch.testing.assert_close(plain(images), before)


@pytest.mark.parametrize("adapter", [Bottleneck(), VisualPrompt()], ids=str)
def test_what_is_no_linear_change_of_weights_does_not_merge(adapter):
    module, _, _ = attached(adapter, VIT)
    names = list(module.state_dict())
    assert adapter.merge(module) is False
    assert list(module.state_dict()) == names


@pytest.mark.parametrize("adapter", [LoRA(), SSF(std=0.02), Bottleneck(), VisualPrompt()], ids=str)
def test_the_seed_alone_decides_how_an_adapter_starts(adapter):
    def start(seed: int) -> list[torch.Tensor]:
        module = backbone(VIT)
        torch.manual_seed(seed + 5)
        added = attach(adapter, module, layer_groups(module), SIZE, seed)
        assert torch.initial_seed() == seed + 5
        return [parameter for name, parameter in module.named_parameters() if name in added.parameters]

    assert all(torch.equal(a, b) for a, b in zip(start(0), start(0), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(start(0), start(1), strict=True))


@pytest.mark.parametrize("adapter", [LoRA(), SSF(), Bottleneck(), VisualPrompt(depth="deep")], ids=str)
def test_a_copy_of_the_network_has_an_adapter_of_its_own(adapter):
    module, _, added = attached(adapter, VIT)
    other = copy.deepcopy(module)
    before = module(IMAGES)
    moved(other, added.parameters)
    assert torch.equal(module(IMAGES), before)
    assert not torch.allclose(other(IMAGES), before, rtol=1e-3)


def test_where_the_parts_sit():
    _, _, lora = attached(LoRA(r=2), VIT)
    assert {name.partition(".lora_")[0] for name in lora.parameters} == {
        f"blocks.{block}.attn.{layer}" for block in range(6) for layer in ("qkv", "proj")
    }
    _, _, ssf = attached(SSF(), "test_efficientnet")
    assert "bn1.drop.ssf.scale" in ssf.parameters  # before the activation that timm fuses with the norm
    assert not any(name.startswith("conv_stem") for name in ssf.parameters)
    _, _, bottleneck = attached(Bottleneck(), "test_resnet")
    assert {name.partition(".bottleneck")[0] for name in bottleneck.parameters} == {
        f"layer{stage}.0" for stage in range(1, 5)
    }
    _, _, parallel = attached(Bottleneck(form="parallel"), VIT)
    assert {name.partition(".bottleneck")[0] for name in parallel.parameters} == {f"blocks.{b}.mlp" for b in range(6)}


@pytest.mark.parametrize("form", ["sequential", "parallel"])
def test_a_bottleneck_reads_what_its_form_says(form):
    module, _, added = attached(Bottleneck(width=4, scale=0.5, form=form, target_modules=r"\.0\.mlp$"), VIT)
    mlp, plain = module.get_submodule("blocks.0.mlp"), backbone(VIT).get_submodule("blocks.0.mlp")
    moved(module, added.parameters)
    tokens = torch.randn(2, 5, 64)
    bottleneck, output = mlp.get_submodule("bottleneck"), plain(tokens)
    read = tokens if form == "parallel" else output
    expected = output + 0.5 * bottleneck.up(nn.functional.gelu(bottleneck.down(read)))
    torch.testing.assert_close(mlp(tokens), expected)
    assert not torch.allclose(expected, output)


def test_lora_is_the_low_rank_update_of_its_paper():
    module, _, added = attached(LoRA(r=2, alpha=6, target_modules=r"blocks\.0\.attn\.proj$"), VIT)
    assert added.parameters == (
        "blocks.0.attn.proj.lora_A.default.weight",
        "blocks.0.attn.proj.lora_B.default.weight",
    )
    moved(module, added.parameters)
    layer = module.blocks[0].attn.proj
    a, b = (module.get_parameter(name) for name in added.parameters)
    x = torch.randn(3, layer.in_features)
    expected = nn.functional.linear(x, layer.base_layer.weight + (6 / 2) * b @ a, layer.base_layer.bias)
    torch.testing.assert_close(layer(x), expected)


def test_shallow_prompts_are_tokens_behind_the_class_token_and_deep_ones_are_anew_in_each_block():
    for depth, blocks in (("shallow", 1), ("deep", 6)):
        module, _, added = attached(VisualPrompt(tokens=3, depth=depth), VIT)
        assert added.parameters == tuple(f"blocks.{index}.prompts.tokens" for index in range(blocks))
        tokens = module.patch_embed(IMAGES)
        x = module.norm_pre(module._pos_embed(tokens))
        prefix = module.num_prefix_tokens
        plain = backbone(VIT)
        for index, block in enumerate(plain.blocks):
            if index < blocks:
                own = module.get_parameter(f"blocks.{index}.prompts.tokens").expand(2, -1, -1)
                rest = x[:, prefix + (3 if index else 0) :]
                x = torch.cat([x[:, :prefix], own, rest], dim=1)
            x = block(x)
        x = torch.cat([x[:, :prefix], x[:, prefix + 3 :]], dim=1)
        torch.testing.assert_close(module(IMAGES), plain.forward_head(plain.norm(x)))


@pytest.mark.parametrize(
    ("adapter", "name", "message"),
    [
        (LoRA(target_modules="nothing"), VIT, "adapter.target_modules: 'nothing' matches no linear layer"),
        (SSF(target_modules="nothing"), VIT, "adapter.target_modules: 'nothing' matches no linear layer"),
        (Bottleneck(target_modules="nothing"), VIT, "adapter.target_modules: 'nothing' matches no module"),
        (Bottleneck(form="parallel"), "test_resnet", "adapter.form: parallel does not fit layer2: it changes"),
        (
            VisualPrompt(),
            "test_resnet",
            "adapter: visual prompts are for plain vision transformers of timm, not ResNet",
        ),
    ],
)
def test_what_does_not_fit_the_network_is_refused(adapter, name, message):
    with pytest.raises(UsageError, match=r"^adapter") as caught:
        attached(adapter, name)
    assert str(caught.value).startswith(message)


def test_a_network_that_computes_past_the_adapter_is_refused():
    class Past(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.Module()
            self.attn.qkv = nn.Linear(3, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(images.mean(dim=(2, 3)), self.attn.qkv.weight)

    module = Past()
    added = attach(SSF(), module, layer_groups(module, input_size=SIZE), SIZE, 0)
    with pytest.raises(UsageError, match=r"computes past attn\.qkv\.ssf\.scale and 1 more"):
        refuse_unused(module, added, SIZE)


def test_without_its_library_lora_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"pip install 'thawline\[lora\]'"):
        attached(LoRA(), VIT)


@pytest.mark.parametrize("adapter", [LoRA(), SSF(), Bottleneck(), VisualPrompt()], ids=str)
def test_the_policy_decides_about_the_rest(adapter):
    module, groups, added = attached(adapter, VIT)
    network = network_of(TransferModel(module, nn.Linear(4, 2), (0.0,), (1.0,)), added.groups, added.parameters)
    own, head = {f"backbone.{name}" for name in added.parameters}, {"head.weight", "head.bias"}
    assert set(network.adapter) == own
    plain = network_of(TransferModel(backbone(VIT), nn.Linear(4, 2), (0.0,), (1.0,)), groups)
    counts = {}
    for policy in (LinearProbe(), LastK(k=1), NormOnly(), BiasOnly(), FullFineTuning()):
        (phase,), (without,) = policy.phases(network), policy.phases(plain)
        assert own | head <= phase.trainable
        counts[type(policy)] = len(phase.trainable) - len(own) - len(without.trainable)
    assert set(counts.values()) == {0}
    (probe,) = LinearProbe().phases(network)
    assert probe.trainable == own | head


def test_a_frozen_batch_norm_keeps_its_statistics_under_a_scale_and_shift():
    module, _, added = attached(SSF(), "test_resnet")
    model = TransferModel(module, nn.Linear(module.num_features, 2), (0.0,), (1.0,))
    model.set_trainable({f"backbone.{name}" for name in added.parameters})
    model.train()
    assert not model.backbone.bn1.training
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model((IMAGES * 255).to(torch.uint8))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


CASES = [
    ("backbone=test_vit", "adapter=lora"),
    ("backbone=test_vit", "adapter=visual_prompt_deep"),
    ("backbone=test_vit", "adapter=adaptformer"),
    ("backbone=test_resnet", "adapter=ssf", "+backbone.arguments.zero_init_last=false"),
]


@pytest.mark.parametrize("overrides", CASES, ids=str)
def test_a_run_moves_the_adapter_and_the_head_alone(train, overrides):
    record = train(
        *overrides, "freeze_policy=linear_probe", "optimizer=adamw", "optimizer.lr=0.001", "optimizer.weight_decay=0.5"
    )
    plan = plan_run(record.config, (), Session())
    stored = load_file(plan.folder / "best.safetensors")
    assert set(stored) == {*plan.network.adapter, *plan.network.head}
    start = build_model(RunContext(plan, Session())).state_dict()
    assert all(not torch.equal(tensor, start[name]) for name, tensor in stored.items())
    sizes = {name: parameter.numel() for name, parameter in build_model(RunContext(plan, Session())).named_parameters()}
    assert record.parameters.adapter == sum(sizes[name] for name in plan.network.adapter) > 0
    assert record.parameters.trainable == record.parameters.adapter + record.parameters.head
    assert record.parameters.total == sum(sizes.values())
    assert [group.trained for group in record.layer_groups] == [0] * len(record.layer_groups)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [CASES[0], CASES[3]], ids=str)
def test_the_exported_model_is_the_plain_network_with_the_adapter_folded_in(train, overrides):
    record = train(*overrides, "freeze_policy=linear_probe", "optimizer.lr=0.1")
    session = Session()
    plan = plan_run(record.config, (), session)
    tuned = build_model(RunContext(plan, session))
    restore(tuned, plan.folder / "best.safetensors")
    exported = load_file(ensure_model(RunContext(plan, session)))
    plain_plan = plan_run({**record.config, "adapter": None}, (), session)
    plain = build_model(RunContext(plain_plan, session))
    assert exported.keys() == plain.state_dict().keys()
    plain.load_state_dict(exported)
    images = torch.randint(0, 256, (4, 3, *plan.transform.output_size), dtype=torch.uint8)
    torch.testing.assert_close(plain.eval()(images), tuned.eval()(images), rtol=1e-4, atol=1e-5)
    other = train(overrides[0], f"backbone.weights=run:{record.identity}", "freeze_policy=linear_probe")
    start = build_model(RunContext(plan_run(other.config, (), Session()), Session())).state_dict()
    assert all(torch.equal(start[name], exported[name]) for name in exported if name.startswith("backbone."))


@pytest.mark.slow
def test_a_run_whose_adapter_cannot_be_folded_in_is_no_source_of_weights(train, thawline):
    record = train("backbone=test_vit", "adapter=bottleneck", "freeze_policy=linear_probe")
    result = thawline("train", *TINY, "backbone=test_vit", f"backbone.weights=run:{record.identity}")
    assert result.status != 0
    assert "adapter (Bottleneck) cannot be folded into plain weights" in result.err
    assert [load_record(folder).identity for folder in records()] == [record.identity]


@pytest.mark.slow
def test_the_transferred_copy_is_judged_without_prompts(train):
    source = ("source=digits_low", "source.trainer.max_epochs=2", "source.dataset.n_per_class=8", "dataset=digits_high")
    record = train("backbone=test_vit", "adapter=visual_prompt_deep", *source)
    source_record = load_record(Path("outputs/runs") / record.provenance.source_run)
    assert source_record.parameters.adapter == 0
    loss = source_record.metrics["val"]["loss"]
    assert record.metrics["before/source"]["loss"] == pytest.approx(loss, rel=1e-4)


def test_a_bottleneck_behind_what_the_backbone_does_not_call_is_refused():
    module = backbone(VIT)
    module.spare = nn.Linear(4, 4)
    with pytest.raises(UsageError, match=r"adapter.target_modules: the backbone does not call spare"):
        attach(Bottleneck(target_modules="^spare$"), module, layer_groups(backbone(VIT)), SIZE, seed=0)
