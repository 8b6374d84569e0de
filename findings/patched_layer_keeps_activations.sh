#!/usr/bin/env bash
# Guess: timing BertLayer with a pass-through wrapper (BertLayer.forward = timed) changes nothing but the clock;
#        gradient checkpointing still recomputes each layer in the backward pass.
# Seen:  it switches checkpointing off: each layer runs once and its activations are kept. The layer's forward
#        checkpoints only while the class attribute is the very function that transformers put there. The flags
#        (is_activation_checkpointing, layer.gradient_checkpointing) stay True, and no warning comes. Wrapping the
#        forward of each instance instead leaves it on.
# With:  transformers 5.23.0, torch 2.13.0.
# Why:   a profiler, tracer or kernel patch that wraps the class takes back the memory saved for large contrastive
#        batches, so a run under the profiler goes out of memory, or its measured step is not the trained one.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.23.0
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TQDM_DISABLE=1

cat > "$work/finding.py" <<'PY'
import functools
import types

import torch
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertLayer

LAYERS = 3


def pass_through(forward):
    @functools.wraps(forward)
    def timed(self, *args, **kwargs):
        return forward(self, *args, **kwargs)

    return timed


def step(wrap_instances=False):
    """Run one forward and backward; return attention calls and the bytes autograd keeps after the forward."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=64
    )
    model = BertModel(config).train()
    model.activation_checkpointing_enable()
    assert model.is_activation_checkpointing and all(layer.gradient_checkpointing for layer in model.encoder.layer)
    if wrap_instances:
        for layer in model.encoder.layer:
            layer.forward = types.MethodType(pass_through(type(layer).forward), layer)
    calls = []
    for layer in model.encoder.layer:
        layer.attention.self.register_forward_hook(lambda *_: calls.append(1))
    kept = []

    def pack(tensor):
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(torch.randint(50, (4, 16))).last_hidden_state.square().mean()
    after_forward = sum(kept)
    loss.backward()
    return len(calls), after_forward


plain = step()
instances = step(wrap_instances=True)
original = BertLayer.forward
BertLayer.forward = pass_through(original)
patched = step()
BertLayer.forward = original
for name, (calls, kept) in {"untouched": plain, "instances wrapped": instances, "class wrapped": patched}.items():
    print(f"{name:18} attention ran {calls} times for {LAYERS} layers, {kept:,} bytes saved by the forward")

assert plain[0] == instances[0] == 2 * LAYERS
assert patched[0] == LAYERS
assert patched[1] > 4 * plain[1] and instances[1] == plain[1]
assert step() == plain
PY
"$work/venv/bin/python" "$work/finding.py"
