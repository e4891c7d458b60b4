"""Names the type of a listening socket.

The server (proxy/server) opens such sockets, and the HTTP interface (proxy/api) accepts connections on them.
"""

import socket

Listener = socket.socket
