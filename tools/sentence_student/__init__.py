"""Trains a small multilingual embedder, the student of a sentence encoder, and runs both for comparison."""
