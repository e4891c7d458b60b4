"""The report of a run: an HTML page that is made only from the journal."""
