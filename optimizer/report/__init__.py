"""The report of a run: an HTML page whose content comes only from the journal."""
