"""Provides settings, errors, logging, metrics and tracing to the other packages of the proxy."""
