"""Takes whatever is posted to it on a port of loopback, and answers 204 at once."""

import asyncio
import re
import sys

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)


class Receiver(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.unread = transport, b""

    def data_received(self, data):
        self.unread += data
        while (end := self.unread.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self.unread, 0, end)
            whole = end + 4 + (int(length.group(1)) if length else 0)
            if len(self.unread) < whole:
                return
            self.unread = self.unread[whole:]
            self.transport.write(ANSWER)


async def main(port):
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
