"""Make the W&B dashboard: python src/dashboard.py entity=ME"""

from importlib.util import find_spec

from omegaconf import DictConfig

from gte.build import script, wandb_key
from gte.errors import UserError


@script("dashboard")
def main(cfg: DictConfig) -> None:
    if find_spec("wandb_workspaces") is None:
        raise UserError("the dashboard needs wandb-workspaces: pip install -r requirements-dashboard.txt")
    if not wandb_key():
        raise UserError("there is no W&B key: run `wandb login`, or set WANDB_API_KEY")
    from gte.dashboard import dashboard

    print(f"dashboard: {dashboard(cfg.entity, cfg.project, cfg.name).save().url}")


if __name__ == "__main__":
    main()
