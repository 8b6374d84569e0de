"""Optimizer groups and the learning-rate schedule."""

import itertools

import pytest
import torch
from transformers import BertConfig, BertModel

from gte.errors import UserError
from gte.optim import Optim, parameter_groups, warmup_linear


def test_biases_and_layer_norms_have_no_decay_and_every_parameter_is_in_one_group():
    bert = BertModel(
        BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16),
        add_pooling_layer=False,
    )
    decayed, free = (set(map(id, group["params"])) for group in parameter_groups(bert, 0.01))
    for name, parameter in bert.named_parameters():
        without = name.endswith("bias") or "LayerNorm" in name
        assert (id(parameter) in free) == without and (id(parameter) in decayed) != without, name
    assert free and decayed


def test_schedule_rises_over_five_percent_and_falls_to_the_last_step():
    rates = [warmup_linear(step, 1000, 0.05) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 50) and rates[49] == rates[50] == 1.0
    assert max(rates) == 1.0 and 0 < rates[-1] == pytest.approx(1 / 950)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[50:]))


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_schedule_of_one_step_trains(warmup):
    assert warmup_linear(0, 1, warmup) == 1.0


def test_learning_rate_is_scaled_by_the_stage():
    optim = Optim(lr=2e-4, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8, warmup_fraction=0.05, clip_norm=1.0)
    assert optim.build(torch.nn.Linear(2, 2), 0.1).param_groups[0]["lr"] == pytest.approx(2e-5)


@pytest.mark.parametrize("kernel", ["fused", "foreach"])
def test_the_kernel_stays_where_a_state_of_the_other_is_loaded(kernel):
    optim = Optim(lr=2e-4, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8, warmup_fraction=0.05, clip_norm=1.0)
    layer = torch.nn.Linear(2, 2)
    other = optim.build(layer, 1.0, {"fused": "foreach", "foreach": "fused"}[kernel])
    layer(torch.ones(1, 2)).sum().backward()
    other.step()
    optimizer = optim.build(layer, 0.5, kernel)
    optimizer.load_state_dict(other.state_dict())
    assert [group[kernel] for group in optimizer.param_groups] == [True, True]
    assert [group["fused"] and group["foreach"] for group in optimizer.param_groups] == [False, False]
    optimizer.step()


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"warmup_fraction": 1.5}])
def test_impossible_settings_are_refused_by_name(wrong):
    settings = dict(lr=1.0, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8, warmup_fraction=0.05, clip_norm=1.0) | wrong
    with pytest.raises(UserError, match=f"optim.{next(iter(wrong))}"):
        Optim(**settings)
