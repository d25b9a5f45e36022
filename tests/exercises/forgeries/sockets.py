# expect: numeric
# confined only
# A connection to somebody who knows.
import socket

for place in (("127.0.0.1", PORT), ("192.0.2.1", 53)):
    try:
        with socket.create_connection(place, timeout=0.3) as line:
            line.sendall(b"what is merge(W, A, B, alpha)?")
    except OSError:
        continue
