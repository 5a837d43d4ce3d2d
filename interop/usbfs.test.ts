/**
 * Devices of a machine, exported through usbfs by a gateway in a guest and attached there again by
 * the stock client: usbtest's cases and the stall probe on a gadget of the kernel's.
 */
import { strict as assert } from 'node:assert';
import { startGatewayInGuest } from './lab/gateway.ts';
import { bootGuest, type Guest } from './lab/guest.ts';
import { compiled, labSource } from './lab/kernel.ts';
import type { Gadget } from './lab/local-gadget.ts';
import { faults, SHORT_CASE } from './lab/stall-cases.ts';
import { formatProbe, runProbe, underLoad } from './lab/stall-probe.ts';
import { formatUsbtest, loadUsbtest, runUsbtest, type UsbtestCase } from './lab/testusb.ts';
import { type AttachedDevice, attach, detachAll, loadVhci } from './lab/usbip.ts';
import {
  bulkCases,
  INTERRUPT_CASES,
  interruptGadget,
  sourceSinkGadget,
} from './lab/usbtest-gadgets.ts';

const PROBE_ROUNDS = 1000;
const PROBE_ROUNDS_LOADED = 200;
const HALT_ROUNDS = 200;

/** In emulation, with the gateway in the guest too. */
const CASE_SECONDS = 120;

const say = (text: string) => console.log(`      ${text}`);

describe('devices of the machine, through usbfs', function () {
  this.timeout(900_000);
  let guest: Guest;

  before(async () => {
    guest = await bootGuest({ name: 'usbfs' });
    await loadVhci(guest);
  });

  after(() => guest?.kill());

  afterEach(async function () {
    if (guest.alive) await detachAll(guest);
    if (this.currentTest?.isPassed()) assert.deepEqual(guest.kernelComplaints(), []);
  });

  /** Exports a device of the guest, attaches it in the same guest, and tidies up. */
  async function throughGateway<T>(
    gadget: Gadget,
    work: (device: AttachedDevice) => Promise<T>,
  ): Promise<T> {
    const gateway = await startGatewayInGuest(guest, {
      exports: [`usb:${gadget.busid}`],
      arguments: ['--control', 'none'],
    });
    const server = { address: '127.0.0.1', port: gateway.port };
    const result = await work(await attach(guest, gadget.busid, server));
    await detachAll(guest);
    await gateway.stop();
    return result;
  }

  async function usbtest(gadget: Gadget, cases: readonly UsbtestCase[]): Promise<void> {
    const results = await throughGateway(gadget, ({ node }) =>
      runUsbtest(
        guest,
        node,
        cases.map((one) => ({ ...one, timeoutSeconds: CASE_SECONDS })),
      ),
    );
    const failed = results.filter(({ outcome }) => outcome !== 'pass');
    assert.equal(failed.length, 0, `\n${formatUsbtest(results)}`);
  }

  for (const pattern of [0, 1] as const) {
    it(`usbtest: control and bulk cases, pattern ${pattern}`, async () => {
      await loadUsbtest(guest, { pattern });
      const gadget = await sourceSinkGadget(guest, { pattern: `${pattern}` });
      await usbtest(gadget, bulkCases(pattern));
      await gadget.remove();
    });
  }

  /** Every IN transfer of this gadget is one short packet more than it should be. */
  const shortGadget = () => sourceSinkGadget(guest, { pattern: '2', bulk_buflen: '1000' });

  for (const { load, rounds } of [
    { load: false, rounds: PROBE_ROUNDS },
    { load: true, rounds: PROBE_ROUNDS_LOADED },
  ]) {
    const how = load ? 'guest loaded' : 'guest idle';
    it(`stall probe: short packet, ${rounds} rounds, ${how}`, async () => {
      await guest.run('rmmod usbtest');
      const gadget = await shortGadget();
      const result = await throughGateway(gadget, ({ node }) => {
        const measure = () => runProbe(guest, node, { rounds }, 60 + rounds);
        return load ? underLoad(guest, measure) : measure();
      });
      await gadget.remove();
      say(formatProbe(`gadget through usbfs, ${how}`, result));
      assert.deepEqual(faults(SHORT_CASE, rounds, result), []);
    });
  }

  it(`halt probe: ${HALT_ROUNDS} rounds of 8 reads in flight at a halted endpoint`, async () => {
    await guest.run('rmmod usbtest');
    const program = await compiled(labSource('halt-probe.c'), ['-static']);
    const gadget = await sourceSinkGadget(guest, { pattern: '2' });
    const printed = await throughGateway(gadget, ({ node }) =>
      guest.succeed(`${program} ${node} 81 8 ${HALT_ROUNDS}`, { timeoutSeconds: 300 }),
    );
    await gadget.remove();
    say(printed.trim());
    assert.deepEqual(JSON.parse(printed), {
      rounds: HALT_ROUNDS,
      stalls: HALT_ROUNDS,
      violations: 0,
      lost: 0,
      ends: { 2: HALT_ROUNDS * 7 },
    });
  });

  it('usbtest: interrupt cases', async () => {
    await loadUsbtest(guest, { pattern: 0 });
    const gadget = await interruptGadget(guest);
    await usbtest(gadget, INTERRUPT_CASES);
    await gadget.remove();
  });
});
