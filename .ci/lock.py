"""Standard input, a lock by uv, without torch, its CUDA libraries and the notes on who wants what, as requirements.lock."""

import re
import sys

OF_TORCH = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
HEAD = """\
# Every package that requirements-test.txt brings, with its hashes, for Python 3.11 to 3.14: `make lock` writes it, LOCKED=1
# installs by it. Not here: torch, which machines take as a CPU or a CUDA build of their own, and its CUDA libraries.
"""

entries = re.split(r"(?m)^(?=[A-Za-z0-9])", sys.stdin.read())
kept = [re.sub(r"(?m)^    #.*\n", "", entry) for entry in entries if not OF_TORCH.match(entry)]
sys.stdout.write(HEAD + "".join(kept))
