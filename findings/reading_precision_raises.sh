#!/usr/bin/env bash
# Guess: torch.get_float32_matmul_precision() only reads: it returns "highest", "high" or "medium".
# Seen:  after the setting's new spelling, torch.backends.cuda.matmul.fp32_precision = "tf32", the old getter raises
#        RuntimeError, and so does reading torch.backends.cuda.matmul.allow_tf32. After "ieee" both still answer, so
#        trying the new setting with the exact mode shows no trouble. Calling the old setter,
#        torch.set_float32_matmul_precision("high"), makes both readable again. All of this without a GPU.
# With:  torch 2.13.0 (numpy 2.4.6 beside it).
# Why:   a training script that switches TF32 on the new way fails later, at the first line, its own or a library's,
#        that asks for the precision the old way; the error does not name the line that set it.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6

cat > "$work/finding.py" <<'PY'
import torch

READERS = {
    "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision,
    "torch.backends.cuda.matmul.allow_tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
}


def read(when):
    answers = []
    for name, reader in READERS.items():
        try:
            answer = reader()
        except RuntimeError:
            answer = "RuntimeError"
        print(f"{when:45} {name:40} {answer}")
        answers.append(answer)
    return answers


start = read("at the start")
torch.backends.cuda.matmul.fp32_precision = "ieee"
ieee = read('fp32_precision = "ieee"')
torch.backends.cuda.matmul.fp32_precision = "tf32"
tf32 = read('fp32_precision = "tf32"')
torch.set_float32_matmul_precision("high")
high = read('set_float32_matmul_precision("high")')

assert start == ieee == ["highest", False]
assert tf32 == ["RuntimeError", "RuntimeError"]
assert high == ["high", True]
PY
"$work/venv/bin/python" "$work/finding.py"
