"""Turns texts into vectors of norm 1. There is one module for each kind of embedder, and a registry of the kinds."""
