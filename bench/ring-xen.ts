/**
 * USB storage in a Xen guest: urbgate's rings beside the back end of Xen's own QEMU ("qusb").
 *
 *     node dist/bench/ring-xen.js [--rounds 5] [--seconds 1] [--only REGEXP]
 *
 * A real Xen in QEMU. dom0 has two USB sticks of the same kind, which QEMU reads from the same image; one
 * goes to a guest through qusb, the other to a second guest through `urbgate serve --xen`, and that
 * guest has urbgate's virtual disk besides, on an equal image. All have the kernel's xen-hcd as their
 * front end. Each row loads them in turn, and the ratio is taken round by round.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { blockDevice } from '../interop/lab/block-device.ts';
import { startGatewayInGuest } from '../interop/lab/gateway.ts';
import type { Guest } from '../interop/lab/guest.ts';
import { hostCommand } from '../interop/lab/host-command.ts';
import { compiled } from '../interop/lab/kernel.ts';
import { findDevice, type GuestUsbDevice } from '../interop/lab/local-gadget.ts';
import { bootXen } from '../interop/lab/xen.ts';
import { createDomain, type Domain } from '../interop/lab/xen-domain.ts';
import { qusbConfiguration, vusbConfiguration } from '../interop/lab/xen-usb.ts';
import { plugIn } from '../interop/lab/xen-usb-ports.ts';
import { ROOT, runMain } from './load/processes.ts';
import { median } from './report.ts';

interface Row {
  readonly title: string;
  readonly load: 'read' | 'random' | 'control';
  readonly octets: number;
}

const ROWS: readonly Row[] = [
  { title: 'sequential read, 1 MiB', load: 'read', octets: 1 << 20 },
  { title: 'sequential read, 64 KiB', load: 'read', octets: 1 << 16 },
  { title: 'random read, 4 KiB', load: 'random', octets: 4096 },
  { title: 'control round trip', load: 'control', octets: 18 },
];

/** What is compared, the first being what the others are compared with. */
const SYSTEMS = ['qusb, stick', 'urbgate, stick', 'urbgate, virtual disk'] as const;
const SERIALS = { qusb: 'QUSB', urbgate: 'URBGATE' } as const;
const IMAGE_OCTETS = 32 << 20;
const VIRTUAL_BUS_ID = '9-1';
/** The guest's kernel asks a stick for a second before it believes that it is ready. */
const PLUG_SECONDS = 60;

interface Target {
  readonly guest: Guest;
  readonly device: GuestUsbDevice;
  readonly disk: string;
}

interface Figures {
  readonly perSecond: number;
  readonly p50Microseconds: number;
}

/** High speed, as no ring carries more. */
function stick(serial: string, image: string): string[] {
  const drive = `if=none,id=${serial}drive,file=${image},format=raw,readonly=on,file.locking=off`;
  const device = `usb-storage,bus=ehci.0,drive=${serial}drive,serial=${serial}`;
  return ['-drive', drive, '-device', device];
}

async function bootDom0(image: string): Promise<Guest> {
  const dom0 = await bootXen({
    name: 'bench-ring-xen',
    processors: 2,
    memoryMebibytes: 5120,
    qemuArguments: [
      ...['-device', 'usb-ehci,id=ehci'],
      ...Object.values(SERIALS).flatMap((serial) => stick(serial, image)),
    ],
  });
  await dom0.succeed('modprobe ehci-pci', { timeoutSeconds: 60 });
  return dom0;
}

async function domainWith(dom0: Guest, name: string, configuration: string[]): Promise<Domain> {
  const programs = [await loadProgram()];
  const domain = await createDomain(dom0, { name, configuration, programs });
  await domain.guest.succeed('modprobe -a xen-hcd usb-storage sd_mod');
  return domain;
}

const loadProgram = () => compiled(join(ROOT, 'bench/load/device-load.c'), ['-static']);

async function target({ guest }: Domain, device: GuestUsbDevice): Promise<Target> {
  return { guest, device, disk: `/dev/${await blockDevice(guest, device)}` };
}

