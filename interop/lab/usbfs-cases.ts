/**
 * How reads of a device of the machine's fail in the stall probe, at two kinds of host controller:
 *
 * - dummy_hcd, with a gadget of ours (stamped-source.c). It stops at a short packet, as the kernel's
 *   documentation promises of all controllers.
 * - QEMU's xHCI, with a device of ours behind it (usbredir/). It goes on behind a short packet, as
 *   xHCI hardware does, and Linux does not make up for that: the probe finds violations there
 *   without any gateway.
 *
 * In all of them the packets bear running numbers, so that what was lost or came twice shows.
 */
import { sourceSink } from '../../src/core/devices/virtual/source-sink/kind.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';
import { parseExportSpec, readOptions } from '../../src/core/export-spec.ts';
import type { Guest } from './guest.ts';
import type { GuestUsbDevice } from './local-gadget.ts';
import { OTHER_CASES, type ProbeCase, SHORT_CASE } from './stall-cases.ts';
import { type ProbeResult, type ProbeSettings, runProbe, underLoad } from './stall-probe.ts';
import type { StampedGadgetOptions } from './stamped-gadget.ts';

export interface GadgetCase extends Pick<ProbeCase, 'name' | 'settings' | 'statuses'> {
  device: StampedGadgetOptions;
}

export const GADGET_CASES: readonly GadgetCase[] = [
  {
    name: SHORT_CASE.name,
    device: { octets: 1000 },
    settings: {},
    statuses: ['-121', '-104'],
  },
  {
    name: 'stall, cleared',
    device: { octets: 1024, halt: true },
    settings: { clear: true },
    statuses: ['-32', '-104'],
  },
  {
    // The error that dummy_hcd can produce: the device sends a whole packet for half of one.
    name: 'babble',
    device: { octets: 1024 },
    settings: { octets: 1000 },
    statuses: ['-75', '-104'],
  },
];

/** Cases of virtual devices, which can be plugged into QEMU as well. */
export const HARDWARE_CASES: readonly ProbeCase[] = [SHORT_CASE, ...OTHER_CASES].filter(
  ({ name }) => GADGET_CASES.some((one) => one.name === name),
);

/** The virtual device of a case. */
export function deviceOf({ spec }: Pick<ProbeCase, 'spec'>): VirtualDevice<unknown> {
  const options = readOptions(parseExportSpec(spec), sourceSink.options, '/');
  // The reader made the values by the kind's own table, which is what their type says.
  return new VirtualDevice(sourceSink.define(options as Parameters<typeof sourceSink.define>[0]));
}

/** On the average, on a slow machine with the gateway in the guest. */
const ROUND_SECONDS_MAX = 1;

export interface UsbfsProbeRun {
  rounds: number;
  load?: boolean;
}

/** Runs the probe on a device with numbered packets. */
export function probeStamped(
  guest: Guest,
  { node }: GuestUsbDevice,
  settings: ProbeSettings,
  { rounds, load = false }: UsbfsProbeRun,
): Promise<ProbeResult> {
  const seconds = 60 + rounds * ROUND_SECONDS_MAX;
  const measure = () => runProbe(guest, node, { ...settings, stamps: true, rounds }, seconds);
  return load ? underLoad(guest, measure) : measure();
}
