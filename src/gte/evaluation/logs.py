"""The log lines of mteb and its libraries."""


def quiet() -> None:
    """mteb and datasets report every internal step; what matters is said here."""
    import logging

    import bm25s  # noqa: F401  sets its own level when it is imported
    import datasets

    datasets.disable_progress_bars()
    for name in ("mteb", "bm25s", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
