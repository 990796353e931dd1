"""A mail server for tests. It says on a line of JSON where it listens, and then each mail that
it takes. What it does with one is in the recipient's name:

  put-off…@   451 for the first two tries
  refused…@   550
  hanging…@   takes it, and never answers

Arguments: HOST PORT [CERTIFICATE KEY]. With a certificate it takes mails by STARTTLS alone, and
only from "me" with the password "secret".
"""

import asyncio
import json
import ssl
import sys
from email import message_from_bytes, policy

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


def say(what):
    print(json.dumps(what), flush=True)


class Handler:
    tries = {}

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("refused"):
            return "550 5.1.1 no such mailbox"
        tries = self.tries[address] = self.tries.get(address, 0) + 1
        if address.startswith("put-off") and tries < 3:
            return "451 4.7.1 try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = message_from_bytes(envelope.content, policy=policy.default)
        part = lambda kind: message.get_body((kind,)).get_content().replace("\r\n", "\n")
        say({
            "to": envelope.rcpt_tos,
            "sender": envelope.mail_from,
            "headers": {name.lower(): str(value) for name, value in message.items()},
            "text": part("plain"),
            "html": part("html"),
            "encrypted": session.ssl is not None,
            "user": session.auth_data.login.decode() if session.auth_data else None,
        })
        if envelope.rcpt_tos[0].startswith("hanging"):
            await asyncio.sleep(3600)
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"me", b"secret")
    return AuthResult(success=good, handled=False, auth_data=data if good else None)


async def main():
    host, port, *certificate = sys.argv[1:]
    options = {}
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        options = {
            "tls_context": context,
            "require_starttls": True,
            "auth_required": True,
            "authenticator": authenticate,
        }
    loop = asyncio.get_running_loop()
    made = lambda: SMTP(Handler(), hostname="mail.test", loop=loop, **options)
    server = await loop.create_server(made, host, int(port))
    say({"port": server.sockets[0].getsockname()[1]})
    async with server:
        await server.serve_forever()


asyncio.run(main())
