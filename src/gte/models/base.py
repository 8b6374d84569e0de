"""The model that another one comes from: its name on the hub, and what its own model card states."""

import re
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from gte.hub import download, hub_reachable
from gte.remote import is_address

OWN_NAME = re.compile(r"""SentenceTransformer\(\s*['"]([\w-]+/[\w.-]+)['"]""")  # how a card has its model loaded
LICENCE = ("license", "license_name", "license_link")
CARRIED = (*LICENCE, "language", "datasets", "base_model")  # from a model's card to that of its export


def published(name: str) -> str:
    """A model's name for others to read: of a path on this machine no more than its last part."""
    is_path = Path(name).is_absolute() or name.startswith((".", "~")) or Path(name).exists() or name.count("/") > 1
    return Path(name).name if is_path and not is_address(name) else name


def base_of(stages: list[dict], source: str | Path | None = None) -> tuple[str | list[str] | None, dict]:
    """Hub name of the model that the first stage started from, None where it is not known, and what its card states.

    source: the model itself, a directory or a name on the hub; it is the base of what was not trained here, and only
    then the hub is asked for a card. Of a local directory the name too is what its own model card says.
    """
    name = source
    if stages:
        name = stages[0]["stage"]["init_from"] or stages[0]["model"].get("name_or_path")
    if name is None or is_address(name):
        return None, {}
    if published(str(name)) == str(name) and not Path(name).exists():
        return name, {} if stages else card_facts(hub_card(name))
    card = Path(name) / "README.md"
    own = OWN_NAME.search(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    facts = card_facts(card)
    return own[1] if own else facts.get("base_model"), facts


def hub_card(name: str) -> Path:
    """The model card of a name on the hub, in the cache; no file is there where the hub did not give it."""
    try:
        return download(name, not hub_reachable(), ["README.md"]) / "README.md"
    except Exception:  # the client has errors of its own and lets through those of its HTTP library
        return Path(name) / "README.md"


def card_facts(card: Path) -> dict:
    """The keys of CARRIED in the head of a model card, those that it has; none where there is no card of the hub's."""
    try:
        stated = ModelCard.load(card, ignore_metadata_errors=True).data
    except (ValueError, OSError, yaml.YAMLError):
        return {}
    return {key: value for key in CARRIED if (value := stated.get(key))}
