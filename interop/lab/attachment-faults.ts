/**
 * A server that fails in every way while a guest has its device by `urbgate attach --persist`: killed,
 * without the device, or behind a cable that is cut. And whether the guest has its device again.
 */
import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { callGateway } from '../../src/cli/control-client.ts';
import { Chance } from '../../test/sim/time.ts';
import type { CabledGuest } from './cable.ts';
import type { Gateway } from './gateway.ts';
import type { Guest } from './guest.ts';
import { compiled, labSource } from './kernel.ts';
import { type UsbipServer, VHCI_STATUS } from './usbip.ts';

const BUS_ID = '1-1';
const SPEC = `virtual:serial,busid=${BUS_ID}`;
/** One more, that is only away when the server is. */
const OTHER_BUS_ID = '1-2';
const OTHER_SPEC = `virtual:source-sink,busid=${OTHER_BUS_ID}`;
/** Longer than any pause between two tries, plus what vhci and a driver take. */
const RECOVERY_SECONDS = 60;
const CONTROL_MILLISECONDS = 20_000;

const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export class FailingServer {
  readonly busId = BUS_ID;
  readonly otherBusId = OTHER_BUS_ID;
  readonly #cabled: CabledGuest;
  readonly #control = join(tmpdir(), `urbgate-faults-${process.pid}.sock`);
  #gateway: Gateway | null = null;
  #port = 0;

  constructor(cabled: CabledGuest) {
    this.#cabled = cabled;
  }

  /** Starts it, where it was before if it was. */
  async start(): Promise<UsbipServer> {
    rmSync(this.#control, { force: true }); // one that was killed leaves it behind
    this.#gateway = await this.#cabled.startGateway({
      exports: [SPEC, OTHER_SPEC],
      arguments: ['--control', this.#control],
      listenPort: this.#port,
    });
    this.#port = this.#gateway.port;
    return this.#cabled.serverOf(this.#gateway);
  }

  async kill(): Promise<void> {
    await this.#gateway?.kill();
    this.#gateway = null;
    rmSync(this.#control, { force: true });
  }

  /** Killed, and started again. */
  async restart(awayMilliseconds: number): Promise<void> {
    await this.kill();
    await pause(awayMilliseconds);
    await this.start();
  }

  /** Unplugged, and plugged in again. */
  async replug(awayMilliseconds: number): Promise<void> {
    await this.#ask({ command: 'unexport', busId: BUS_ID });
    await pause(awayMilliseconds);
    await this.#ask({ command: 'export', spec: SPEC, folder: '/' });
  }

  /** The cable is out for a while. */
  async cut(awayMilliseconds: number): Promise<void> {
    const { guest } = this.#cabled;
    const seconds = (awayMilliseconds / 1000).toFixed(3);
    await guest.succeed(
      `card=$(ip -o route get ${this.#cabled.hostAddress} | grep -o 'dev [^ ]*' | cut -d' ' -f2)
       ip link set $card down; sleep ${seconds}; ip link set $card up`,
      { timeoutSeconds: awayMilliseconds / 1000 + 30 },
    );
  }

  #ask(request: Parameters<typeof callGateway>[1]): Promise<unknown> {
    return callGateway({ path: this.#control, chosen: true }, request, CONTROL_MILLISECONDS);
  }
}

/** Does so many things to a server, chosen by a seed, and waits after each for the device. */
export async function failAtRandom(
  server: FailingServer,
  {
    count,
    seed,
    awayMillisecondsMax,
  }: { count: number; seed: number; awayMillisecondsMax: number },
  recover: (fault: string) => Promise<void>,
): Promise<void> {
  const chance = new Chance(seed);
  const kinds = ['restart', 'replug', 'cut'] as const;
  for (let n = 0; n < count; n++) {
    const kind = kinds[chance.below(kinds.length)] ?? 'cut';
    const away = Math.round(chance.between(0, awayMillisecondsMax));
    await server[kind](away);
    // The next one sometimes comes in the middle of the recovery.
    if (!chance.oneIn(4)) await recover(`fault ${n}, ${kind} for ${away} ms, SEED=${seed}`);
  }
  await recover(`the last of ${count} faults, SEED=${seed}`);
}

/** Waits until the device behind a port of vhci answers a request, and throws if it does not. */
export async function recovered(guest: Guest, port: number, after: string): Promise<void> {
  const program = await compiled(labSource('control-in.c'));
  const { code, stdout } = await guest.run(
    `end=$(( $(date +%s) + ${RECOVERY_SECONDS} ))
while [ $(date +%s) -lt $end ]; do
  set -- $(grep -h '^[hs]s  *0*${port} ' ${VHCI_STATUS})
  device=/sys/bus/usb/devices/$7
  if [ "$3" = 006 ] && [ -e $device/devnum ]; then
    node=$(printf /dev/bus/usb/%03d/%03d $(cat $device/busnum) $(cat $device/devnum))
    answer=$(timeout 25 ${program} $node 0x80 6 0x0100 0 18 2>&1) && [ \${#answer} -ge 36 ] && exit 0
  fi
  sleep 0.05
done
echo "port: $*, answer: $answer"
exit 1`,
    { timeoutSeconds: RECOVERY_SECONDS + 40 },
  );
  if (code === 0) return;
  throw new Error(`Cannot use vhci port ${port} after ${after}: ${stdout}\n${guest.describe()}`);
}
