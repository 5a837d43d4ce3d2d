/**
 * `npm run stall-demo [ROUNDS]`: what happens to the transfers queued behind one that fails, on the
 * kernel's own controller, through the kernel's own USB/IP server, and through urbgate.
 *
 * The probe (lab/stall-probe.c) submits eight reads, of which the first ends short, as a driver that
 * treats this as an error and has the rest unlinked. None of the rest may move data.
 */
import { bootGuest, type Guest } from './lab/guest.ts';
import {
  probeGatewayInGuest,
  probeKernelServer,
  probeLocally,
  SHORT_CASE,
} from './lab/stall-cases.ts';
import type { ProbeResult } from './lab/stall-probe.ts';

const ROUNDS_DEFAULT = 200;

const SYSTEMS: readonly [string, (guest: Guest, rounds: number) => Promise<ProbeResult>][] = [
  ['local controller', probeLocally],
  ['kernel usbip-host', probeKernelServer],
  ['urbgate', (guest, rounds) => probeGatewayInGuest(guest, SHORT_CASE, { rounds })],
];

function line(cells: readonly string[]): string {
  return cells.map((cell, at) => (at === 0 ? cell.padEnd(18) : cell.padStart(24))).join('');
}

async function demo(rounds: number): Promise<void> {
  console.log(`Stall probe: ${rounds} rounds of 8 reads, the first of which fails`);
  console.log(line(['', 'rounds', 'violations', 'octets after the error', 'hangs']));
  const remarks: string[] = [];
  for (const [name, probe] of SYSTEMS) {
    // One each: the kernel's server may leave its guest past use.
    const guest = await bootGuest({ name: 'stall-demo', processors: 2 });
    try {
      const result = await probe(guest, rounds);
      const { violations, violationOctets, hangs, stopped } = result;
      const figures = [result.rounds, violations, violationOctets, hangs].map(String);
      console.log(line([name, ...figures]));
      if (stopped !== undefined) remarks.push(`${name} stopped early: ${stopped}`);
      if (name === 'urbgate' && (violations > 0 || hangs > 0)) process.exitCode = 1;
    } finally {
      await guest.kill();
    }
  }
  for (const remark of remarks) console.log(remark);
}

const rounds = Number(process.argv[2] ?? ROUNDS_DEFAULT);
if (Number.isSafeInteger(rounds) && rounds > 0) {
  await demo(rounds);
} else {
  console.error(`Cannot run the demo: ${process.argv[2]} rounds, wanted 1 or more`);
  process.exitCode = 1;
}
