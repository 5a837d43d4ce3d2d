/**
 * What a server costs in the emulated guest of usbfs.ts, whatever it does: one round trip over
 * loopback TCP with an echo in C, an echo in Node, and a gateway whose usbfs has no device behind it.
 *
 *     node dist/bench/usbfs-floor.js [--rounds 3] [--seconds 1] [--here | --instructions]
 *
 * The three take turns, loaded by the same C client with messages of the same sizes. `--here` measures
 * the same on this machine instead, where nothing is emulated; `--instructions` in a guest whose clock
 * counts instructions (load/instruction-clock.ts).
 */
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { bootGuest } from '../interop/lab/guest.ts';
import { hostCommand } from '../interop/lab/host-command.ts';
import { compiled } from '../interop/lab/kernel.ts';
import { INSTRUCTION_CLOCK, INSTRUCTION_CLOCK_ARGUMENTS } from './load/instruction-clock.ts';
import { type LoadResult, ROOT, runMain, startCommand } from './load/processes.ts';
import { median } from './report.ts';

const ROWS = [
  ['control, 18 octets in', '--type control --size 18'],
  ['bulk in, 4 KiB', '--type in --size 4096'],
  ['bulk in, 64 KiB', '--type in --size 65536'],
  ['bulk out, 64 KiB', '--type out --size 65536'],
] as const;

const SYSTEMS = ['C echo', 'Node echo', 'gateway, no device'] as const;

interface Place {
  /** Starts a server; resolves to its port. */
  start(command: string[]): Promise<number>;
  run(command: string): Promise<string>;
  end(): Promise<void>;
}

async function placeInGuest(instructions: boolean): Promise<Place> {
  const guest = await bootGuest({
    name: 'bench-usbfs-floor',
    processors: 2,
    ...(instructions && {
      ...INSTRUCTION_CLOCK,
      qemuArguments: INSTRUCTION_CLOCK_ARGUMENTS,
    }),
  });
  return {
    async start(command) {
      const process = guest.start(`exec ${command.join(' ')}`);
      const match = await process.printed(/Listening on \S*:(\d+)/, START_SECONDS_MAX);
      return Number(match[1]);
    },
    run: (command) => guest.succeed(command, { timeoutSeconds: START_SECONDS_MAX }),
    end: () => guest.kill(),
  };
}

const START_SECONDS_MAX = 300;

function placeHere(): Place {
  return {
    start: async (command) => (await startCommand(command)).port,
    run: (command) => hostCommand('sh', ['-c', command]),
    end: async () => {},
  };
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '1' },
      here: { type: 'boolean', default: false },
      instructions: { type: 'boolean', default: false },
    },
  });
  const source = (name: string) => join(ROOT, 'bench/load', name);
  const load = await compiled(source('usbip-load.c'), ['-static']);
  const echo = await compiled(source('echo.c'), ['-static']);
  const script = (name: string) => join(import.meta.dirname, 'load', name);
  const before = loadavg()[0]?.toFixed(1);
  const place = values.here ? placeHere() : await placeInGuest(values.instructions);
  try {
    const ports = [
      await place.start([echo]),
      await place.start([process.execPath, script('node-echo.js')]),
      await place.start([process.execPath, script('usbfs-stand-in.js')]),
    ];
    const heading = ['p50 in µs', ...SYSTEMS];
    for (const cells of [heading, heading.map(() => '---')]) {
      process.stdout.write(`| ${cells.join(' | ')} |\n`);
    }
    for (const [title, options] of ROWS) {
      const figures = SYSTEMS.map(() => [] as number[]);
      for (let round = 0; round < Number(values.rounds); round++) {
        for (const [index, port] of ports.entries()) {
          const kind = index < 2 ? '--echo' : '--busid 1-1';
          const printed = await place.run(
            `${load} ${options} ${kind} --depth 1 --port ${port} --seconds ${values.seconds} --warmup 0.3`,
          );
          const result = JSON.parse(printed) as LoadResult;
          figures[index]?.push(result.roundTripMicrosecondsP50);
        }
      }
      const cells = figures.map((series) => median(series).toFixed(0));
      process.stdout.write(`| ${[title, ...cells].join(' | ')} |\n`);
    }
    process.stdout.write(`load average ${before} before, ${loadavg()[0]?.toFixed(1)} after\n`);
  } finally {
    await place.end();
  }
}

await runMain(main);
