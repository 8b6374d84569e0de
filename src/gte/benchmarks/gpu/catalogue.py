"""The checks in their order, each with its time limit: the most telling first, since a budget may cut the end off."""

from typing import NamedTuple


class Check(NamedTuple):
    """One check: `module` has a function of the check's name, called as name(findings, setting)."""

    module: str
    seconds: int
    says: str


CHECKS_FOLDER = "gte.benchmarks.gpu.checks"
CHECKS = {
    "env": Check("rates", 60, "versions; rates of matrix products, copies, launches: the ceilings of all that follows"),
    "loss_exact": Check("loss", 60, "loss and gradient in three precisions against float64 on the CPU"),
    "encoder": Check("encoder", 100, "padded = packed, recomputed = kept with dropout, encode, against the CPU"),
    "attention": Check("attention", 60, "the share that dropout really drops; what new shapes cost"),
    "train": Check("training", 120, "the paper's run (base, fp16, all recomputed); SIGTERM, then resume=auto"),
    "train_bf16": Check("training", 70, "train.py, base, bf16, 16,384 pairs of real lengths"),
    "evaluation": Check("inference", 80, "all-MiniLM-L6-v2 in fp16 on STSBenchmark and SciFact: published scores"),
    "encode": Check(
        "inference", 80, "Encoder.encode against sentence-transformers in half precision at its best batch"
    ),
    "bench_train": Check("peers", 120, "train.py against sentence-transformers' trainer, equal precision and loss"),
    "deepspeed": Check("training", 110, "ZeRO-1 on one card: steps, SIGTERM, resume, and its checkpoint read back"),
    "ddp": Check("training", 60, "trainer=ddp on one card: NCCL and every collective"),
    "train_minilm": Check("training", 60, "train.py, MiniLM-L12-H384, bf16, 16,384 pairs of real lengths"),
    "loss_speed": Check("loss", 90, "the loss at 16,384 pairs against its peers: seconds and memory"),
    "loss_million": Check("loss", 150, "the loss at 1,048,576 pairs, at the widest that the time allows"),
    "sweep_base": Check("steps", 90, "one step of 16,384 real pairs, BERT-base: what each setting gives, part by part"),
    "sweep_minilm": Check("steps", 60, "the same for MiniLM-L12-H384, where the host is more likely the limit"),
    "tests": Check("suite", 80, "the project's own tests that need CUDA"),
}
