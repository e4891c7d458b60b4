"""Proposers make new candidates from a candidate of the search. Several proposers compete for the slots of a level."""
