"""The typed configuration: every problem at once, nearest names, and which classes a config may name."""

from __future__ import annotations

import pytest

from thawline import specs
from thawline.errors import UsageError
from thawline.heads import MLP
from thawline.specs import Component, resolve


def problems(node) -> list[str]:
    with pytest.raises(UsageError) as caught:
        resolve(node)
    return [str(problem) for problem in caught.value.problems]


def test_all_problems_come_at_once_with_the_nearest_name():
    found = problems(
        {
            "head": {"_target_": "thawline.heads.MLP", "droput": 0.1, "dropout": 2},
            "freeze_policy": {"_target_": "thawline.freeze_policies.LinearProb"},
        }
    )
    assert found == [
        "head.dropout: Input should be less than 1 (got 2)",
        "head.droput: unknown field; nearest: dropout",
        "freeze_policy._target_: thawline.freeze_policies has no class 'LinearProb'; nearest: LinearProbe",
    ]


def test_a_spec_is_built_with_its_values():
    assert resolve({"head": {"_target_": "thawline.heads.MLP", "hidden": [8, 4]}}) == {"head": MLP(hidden=(8, 4))}


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.Popen", "builtins.eval", "torchx.Thing", "timm_of_mine.Net", "pickle.Unpickler"]
)
def test_targets_outside_the_allowed_packages_are_refused(target):
    (message,) = problems({"head": {"_target_": target}})
    assert message.startswith(f"head._target_: {target!r} lies outside the allowed packages (thawline, torch, ")
    assert message.endswith(f"--allow {target.partition('.')[0]}")


@pytest.mark.parametrize(
    "target", ["torch.load", "torch.hub.load", "torch.jit.ScriptModule", "torch.package.PackageImporter"]
)
def test_targets_that_run_code_from_a_file_are_refused(target):
    (message,) = problems({"head": {"_target_": target}})
    assert message == f"head._target_: {target!r} is refused: it can run code from a file"


def test_the_command_line_may_allow_a_package(monkeypatch):
    monkeypatch.setattr(specs, "_extra_prefixes", [])
    (refused,) = problems({"head": {"_target_": "email.message.Message"}})
    assert refused.endswith("allow it on the command line with --allow email")
    specs.allow_targets(["email"])
    assert resolve({"head": {"_target_": "email.message.Message"}}) == {"head": {"_target_": "email.message.Message"}}


def test_a_component_checks_its_arguments():
    node = {"_target_": "torch.nn.Linear", "in_features": 2, "out_feature": 3}
    with pytest.raises(UsageError) as caught:
        specs.validate(Component, node, "layer")
    assert (
        str(caught.value)
        == "layer: torch.nn.Linear takes no argument 'out_feature'; nearest: out_features, in_features"
    )
