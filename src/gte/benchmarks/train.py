"""Training: our script against sentence-transformers' trainer and a plain padded loop, each as a user would run it.

Every turn is a process of its own that trains on the same texts from the same weights, with the improved loss, AdamW
and clipping. Its first step, which warms up, is not counted; its loss must be that of all variants.

`python -m gte.benchmarks.train VARIANT '{"model": ..., ...}'` is one turn of a peer and prints what it measured.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from gte.benchmarks.loss import dense_by_block
from gte.benchmarks.measure import (
    compare,
    encoder_flops,
    in_child,
    matmul_rate,
    ours_alike,
    synchronize,
    take_turns,
)
from gte.benchmarks.texts import Steps, largest_dropout, lengths, report, sentence_transformer, write_model
from gte.encoder import Encoder
from gte.errors import UserError
from gte.memory import peak_memory
from gte.precision import AUTOCAST, native_bf16

FOUR = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
SRC = Path(__file__).parents[2]
TRAIN = next((path for path in (SRC / "train.py", SRC / "gte/scripts/train.py") if path.exists()), SRC / "train.py")
LIGHTNING = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
LEARNING_RATE = 1e-5
HALF_APART = 0.05  # of the first losses in bf16 and fp16, where sentence-transformers computes its logits in these


def run(
    data: str,
    *,
    model: str | None = None,
    architecture: str = "bert",
    hidden_size: int = 256,
    num_hidden_layers: int = 4,
    dropout: float = 0.0,
    pairs: int = 256,
    max_length: int = 128,
    steps: int = 4,
    rounds: int = 3,
    batch_tokens: int = 8192,
    recompute_fraction: float = 0.0,
    mini_batch: int | list[int] | None = None,
    device: str = "cpu",
    precisions: list[str] | None = None,
    peers: list[str] | None = None,
    alpha: float = 0.5,
    seed: int = 0,
) -> list[dict]:
    """Train with ours and with each peer in every precision; `ratio` compares within one precision.

    Args:
        data: a prepared folder.
        model: a model directory, whose own dropout counts; None makes one of random weights of the given sizes.
        architecture: bert or modernbert, of a model made here.
        mini_batch: that of sentence-transformers' cached loss, in pairs; a list tries each; None takes its plain loss.
        precisions: fp32, bf16, fp16; by default fp32 and, where it is native, bf16. Peers run in all of them.
        peers: sentence_transformers, padded; by default both.
    Returns: a row a variant: seconds a step, pairs/s, tokens/s, peak memory, padding, useful arithmetic. `mfu` is the
        latter's share of the matrix-product rate that this machine reached between the turns in the same precision.
    Raises: RuntimeError where the variants do not train alike; UserError for an unknown architecture or peer.
    """
    precisions = precisions or ["fp32", *(["bf16"] if native_bf16(device) else [])]
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            model = f"{folder}/model"
            write_model(Path(model), data, architecture, hidden_size, num_hidden_layers, dropout)
        job = dict(data=data, model=model, pairs=pairs, max_length=max_length, steps=steps, device=device)
        job |= dict(alpha=alpha, seed=seed)
        encoder = Encoder.from_pretrained(model, max_length)
        dropout = largest_dropout(encoder.lm.config)
        texts = Steps(data, pairs, alpha, seed)
        tokens = [lengths(encoder, sum(texts[step], [])) for step in range(1, steps + 1)]
        flops = sum(encoder_flops(length, encoder.lm.config, backward=True) for length in tokens)
        settings = [f"stage.batch_tokens={batch_tokens}", f"stage.recompute_fraction={recompute_fraction}"]
        own, others = partial(ours, settings=settings, folder=folder), chosen_peers(peers, mini_batch)
        variants: dict[str, Callable[[], dict]] = {}
        for precision in precisions:
            variants |= turns_in(precision, job, own, others)
        measured = take_turns(variants, rounds)
    check_first_losses({name: turns[0]["loss"] for name, turns in measured.items()}, dropout)
    work = {"pairs": pairs, "tokens": sum(length.sum() for length in tokens) / steps, "flops": flops / steps}
    for turn in sum(measured.values(), []):
        add_rates(turn, **work)
    facts = {"architecture": encoder.lm.config.model_type, "dropout": dropout, "pairs": pairs, "max_length": max_length}
    facts |= {"device": device, "threads": torch.get_num_threads()}
    return compare(measured, ours_alike, **facts)


def add_rates(turn: dict, pairs: int, tokens: float, flops: float) -> None:
    """Adds to a turn's measurements what it makes a second, by what a step is made of."""
    turn |= {
        "first_loss": turn.pop("loss"),
        "pairs_per_s": pairs / turn["seconds"],
        "tokens_per_s": tokens / turn["seconds"],
        "gflops": flops / turn["seconds"] / 1e9,
        "mfu": flops / turn["seconds"] / turn.pop("rate"),
    }


