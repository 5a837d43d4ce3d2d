/**
 * Devices of a machine over USB/IP: urbgate through usbfs beside the kernel's own usbip-host.
 *
 *     node dist/bench/usbfs.js [--rounds 6] [--seconds 1] [--only REGEXP] [--instructions]
 *
 * Both servers and the client (the kernel's vhci) are in one emulated guest. Two disks of the same
 * kind are attached all the time, one through each server; each row loads them in turn, and half of
 * the rounds are done after the servers have changed disks. The ratio is taken round by round.
 */
import { rmSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { blockDevice, DISK_MODULES } from '../interop/lab/block-device.ts';
import { type GuestGateway, startGatewayInGuest } from '../interop/lab/gateway.ts';
import { bootGuest, type Guest } from '../interop/lab/guest.ts';
import { hostCommand } from '../interop/lab/host-command.ts';
import { compiled } from '../interop/lab/kernel.ts';
import { exportByKernel } from '../interop/lab/kernel-stub.ts';
import { findDevice } from '../interop/lab/local-gadget.ts';
import { QemuMonitor } from '../interop/lab/qemu-monitor.ts';
import { type AttachedDevice, attach, detachAll, loadVhci } from '../interop/lab/usbip.ts';
import { INSTRUCTION_CLOCK, INSTRUCTION_CLOCK_ARGUMENTS } from './load/instruction-clock.ts';
import { ROOT, runMain } from './load/processes.ts';
import { median } from './report.ts';

/** Of /proc: USER_HZ is 100. */
const TICK_MICROSECONDS = 10_000;
/** For anything in the guest: the machine may be busy, and instructions are counted slowly. */
const GUEST_SECONDS_MAX = 300;
const SERIALS = ['ONE', 'OTHER'] as const;

interface Row {
  readonly title: string;
  readonly load: 'read' | 'write' | 'random' | 'control';
  readonly octets: number;
  /** Of the kernel's rate. */
  readonly ratioMin: number;
}

const ROUND_TRIP_RATIO_MAX = 1.3;

const ROWS: readonly Row[] = [
  { title: 'sequential read, 1 MiB', load: 'read', octets: 1 << 20, ratioMin: 0.9 },
  { title: 'sequential read, 64 KiB', load: 'read', octets: 1 << 16, ratioMin: 0.9 },
  { title: 'sequential write, 1 MiB', load: 'write', octets: 1 << 20, ratioMin: 0.9 },
  { title: 'sequential write, 64 KiB', load: 'write', octets: 1 << 16, ratioMin: 0.9 },
  { title: 'random read, 4 KiB', load: 'random', octets: 4096, ratioMin: 1 / ROUND_TRIP_RATIO_MAX },
  { title: 'control round trip', load: 'control', octets: 18, ratioMin: 1 / ROUND_TRIP_RATIO_MAX },
];

interface Figures {
  readonly perSecond: number;
  readonly p50Microseconds: number;
  /** CPU time of the guest, for all that it did meanwhile. */
  readonly busyMicroseconds: number;
  /** CPU time of the gateway's process, in user mode and in the kernel; 0 for the kernel's server. */
  readonly userMicroseconds: number;
  readonly systemMicroseconds: number;
}

interface Target {
  readonly device: AttachedDevice;
  readonly disk: string;
}

interface Pair {
  readonly kernel: Target;
  readonly gateway: Target;
  readonly server: GuestGateway;
}

class Bench {
  readonly #guest: Guest;
  readonly #program: string;
  readonly #seconds: number;

  constructor(guest: Guest, program: string, seconds: number) {
    this.#guest = guest;
    this.#program = program;
    this.#seconds = seconds;
  }

  async attachPair(kernelSerial: string, gatewaySerial: string): Promise<Pair> {
    const guest = this.#guest;
    const [one, other] = [
      await findDevice(guest, kernelSerial),
      await findDevice(guest, gatewaySerial),
    ];
    const usbipd = await exportByKernel(guest, one);
    const server = await startGatewayInGuest(guest, {
      exports: [`usb:${other.busid}`],
      arguments: ['--control', 'none'],
      startTimeoutSeconds: GUEST_SECONDS_MAX,
    });
    await server.process.printed(/Exporting .*\n/, GUEST_SECONDS_MAX);
    const address = { address: '127.0.0.1', port: server.port };
    const kernel = await this.#target(await attach(guest, one.busid, usbipd, GUEST_SECONDS_MAX));
    const gateway = await this.#target(
      await attach(guest, other.busid, address, GUEST_SECONDS_MAX),
    );
    return { kernel, gateway, server };
  }

  async #target(device: AttachedDevice): Promise<Target> {
    return { device, disk: `/dev/${await blockDevice(this.#guest, device)}` };
  }

  async detachPair(pair: Pair, kernelSerial: string): Promise<void> {
    await detachAll(this.#guest);
    await pair.server.stop();
    const { busid } = await findDevice(this.#guest, kernelSerial);
    await this.#guest.succeed(`usbip unbind -b ${busid}`);
  }

  async measure(row: Row, { device, disk }: Target): Promise<Figures> {
    const file = row.load === 'control' ? device.node : disk;
    const printed = await this.#guest.succeed(
      `pid=$(pgrep -f '[c]li/main.js serve')
       look() { head -1 /proc/stat; cut -d ' ' -f 14,15 /proc/$pid/stat; }
       look; ${this.#program} ${row.load} ${file} ${row.octets} ${this.#seconds}; look`,
      { timeoutSeconds: GUEST_SECONDS_MAX },
    );
    const [before = '', gatewayBefore = '', result = '', after = '', gatewayAfter = ''] =
      printed.split('\n');
    const { operations, seconds, p50Microseconds } = JSON.parse(result);
    const perOperation = (from = 0, to = 0) => ((to - from) * TICK_MICROSECONDS) / operations;
    return {
      perSecond: operations / seconds,
      p50Microseconds,
      busyMicroseconds: perOperation(busyTicks(before), busyTicks(after)),
      userMicroseconds: perOperation(numbers(gatewayBefore)[0], numbers(gatewayAfter)[0]),
      systemMicroseconds: perOperation(numbers(gatewayBefore)[1], numbers(gatewayAfter)[1]),
    };
  }
}

