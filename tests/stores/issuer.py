"""An OpenID provider's two documents, as a cluster publishes them that others are to ask: python3 issuer.py FOLDER CERTIFICATE KEY ADDRESS"""

import functools
import http.server
import ssl
import sys

folder, certificate, key, address = sys.argv[1:]


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer((address, 443), functools.partial(Handler, directory=folder))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