def turns_in(
    precision: str, job: dict, own: Callable[[dict], dict], others: list[tuple[str, int | None]]
) -> dict[str, Callable[[], dict]]:
    """The turns of ours and of the peers in a precision by the variant's name, the machine's rate around each."""
    mine = job | {"precision": precision}
    turns = {"ours": partial(own, mine)}
    for name, portion in others:
        theirs = json.dumps(mine | {"mini_batch": portion})
        turns[name] = partial(in_child, "gte.benchmarks.train", name.split(",")[0], theirs)
    dtype = AUTOCAST[precision] or torch.float32
    return {f"{name} {precision}": partial(with_rate, turn, job["device"], dtype) for name, turn in turns.items()}


def chosen_peers(peers: list[str] | None, mini_batch: int | list[int] | None) -> list[tuple[str, int | None]]:
    """The peers' names, and for each the pairs of a portion of the cached loss, None without one."""
    portions = list(mini_batch) if isinstance(mini_batch, Sequence) else [mini_batch]
    chosen = []
    for peer in PEERS if peers is None else peers:
        if peer not in PEERS:
            raise UserError(f"benchmark.peers: {peer} is none of {', '.join(PEERS)}")
        if peer == "sentence_transformers" and len(portions) > 1:
            chosen += [(f"{peer}, portions of {portion}", portion) for portion in portions]
        else:
            chosen.append((peer, portions[0]))
    return chosen


def check_first_losses(losses: dict[str, float], dropout: float) -> None:
    """Raise RuntimeError where a variant's first loss is another than that of ours in the same precision.

    With dropout they differ by their random numbers, and nothing is compared.
    """
    for name, loss in losses.items():
        allowed = 0.02 if name.endswith("fp32") else HALF_APART
        if dropout == 0 and not np.isclose(loss, losses[ours_alike(name)], rtol=allowed):
            raise RuntimeError(f"the variants do not train alike, their first losses are {losses}")


def with_rate(turn: Callable, device: str, dtype: torch.dtype) -> dict:
    """Add to a turn's measurements the machine's matrix-product rate, FLOP/s, around it."""
    before = matmul_rate(device, dtype)
    return turn() | {"rate": (before + matmul_rate(device, dtype)) / 2}


