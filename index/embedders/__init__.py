"""Embedders turn texts into vectors of norm 1: one module for each kind of embedder, and a registry of the kinds."""
