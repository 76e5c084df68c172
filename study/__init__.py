"""Scaling studies: the grid, the launch, and the tables and figures of the runs."""

from trainer.environment import check

check("pydantic", "yaml")
