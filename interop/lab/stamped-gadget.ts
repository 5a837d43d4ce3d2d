/** A bulk source with running numbers in its packets, on dummy_hcd: see stamped-source.c. */

import type { Guest } from './guest.ts';
import type { GuestProcess } from './guest-process.ts';
import { compiled, labSource } from './kernel.ts';
import { createGadget, type Gadget } from './local-gadget.ts';

export interface StampedGadgetOptions {
  /** Of each of the device's transfers, at most 16384; the endpoint has packets of 512. */
  octets: number;
  /** The endpoint is halted behind each transfer. */
  halt?: boolean;
}

let count = 0;

/** Makes one in a guest. @throws Error if it does not appear */
export async function stampedGadget(
  guest: Guest,
  { octets, halt = false }: StampedGadgetOptions,
): Promise<Gadget> {
  const program = await compiled(labSource('stamped-source.c'), ['-static']);
  const name = `stamped${++count}`;
  const folder = `/run/${name}`;
  let source: GuestProcess | undefined;
  const gadget = await createGadget(guest, {
    function: `ffs.${name}`,
    vendorId: '1209', // no driver is to have it
    productId: '0001',
    serve: async () => {
      await guest.succeed(`mkdir ${folder} && mount -t functionfs ${name} ${folder}`);
      source = guest.start(`exec ${program} ${folder} ${octets} ${halt ? 'halt' : ''}`);
      source.end();
      await source.printed(/ready/, 20);
    },
  });
  const remove = async () => {
    await gadget.remove();
    source?.signal('SIGKILL');
    await source?.result(10);
    await guest.succeed(`umount ${folder}`);
  };
  return { ...gadget, remove };
}