const numbers = (line: string) => line.trim().split(/\s+/).map(Number);

/** Of /proc/stat's first line: all but idle and waiting. */
function busyTicks(line: string): number {
  return numbers(line)
    .slice(1)
    .reduce((total, one, at) => (at === 3 || at === 4 ? total : total + one), 0);
}

const HEADINGS = [
  'row',
  'kernel /s',
  'urbgate /s',
  'ratio (min to max)',
  'goal',
  'met',
  'p50 µs: kernel, urbgate',
  'guest µs CPU: kernel, urbgate',
  'gateway µs CPU: user, system',
];

function line(row: Row, kernel: readonly Figures[], gateway: readonly Figures[]): string[] {
  const ratios = gateway.map(({ perSecond }, round) => perSecond / (kernel[round]?.perSecond ?? 0));
  const of = (figures: readonly Figures[], key: keyof Figures, digits = 0) =>
    median(figures.map((one) => one[key])).toFixed(digits);
  const ratio = median(ratios);
  return [
    row.title,
    of(kernel, 'perSecond', 1),
    of(gateway, 'perSecond', 1),
    `${ratio.toFixed(2)} (${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)})`,
    `≥ ${row.ratioMin.toFixed(2)}`,
    ratio >= row.ratioMin ? 'yes' : '**no**',
    `${of(kernel, 'p50Microseconds')}, ${of(gateway, 'p50Microseconds')}`,
    `${of(kernel, 'busyMicroseconds')}, ${of(gateway, 'busyMicroseconds')}`,
    `${of(gateway, 'userMicroseconds')}, ${of(gateway, 'systemMicroseconds')}`,
  ];
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '6' },
      seconds: { type: 'string', default: '1' },
      only: { type: 'string', default: '' },
      instructions: { type: 'boolean', default: false },
    },
  });
  const rows = ROWS.filter(({ title }) => new RegExp(values.only).test(title));
  const halfRounds = Math.max(1, Math.round(Number(values.rounds) / 2));
  const program = await compiled(join(ROOT, 'bench/load/device-load.c'), ['-static']);
  const monitor = new QemuMonitor();
  const disks: string[] = [];
  for (const serial of SERIALS) {
    const file = join(monitor.folder, serial);
    await hostCommand('truncate', ['-s', '256M', file]);
    disks.push('-drive', `if=none,id=drive${serial},file=${file},format=raw`);
    disks.push('-device', `usb-storage,bus=xhci.0,drive=drive${serial},serial=${serial}`);
  }
  const load = loadavg()[0]?.toFixed(1);
  const guest = await bootGuest({
    name: 'bench-usbfs',
    processors: 2,
    ...(values.instructions && INSTRUCTION_CLOCK),
    qemuArguments: [
      ...['-device', 'qemu-xhci,id=xhci', ...disks],
      ...(values.instructions ? INSTRUCTION_CLOCK_ARGUMENTS : []),
    ],
  });
  try {
    await guest.succeed('modprobe xhci-pci', { timeoutSeconds: 60 });
    await loadVhci(guest);
    await guest.succeed(DISK_MODULES);
    const bench = new Bench(guest, program, Number(values.seconds));
    const results = rows.map((row) => ({ row, kernel: [] as Figures[], gateway: [] as Figures[] }));
    for (const [one, other] of [SERIALS, SERIALS.toReversed()] as [string, string][]) {
      const pair = await bench.attachPair(one, other);
      for (let round = 0; round < halfRounds; round++) {
        for (const { row, kernel, gateway } of results) {
          const first = await bench.measure(row, round % 2 === 0 ? pair.kernel : pair.gateway);
          const second = await bench.measure(row, round % 2 === 0 ? pair.gateway : pair.kernel);
          kernel.push(round % 2 === 0 ? first : second);
          gateway.push(round % 2 === 0 ? second : first);
        }
      }
      await bench.detachPair(pair, one);
    }
    const lines = [HEADINGS, HEADINGS.map(() => '---')];
    for (const { row, kernel, gateway } of results) lines.push(line(row, kernel, gateway));
    for (const cells of lines) process.stdout.write(`| ${cells.join(' | ')} |\n`);
    process.stdout.write(`load average ${load} before, ${loadavg()[0]?.toFixed(1)} after\n`);
  } finally {
    await guest.kill();
    rmSync(monitor.folder, { recursive: true, force: true });
  }
}

await runMain(main);
