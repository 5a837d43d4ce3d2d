/** Addresses as people write them: HOST, HOST:PORT, [IPV6], [IPV6]:PORT. */
import { BlockList, isIP } from 'node:net';
import { UserError } from '../core/errors.ts';
import { USBIP_PORT } from '../usbip/protocol.ts';
import type { ListenAddress } from '../usbip/server.ts';

/**
 * @param action what the address is for, such as "listen on".
 * @param portMin 0 where a free port may be asked for.
 * @throws {UserError} if it is none.
 */
export function parseAddress(action: string, text: string, portMin: 0 | 1): ListenAddress {
  const [, bracketed, plain, digits] =
    /^(?:\[([0-9a-fA-F:.]+(?:%\w+)?)\]|([^\s:[\]]+))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const host = bracketed ?? plain;
  const port = digits === undefined ? USBIP_PORT : Number(digits);
  if (host === undefined || port < portMin || port > 0xffff) {
    throw new UserError(
      `Cannot ${action} ${text}: not an address, wanted HOST:PORT or [IPV6]:PORT ` +
        `with a port from ${portMin} to 65535`,
    );
  }
  return { host, port };
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4');
LOOPBACK.addAddress('::1', 'ipv6');

/** Whether only this machine can reach a numeric address; IPv4 in IPv6 counts as IPv4. */
export function isLoopback(host: string): boolean {
  const version = isIP(host);
  return version !== 0 && LOOPBACK.check(host, version === 4 ? 'ipv4' : 'ipv6');
}
