"""One run: python -m trainer config=run.yaml key=value ..."""

from trainer.environment import check

check("pydantic", "yaml")
