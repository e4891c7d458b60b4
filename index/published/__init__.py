"""Reads prompts and examples that the authors of URIAL and of DRPO have published, for `drpo-index import`."""
