"""What one-byte and one-bit codes lose on a retrieval task, by how they are compared.

For experiments/evaluation/README.md: PYTHONPATH=src python experiments/evaluation/compact.py MODEL TASKS/SciFact CACHE
"""

import sys
from pathlib import Path

import numpy as np
from sentence_transformers.util.quantization import quantize_embeddings

from gte.evaluation.model import document_texts, load_model
from gte.evaluation.tasks import make_task
from gte.inference.compact import Vectors, scheme_for
from gte.nearest import best_documents


def main(checkpoint: str, folder: str, cache: str) -> None:
    task = make_task(Path(folder).name, Path(folder))
    task.load()
    data = task.parts[0].dataset["default"]["test"]
    model = load_model(checkpoint, "fp32", None, "cpu", progress=False, cache=cache, cache_gb=50)
    d_MD, q_ND = model.embed(document_texts(data["corpus"][:])), model.embed(list(data["queries"]["text"]))
    ids, asked = list(data["corpus"]["id"]), list(data["queries"]["id"])

    def ndcg(rows_NK: np.ndarray) -> float:
        """Of the first ten rows of each query, in points of 100."""
        discount, total = 1 / np.log2(np.arange(2, 12)), 0.0
        for query, rows in zip(asked, rows_NK, strict=True):
            relevant = data["relevant_docs"][query]
            gains = np.array([relevant.get(ids[row], 0) for row in rows[:10]])
            ideal = np.array(sorted(relevant.values(), reverse=True)[:10])
            total += gains @ discount / (ideal @ discount[: len(ideal)])
        return 100 * total / len(asked)

    def ranked(q_ND: np.ndarray, d_MD: np.ndarray) -> float:
        return ndcg(best_documents(q_ND.astype(np.float32), [(0, d_MD.astype(np.float32))], 10)[1])

    ranges = np.stack([d_MD.min(0), d_MD.max(0)])
    q_codes, d_codes = (quantize_embeddings(x, precision="int8", ranges=ranges) for x in (q_ND, d_MD))
    print(f"float32 {ranked(q_ND, d_MD):.2f}")
    print(f"int8 with a range a dimension, products of codes {ranked(q_codes, d_codes):.2f}")
    uint8, int8 = (scheme_for(dtype, *ranges) for dtype in ("uint8", "int8"))
    both = [uint8.decode((codes.astype(np.int16) + 128).astype(np.uint8)) for codes in (q_codes, d_codes)]
    print(f"the same with scale and offset undone {ranked(*both):.2f}")
    print(f"the same, the queries as they are {ranked(q_ND, both[1]):.2f}")
    codes = [int8.encode(x) for x in (q_ND, d_MD)]
    print(f"int8 with one scale, products of codes {ranked(*codes):.2f}, the queries as they are ", end="")
    print(f"{ranked(q_ND, int8.decode(codes[1])):.2f}")
    bits = scheme_for("ubinary", *ranges)
    vectors = Vectors(bits.encode(d_MD), bits)
    for rescored in (0, 40, len(ids)):
        print(f"binary, the best {rescored} ranked again {ndcg(vectors.search(q_ND, 10, rescored=rescored)[1]):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
