"""Set up the page of all runs at W&B: python src/dashboard.py entity=ME project=gte"""

from omegaconf import DictConfig

from gte.build import script
from gte.errors import UserError


@script("dashboard")
def main(cfg: DictConfig) -> None:
    from gte.results.dashboard import dashboard
    from gte.training.loggers import has_key

    page = dashboard(cfg.entity, cfg.project, cfg.name)
    if not has_key():
        raise UserError("the dashboard is kept at W&B, which takes a key: set WANDB_API_KEY, or run wandb login")
    print(page.save().url)


if __name__ == "__main__":
    main()
