/**
 * How long one client can keep the others waiting: a gateway, a client that makes one small round trip
 * after the other, and in turns a hostile client that does its worst to a device of its own.
 *
 *     node dist/bench/fairness.js [--seconds 4] [--only REGEX] [--gateway FILE] [--goal 100]
 *
 * The three are processes of their own; attacks are in load/attacks.ts, and each has a fresh gateway. The goal,
 * in milliseconds, is about the gateway's longest turn of the event loop, in processor time: what others
 * wait on a machine that does nothing else. The waits beside it depend on what else the machine does.
 * Exit code 1 if a turn is longer than the goal, 2 if the gateway or the attacker ended.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { extname, join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import { ATTACKS, type Attack } from './load/attacks.ts';
import { ROOT, runMain, startAttacker, startCommand } from './load/processes.ts';
import { importRaw, readExactly, Script, setupPacket } from './load/raw-client.ts';

const VICTIM_BUS_ID = '1-1';
const ATTACKED_BUS_ID = '1-2';
const TURN_CLOCK = join(import.meta.dirname, `load/turn-clock${extname(import.meta.filename)}`);
const REPLY_BYTES = 48 + 18;
/** A victim that waits longer than this is not waited for any more. */
const WAIT_MILLISECONDS_MAX = 60_000;

interface Waits {
  readonly count: number;
  readonly medianMilliseconds: number;
  /** Of a thousand round trips, one waits longer. */
  readonly highMilliseconds: number;
  readonly worstMilliseconds: number;
}

interface Figures extends Waits {
  /** The gateway's longest turn of the event loop, in processor time. */
  readonly longestTurnMilliseconds: number;
}

/** Makes round trips for a while. */
async function beVictim(port: number, milliseconds: number): Promise<() => Promise<Waits>> {
  const socket = await importRaw(port, VICTIM_BUS_ID);
  socket.setTimeout(WAIT_MILLISECONDS_MAX, () => socket.destroy());
  const script = new Script();
  const setup = setupPacket(0x80, 6, 0x0100, 0, 18);
  script.submit({ endpoint: 0, in: true, length: 18, setup });
  return async () => {
    const waits: number[] = [];
    const end = performance.now() + milliseconds;
    for (let now = performance.now(); now < end; ) {
      socket.write(script.next());
      await readExactly(socket, REPLY_BYTES);
      const then = performance.now();
      waits.push(then - now);
      now = then;
    }
    socket.destroy();
    waits.sort((one, other) => one - other);
    const at = (part: number) => waits[Math.floor(part * (waits.length - 1))] ?? Number.NaN;
    return {
      count: waits.length,
      medianMilliseconds: at(0.5),
      highMilliseconds: at(0.999),
      worstMilliseconds: at(1),
    };
  };
}

interface Options {
  readonly gateway: string;
  readonly seconds: number;
}

/** One attack on a gateway that is fresh; none without a name. */
async function measure(
  name: string | undefined,
  attack: Attack | undefined,
  { gateway, seconds }: Options,
): Promise<Figures> {
  const directory = mkdtempSync(join(tmpdir(), 'urbgate-fairness-'));
  try {
    const device = (attack?.device ?? 'virtual:source-sink').replace('DIRECTORY', directory);
    const turnFile = join(directory, 'turn');
    const server = await startCommand([
      ...['env', `TURN_CLOCK_FILE=${turnFile}`, process.execPath, '--import', TURN_CLOCK, gateway],
      ...['serve', '--listen', '127.0.0.1:0', '--control', 'none'],
      ...['--export', `virtual:source-sink,busid=${VICTIM_BUS_ID}`],
      ...['--export', `${device},busid=${ATTACKED_BUS_ID}`],
      ...(attack?.how === 'ring' ? ['--shm', directory] : []),
    ]);
    const watch = await beVictim(server.port, seconds * 1000);
    const attacker =
      name === undefined
        ? undefined
        : await startAttacker([
            ...['--tcp', `${server.port}`, '--busid', ATTACKED_BUS_ID],
            ...['--attack', name, '--ring', directory],
          ]);
    process.kill(server.pid, 'SIGUSR2'); // from here on turns count
    const waits = await watch();
    if (attacker?.hasEnded) throw new Error(`Cannot measure ${name}: the attacker has ended`);
    await attacker?.stop();
    await server.stop();
    return { ...waits, longestTurnMilliseconds: Number(readFileSync(turnFile, 'latin1')) };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '4' },
      only: { type: 'string', default: '' },
      gateway: { type: 'string', default: join(ROOT, 'dist/src/cli/main.js') },
      goal: { type: 'string', default: '100' },
    },
  });
  const options = { gateway: values.gateway, seconds: Number(values.seconds) };
  const goal = Number(values.goal);
  process.stdout.write(
    '| attack | longest turn, ms of CPU | worst wait, ms | 1 in 1000, ms | median, ms | round trips |\n',
  );
  process.stdout.write('| --- | --- | --- | --- | --- | --- |\n');
  const rows: [string | undefined, Attack | undefined][] = [
    [undefined, undefined],
    ...Object.entries(ATTACKS).filter(([name]) => new RegExp(values.only).test(name)),
  ];
  for (const [name, attack] of rows) {
    const waits = await measure(name, attack, options);
    const isMet = waits.longestTurnMilliseconds <= goal;
    if (!isMet) process.exitCode = 1;
    const cells = [
      attack?.title ?? 'none',
      `${waits.longestTurnMilliseconds.toFixed(1)}${isMet ? '' : ' (missed)'}`,
      waits.worstMilliseconds.toFixed(1),
      waits.highMilliseconds.toFixed(1),
      waits.medianMilliseconds.toFixed(2),
      `${waits.count}`,
    ];
    process.stdout.write(`| ${cells.join(' | ')} |\n`);
  }
  process.stdout.write(
    `\nLoad average: ${loadavg()
      .map((each) => each.toFixed(1))
      .join(', ')}\n`,
  );
}

await runMain(main);