async function targets(dom0: Guest, image: string): Promise<readonly Target[]> {
  const forQusb = qusbConfiguration(await findDevice(dom0, SERIALS.qusb));
  const qusb = await domainWith(dom0, 'qusb', forQusb);
  const { busid } = await findDevice(dom0, SERIALS.urbgate);
  const virtual = `virtual:disk,file=${image},readonly,busid=${VIRTUAL_BUS_ID}`;
  await startGatewayInGuest(dom0, {
    exports: [`usb:${busid}`, virtual],
    arguments: ['--xen', '--control', 'none'],
    startTimeoutSeconds: 120,
  });
  const urbgate = await domainWith(dom0, 'urbgate', vusbConfiguration());
  return [
    await target(qusb, await findDevice(qusb.guest, SERIALS.qusb, PLUG_SECONDS)),
    await target(urbgate, await plugIn(urbgate, 1, busid, PLUG_SECONDS)),
    await target(urbgate, await plugIn(urbgate, 2, VIRTUAL_BUS_ID, PLUG_SECONDS)),
  ];
}

async function measure(row: Row, { guest, device, disk }: Target, seconds: number) {
  const file = row.load === 'control' ? device.node : disk;
  const printed = await guest.succeed(
    `${await loadProgram()} ${row.load} ${file} ${row.octets} ${seconds}`,
    { timeoutSeconds: 60 },
  );
  const result = JSON.parse(printed);
  const perSecond = result.operations / result.seconds;
  return { perSecond, p50Microseconds: result.p50Microseconds } satisfies Figures;
}

/** One line of the table: rates, and how each compares with the first; over 1.00 is better. */
function line({ title, octets, load }: Row, rounds: readonly (readonly Figures[])[]): string {
  const cells = [title];
  for (const n of SYSTEMS.keys()) {
    const rate = median(rounds.map((round) => round[n]?.perSecond ?? Number.NaN));
    const trip = median(rounds.map((round) => round[n]?.p50Microseconds ?? Number.NaN));
    const [figure, unit] =
      load === 'read' ? [(rate * octets) / (1 << 20), 'MiB/s'] : [trip, 'µs (p50)'];
    cells.push(`${figure.toFixed(load === 'read' ? 1 : 0)} ${unit}`);
  }
  for (const n of SYSTEMS.keys()) {
    if (n === 0) continue;
    const ratios = rounds.map(
      (round) => (round[n]?.perSecond ?? Number.NaN) / (round[0]?.perSecond ?? Number.NaN),
    );
    cells.push(median(ratios).toFixed(2));
  }
  return `| ${cells.join(' | ')} |`;
}

const load = () => loadavg()[0]?.toFixed(1);

async function bench(rounds: number, seconds: number, only: RegExp): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'urbgate-bench-'));
  const image = join(folder, 'image');
  await hostCommand('dd', [
    'if=/dev/urandom',
    `of=${image}`,
    'bs=1M',
    `count=${IMAGE_OCTETS >> 20}`,
  ]);
  let dom0: Guest | undefined;
  try {
    dom0 = await bootDom0(image);
    const all = await targets(dom0, image);
    console.log(`${rounds} rounds of ${seconds} s, load average ${load()} at the start`);
    const names = SYSTEMS.slice(1).map((name) => `${name} / qusb`);
    const headings = ['row', ...SYSTEMS, ...names];
    console.log(`| ${headings.join(' | ')} |\n|${' --- |'.repeat(headings.length)}`);
    for (const row of ROWS.filter(({ title }) => only.test(title))) {
      const figures: Figures[][] = [];
      for (let round = 0; round < rounds; round++) {
        const one: Figures[] = [];
        for (const system of all) one.push(await measure(row, system, seconds));
        figures.push(one);
      }
      console.log(line(row, figures));
    }
    console.log(`load average ${load()} at the end`);
  } finally {
    await dom0?.kill();
    rmSync(folder, { recursive: true });
  }
}

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '1' },
    only: { type: 'string', default: '' },
  },
});

await runMain(() => bench(Number(values.rounds), Number(values.seconds), new RegExp(values.only)));
