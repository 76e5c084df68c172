"""One run: python -m trainer config=run.yaml key=value ..."""
