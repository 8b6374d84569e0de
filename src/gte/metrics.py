"""The metrics of a result that need a word of explanation wherever they are shown."""

from collections.abc import Iterable

MAP = (
    "MAP is trec_eval's and mteb's: a query's precisions are divided by all of its relevant documents; "
    "sentence-transformers divides MAP@k by min(k, relevant)"
)


def notes_on(metrics: Iterable[str]) -> list[str]:
    """Explain the metrics that have several definitions, by the one that holds here.

    Args:
        metrics: names as mteb has them.
    Returns: a sentence for each such metric, without a full stop.

    >>> notes_on(["ndcg_at_10"]), len(notes_on(["map_at_1000", "max_over_subqueries_map_at_1000"]))
    ([], 1)
    """
    return [MAP] if any("map_at_" in metric for metric in metrics) else []
