"""Output for people: the plan, the plots, the report, the time table in a document."""
