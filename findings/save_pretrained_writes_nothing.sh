#!/usr/bin/env bash
# Guess: model.save_pretrained(folder) with the default is_main_process=True writes the model on the process that
#        calls it.
# Seen:  once torch.distributed is initialised, every rank but 0 gets an empty folder: no config, no weights, no error
#        and no warning. The rank decides, not the argument; passing is_main_process=True does not help.
# With:  transformers 5.23.0, torch 2.13.0 (two processes on gloo).
# Why:   runs that train one model a rank (a sweep, an ensemble, seeds), or save on "the first rank of each node" into a
#        folder local to the node, lose the models of all ranks but one, and find out when they load them.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.23.0
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TQDM_DISABLE=1

cat > "$work/finding.py" <<'PY'
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from transformers import BertConfig, BertModel

work, rank = sys.argv[1], int(sys.argv[2])
config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
torch.manual_seed(rank)
model = BertModel(config)
model.save_pretrained(f"{work}/before-{rank}")
dist.init_process_group(
    "gloo", init_method=f"file://{work}/store", rank=rank, world_size=2, timeout=timedelta(seconds=120)
)
model.save_pretrained(f"{work}/during-{rank}", is_main_process=True)
dist.barrier()
dist.destroy_process_group()
model.save_pretrained(f"{work}/after-{rank}")

complete = ["config.json", "model.safetensors"]
wrote = {when: sorted(os.listdir(f"{work}/{when}-{rank}")) for when in ("before", "during", "after")}
print(f"rank {rank}: before init {wrote['before']}, while initialised {wrote['during']}, after {wrote['after']}")
assert wrote["before"] == wrote["after"] == complete
assert wrote["during"] == (complete if rank == 0 else [])
PY
"$work/venv/bin/python" "$work/finding.py" "$work" 1 &
other=$!
"$work/venv/bin/python" "$work/finding.py" "$work" 0
wait "$other"
