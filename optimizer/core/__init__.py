"""The types and functions that the optimizer's packages share: candidates, settings, journal, budget and errors."""
