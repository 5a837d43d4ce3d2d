/** `virtual:serial`: a serial port that echoes, or leads to a TCP port. */
import { UserError } from '../../../errors.ts';
import { defineKind } from '../kind.ts';
import { EchoLine } from './echo-line.ts';
import { defineSerial } from './serial.ts';
import { type TcpAddress, TcpLine } from './tcp-line.ts';

export const serialKind = defineKind({
  name: 'serial',
  summary: 'CDC-ACM serial port: an echo, or a TCP connection while DTR is up',
  options: {
    connect: { type: 'text', help: 'HOST:PORT or [IPV6]:PORT to connect to (default: echo)' },
  },
  define: ({ connect }) => {
    if (connect === undefined) return defineSerial((listener) => new EchoLine(listener));
    const address = parseAddress(connect);
    return defineSerial((listener) => new TcpLine(address, listener));
  },
});

/**
 * @throws {UserError} if the text is no address.
 */
export function parseAddress(text: string): TcpAddress {
  const [, bracketed, plain, digits] =
    /^(?:\[([0-9a-fA-F:.]+(?:%\w+)?)\]|([^\s:[\]]+)):(\d{1,5})$/.exec(text) ?? [];
  const host = bracketed ?? plain;
  const port = Number(digits);
  if (host === undefined || port < 1 || port > 0xffff) {
    throw new UserError(
      `Cannot connect to ${text}: not an address, wanted HOST:PORT with a port from 1 to 65535`,
    );
  }
  return { host, port };
}
