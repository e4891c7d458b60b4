"""Names the type of a listening socket. The server opens such sockets, and the HTTP interface accepts connections on
them.
"""

import socket

Listener = socket.socket
