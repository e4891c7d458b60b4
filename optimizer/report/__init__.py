"""The report of a run: one HTML page that is made from the journal alone."""
