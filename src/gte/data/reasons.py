"""Why a row gives no pair."""

FILTERED = "filtered: "  # begins the reason of a row that its source skips by choice: counted, but no fault


class Unfit(Exception):
    """A row gives no pair; the message is the reason of its rejection."""
