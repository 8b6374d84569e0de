"""Write uv's lock, from standard input, as requirements.lock: without torch, its CUDA libraries and comments."""

import re
import sys

OF_TORCH = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
HEAD = """\
# Every package that requirements-test.txt brings, with its hashes, for Python 3.11 to 3.14: `make lock` writes it,
# LOCKED=1 installs by it. Not here: torch, of which machines have a CPU or a CUDA build, and its CUDA libraries.
"""

entries = re.split(r"(?m)^(?=[A-Za-z0-9])", sys.stdin.read())
kept = [re.sub(r"(?m)^    #.*\n", "", entry) for entry in entries if not OF_TORCH.match(entry)]
sys.stdout.write(HEAD + "".join(kept))
