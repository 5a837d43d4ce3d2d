/**
 * What gadgets of a guest are put through when a gateway in the guest exports them and the guest has
 * attached them again; the same for each back end that takes them from the guest's kernel.
 */
import { strict as assert } from 'node:assert';
import type { Guest } from './guest.ts';
import { compiled, labSource } from './kernel.ts';
import type { Gadget } from './local-gadget.ts';
import { type OwnGateway, throughGateway } from './own-devices.ts';
import { formatUsbtest, runUsbtest, type UsbtestCase, usbtestFaults } from './testusb.ts';
import { sourceSinkGadget } from './usbtest-gadgets.ts';

/** In emulation, with the gateway in the guest too. */
const CASE_SECONDS = 120;
const HALT_PROBE_SECONDS = 300;
/** Reads that are queued at a halted endpoint. */
const HALT_DEPTH = 8;

/** Cases of usbtest pass; its driver is loaded. The gadget is removed afterwards. */
export async function passesUsbtest(
  guest: Guest,
  gadget: Gadget,
  cases: readonly UsbtestCase[],
  gateway: OwnGateway = {},
): Promise<void> {
  const patient = cases.map((one) => ({ ...one, timeoutSeconds: CASE_SECONDS }));
  const results = await throughGateway(
    guest,
    gadget,
    ({ node }) => runUsbtest(guest, node, patient),
    gateway,
  );
  await gadget.remove();
  assert.deepEqual(usbtestFaults(results), [], `\n${formatUsbtest(results)}`);
}

/** Queues reads at a halted endpoint: all but the first come back untouched. @returns the counts */
export async function passesHaltProbe(
  guest: Guest,
  rounds: number,
  gateway: OwnGateway = {},
): Promise<string> {
  await guest.run('rmmod usbtest');
  const program = await compiled(labSource('halt-probe.c'), ['-static']);
  const gadget = await sourceSinkGadget(guest, { pattern: '2' });
  const command = (node: string) => `${program} ${node} 81 ${HALT_DEPTH} ${rounds}`;
  const printed = await throughGateway(
    guest,
    gadget,
    ({ node }) => guest.succeed(command(node), { timeoutSeconds: HALT_PROBE_SECONDS }),
    gateway,
  );
  await gadget.remove();
  assert.deepEqual(JSON.parse(printed), {
    rounds,
    stalls: rounds,
    violations: 0,
    lost: 0,
    ends: { 2: rounds * (HALT_DEPTH - 1) },
  });
  return printed.trim();
}
