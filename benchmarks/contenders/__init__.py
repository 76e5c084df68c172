"""Other trainers, each a program that runs one training: `python -m benchmarks.contenders.NAME`."""
