"""The command `python -m trainer.sample`: trainer/commands/sample.py."""
