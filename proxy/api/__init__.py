"""The HTTP interface: routes, authentication, admission, the admin listener. It does not depend on layouts or SQL."""
