"""What people look at: the plan, the plots, the report, the table in a document."""
