"""Turns texts into vectors of length one: one module for each kind of embedder, and a registry of their names."""
