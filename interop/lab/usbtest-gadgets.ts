/**
 * Gadgets that the kernel's usbtest driver binds to (0525:a4a0), and how to run it on them.
 *
 * dummy_hcd offers no isochronous endpoints, so cases 15, 16, 22 and 23 cannot run on it.
 */

import type { Guest } from './guest.ts';
import { createGadget, type Gadget } from './local-gadget.ts';
import type { UsbtestCase } from './testusb.ts';

/**
 * The kernel's bulk source and sink, one alternate setting with endpoints 81 and 02.
 *
 * @param attributes - `pattern` (0 zeroes, 1 mod 63, 2 unchecked; as for usbtest itself),
 * `bulk_buflen` (4096: octets of each IN transfer, which ends short if this is no multiple of 512),
 * `bulk_qlen`
 */
export function sourceSinkGadget(
  guest: Guest,
  attributes: Readonly<Record<string, string>> = {},
): Promise<Gadget> {
  return createGadget(guest, { function: 'SourceSink.0', attributes });
}

/**
 * Octets of an interrupt transfer. The gadget ends a report of whole packets (64 octets) with an
 * empty packet, which the next transfer of usbtest would take for its own: so one octet less is
 * the most that works, and this is a round figure below.
 */
export const INTERRUPT_OCTETS = 60;

/** An interrupt source and sink: a HID gadget whose files are fed with zeroes and emptied. */
export async function interruptGadget(guest: Guest): Promise<Gadget> {
  const attributes = { report_length: '64', subclass: '0', protocol: '0', report_desc: 'x' };
  // A test before may have loaded it, and it would take a HID gadget before usbtest can.
  await guest.succeed('if [ -e /sys/module/usbhid ]; then rmmod usbhid; fi');
  const gadget = await createGadget(guest, { function: 'hid.usb0', attributes });
  const file = await guest.succeed('ls /dev/hidg* | tail -1');
  const path = file.trim();
  // `cat` ends at an empty packet.
  const sink = guest.start(`while :; do cat ${path} > /dev/null; done`);
  // One in about a hundred writers comes to a stop, and usbtest gives up after 10 s: a fresh one
  // takes over before that.
  const write = `timeout -s KILL 2 dd if=/dev/zero of=${path} bs=${INTERRUPT_OCTETS}`;
  const source = guest.start(`while :; do ${write} 2> /dev/null; done`);
  const remove = async () => {
    for (const process of [sink, source]) process.signal('SIGKILL');
    for (const process of [sink, source]) await process.result(10);
    await gadget.remove();
  };
  return { ...gadget, remove };
}

/**
 * The cases of usbtest that a bulk source and sink can pass, with lengths that suit it.
 *
 * A source sends whole packets, so an IN transfer that is not a multiple of 512 octets overflows
 * (4, 8), and a controller with the usual scatter-gather rule refuses such entries (7, 8): the
 * length varies by 512. 27 and 28 run with pattern 0 only.
 */
export function bulkCases(pattern: 0 | 1): UsbtestCase[] {
  const numbers = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 18, 19, 20, 21, 24, 29];
  if (pattern === 0) numbers.push(27, 28);
  const special: Record<number, Partial<UsbtestCase>> = {
    10: { queueDepth: 32 }, // each of its 16 requests twice
    14: { varyOctets: 1, iterations: 64 },
    21: { varyOctets: 1, iterations: 64 },
  };
  return numbers
    .sort((one, other) => one - other)
    .map((number) => ({ number, varyOctets: 512, ...special[number] }));
}

/** The cases for an interrupt source and sink. */
export const INTERRUPT_CASES: readonly UsbtestCase[] = [
  { number: 25, transferOctets: INTERRUPT_OCTETS },
  { number: 26, transferOctets: INTERRUPT_OCTETS },
];
