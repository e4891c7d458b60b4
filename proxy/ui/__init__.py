"""Serves the operator page: its files, and the JSON that the page requests. It is built on the HTTP interface."""
