"""The operator page: its files and the JSON that it requests, on top of the HTTP interface."""
