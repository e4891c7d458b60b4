"""Checks whether a run can rely on its judge, and whether a text of a model may become a part of a bundle."""