def ours(job: dict, settings: list[str], folder: str) -> dict:
    """A turn of src/train.py."""
    out = tempfile.mkdtemp(dir=folder)
    command = [
        *(sys.executable, str(TRAIN), "stage=pretrain", "model=base", f"model.name_or_path={job['model']}"),
        *("data=local", f"data.dir={job['data']}", f"data.alpha={job['alpha']}", f"seed={job['seed']}", "workers=0"),
        *(f"trainer={'cpu' if job['device'] == 'cpu' else 'gpu'}", f"trainer.precision={LIGHTNING[job['precision']]}"),
        *(f"stage.global_batch={job['pairs']}", f"stage.max_length={job['max_length']}", f"optim.lr={LEARNING_RATE}"),
        *(f"stage.steps={job['steps'] + 1}", *settings, "logger=csv", "checkpoint_every=1000000", f"out={out}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    with open(f"{out}/metrics.csv", newline="") as lines:
        first, *rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(lines)]
    return {
        "loss": first["train/loss"],
        "seconds": job["pairs"] * np.mean([1 / row["train/pairs_per_s"] for row in rows]),
        "peak_mb": rows[-1]["train/peak_memory_mb"],
        "padding": np.mean([row["train/padding"] for row in rows]),
    }


def sentence_transformers(job: dict) -> dict:
    """A turn of its trainer with the same loss, cached where job["mini_batch"] says in which portions."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss
    from torch.utils.data import BatchSampler, SequentialSampler
    from transformers import TrainerCallback

    model = sentence_transformer(job["model"], job["max_length"], job["device"])
    texts = Steps(job["data"], job["pairs"], job["alpha"], job["seed"])
    steps = [texts[step] for step in range(job["steps"] + 1)]
    columns = {name: sum((step[side] for step in steps), []) for side, name in enumerate(("anchor", "positive"))}
    kind = partial(CachedMultipleNegativesRankingLoss, mini_batch_size=job["mini_batch"])
    make = kind if job["mini_batch"] else MultipleNegativesRankingLoss
    loss = make(model, scale=100, directions=FOUR, partition_mode="joint")
    losses, ends = [], []
    forward = loss.forward
    loss.forward = lambda *given: losses.append(forward(*given)) or losses[-1]

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            synchronize(job["device"])
            ends.append(time.perf_counter())

    class InOrder(SentenceTransformerTrainer):
        def get_batch_sampler(self, dataset: object, batch_size: int, *_, **__):
            return BatchSampler(SequentialSampler(dataset), batch_size, drop_last=True)

    with tempfile.TemporaryDirectory() as out:
        settings = SentenceTransformerTrainingArguments(
            out,
            per_device_train_batch_size=job["pairs"],
            max_steps=job["steps"] + 1,
            learning_rate=LEARNING_RATE,
            use_cpu=job["device"] == "cpu",
            bf16=job["precision"] == "bf16",
            fp16=job["precision"] == "fp16",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        data = Dataset.from_dict(columns)
        InOrder(model=model, args=settings, train_dataset=data, loss=loss, callbacks=[Clock()]).train()
    return {"loss": float(losses[0]), **summary(ends, job), "padding": padding(model.tokenizer, steps[1:], job)}


def padded(job: dict) -> dict:
    """A turn of what one would first write: both sides padded to their longest text, mean pooling, the dense loss."""
    encoder = Encoder.from_pretrained(job["model"], job["max_length"]).to(job["device"]).train()
    tokenizer, lm = encoder.tokenizer, encoder.lm
    lm.set_attn_implementation("sdpa")
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=LEARNING_RATE, fused=True)
    texts = Steps(job["data"], job["pairs"], job["alpha"], job["seed"])
    steps = [texts[step] for step in range(job["steps"] + 1)]
    losses, ends, dtype = [], [], AUTOCAST[job["precision"]]
    for step in steps:
        sides = []
        with torch.autocast(job["device"], dtype, enabled=dtype is not None):
            for side in step:
                inputs = tokenizer(
                    side, padding=True, truncation=True, max_length=job["max_length"], return_tensors="pt"
                )
                inputs = inputs.to(job["device"])
                mask = inputs["attention_mask"].unsqueeze(-1)
                sides.append((lm(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1))
        losses.append(dense_by_block(*(side.float() for side in sides)))
        losses[-1].backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        synchronize(job["device"])
        ends.append(time.perf_counter())
    return {"loss": float(losses[0]), **summary(ends, job), "padding": padding(tokenizer, steps[1:], job)}


def summary(ends: list[float], job: dict) -> dict:
    """Seconds a step and the peak, from the moments at which the steps ended."""
    return {"seconds": np.diff(ends).mean(), "peak_mb": peak_memory(job["device"]) / 2**20}


def padding(tokenizer: PreTrainedTokenizerBase, steps: list[tuple[list[str], list[str]]], job: dict) -> float:
    """Share of padding where each side of a step, or each portion of the cached loss, is padded to its longest text."""
    real = computed = 0
    for side in (side for step in steps for side in step):
        ids = tokenizer(side, truncation=True, max_length=job["max_length"])["input_ids"]
        portion = job["mini_batch"] or len(ids)
        for start in range(0, len(ids), portion):
            sizes = [len(text) for text in ids[start : start + portion]]
            real, computed = real + sum(sizes), computed + len(sizes) * max(sizes)
    return 1 - real / computed


PEERS = {"sentence_transformers": sentence_transformers, "padded": padded}

if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    report(PEERS[sys.argv[1]](json.loads(sys.argv[2])))
