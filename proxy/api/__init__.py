"""The HTTP interface: routes, authentication, admission, the admin listener. It does not know layouts or SQL."""
