"""The type of a listening socket, as the HTTP interface and the server pass it on."""

import socket

Listener = socket.socket
