/**
 * What counts as one address when connections are counted.
 *
 * A machine on IPv6 has a whole /64 to choose addresses from, so that is what counts there (RFC 4291,
 * 2.5.4). An IPv4 address inside an IPv6 one is that IPv4 address. All of 127.0.0.0/8 is this machine.
 */
import { isIPv4, isIPv6 } from 'node:net';

/** This machine, by whatever loopback address. */
export const LOOPBACK_KEY = 'loopback';

const MAPPED = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i;

/** Of a numeric address; anything else is a key of its own. */
export function addressKey(address: string): string {
  const plain = MAPPED.exec(address)?.[1] ?? address;
  if (isIPv4(plain)) return plain.startsWith('127.') ? LOOPBACK_KEY : plain;
  const [bare = ''] = plain.split('%', 1);
  if (!isIPv6(bare)) return plain;
  if (bare === '::1') return LOOPBACK_KEY;
  return `${groupsOf(bare).slice(0, 4).join(':')}::/64`;
}

/** The eight groups of an IPv6 address, without leading zeros. */
function groupsOf(address: string): string[] {
  const [head = '', tail] = address.toLowerCase().split('::', 2);
  const before = head === '' ? [] : head.split(':');
  const after = tail === undefined || tail === '' ? [] : tail.split(':');
  // Dotted notation at the end stands for two groups, which are in the lower half.
  const missing = 8 - before.length - after.length - (address.includes('.') ? 1 : 0);
  const groups = tail === undefined ? before : [...before, ...Array(missing).fill('0'), ...after];
  return groups.map((group) => group.replace(/^0+(?=.)/, ''));
}
