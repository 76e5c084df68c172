"""How long a run takes: the performance model, the time table, and their accuracy."""
