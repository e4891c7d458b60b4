"""The operator page: its files and the JSON that it asks for, on top of the HTTP interface."""
