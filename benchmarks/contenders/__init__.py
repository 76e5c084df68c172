"""Trainers that people would use instead, each a program that runs one training."""
