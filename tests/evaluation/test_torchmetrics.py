"""Scores of retrieval against a second opinion: torchmetrics' own measures over the same cosines."""

import numpy as np
import torch
from evaluations import KnownEncoder, evaluate
from task_folders import write_retrieval
from torchmetrics.retrieval import RetrievalMRR, RetrievalNormalizedDCG, RetrievalRecall

from gte.evaluation.codesearchnet import mean_reciprocal_rank

SHIFT = 2  # torchmetrics drops relevant documents that score 0 or less, which cosines may do


def table(score_QD: np.ndarray, grade_QD: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores, grades and the query's number of every pair of a query and a document."""
    query = torch.arange(len(score_QD)).repeat_interleave(score_QD.shape[1])
    return torch.from_numpy(score_QD).flatten() + SHIFT, torch.from_numpy(grade_QD).flatten(), query


def test_ndcg_and_recall_are_those_of_torchmetrics(tmp_path):
    relevant = write_retrieval(tmp_path / "data" / "Task")
    scores = evaluate(tmp_path, tmp_path / "data")["models"]["model"]["tasks"]["Task"]["scores"]
    encoder = KnownEncoder()
    documents = np.stack([encoder.vector(f"document {i}") for i in range(150)])
    cosine_QD = np.stack([documents @ encoder.vector(f"query {q}") for q in relevant])
    grade_QD = np.array([[found.get(f"d{i}", 0) for i in range(150)] for found in relevant.values()])
    assert (cosine_QD[grade_QD > 0] < 0).any()  # so that the shift is needed

    scored, graded, query = table(cosine_QD, grade_QD)
    expected = RetrievalNormalizedDCG(top_k=10)(scored, graded, indexes=query)
    assert np.isclose(scores["ndcg_at_10"], 100 * expected, atol=1e-3)
    expected = RetrievalRecall(top_k=100)(scored, graded > 0, indexes=query)
    assert np.isclose(scores["recall_at_100"], 100 * expected, atol=1e-3)


def test_reciprocal_ranks_are_those_of_torchmetrics():
    vectors = torch.nn.functional.normalize(torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(0)), dim=2)
    q_ND, d_ND = vectors[0].numpy(), vectors[1].numpy()
    scored, graded, query = table(q_ND @ d_ND.T, np.eye(60, dtype=int))
    expected = RetrievalMRR()(scored, graded, indexes=query)
    assert np.isclose(mean_reciprocal_rank(q_ND, d_ND), expected, atol=1e-5)
