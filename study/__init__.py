"""Many runs: the grid, the launch, and what is made of the runs' files."""
