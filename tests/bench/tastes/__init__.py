"""Measures whether feedback leads to a better bundle, with scripted users, the real proxy and the real `improve`."""
