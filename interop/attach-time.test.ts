/**
 * The stall guarantee is not paid for at attachment: devices refuse requests as a matter of course
 * while drivers find out what they can do, and each refusal is an error that might hold something.
 *
 * Two gateways serve the same devices, one with the default hold and one without any. The fastest
 * of some attachments through each are compared, so that a busy machine does not decide.
 */
import { strict as assert } from 'node:assert';
import { type Gateway, startGateway } from './lab/gateway.ts';
import { FORWARDED_PORTS, GATEWAY_ADDRESS, type Guest } from './lab/guest.ts';
import { sharedGuest } from './lab/shared-guest.ts';
import { detachAll, loadVhci } from './lab/usbip.ts';

const RATIO_MAX = 1.2;
/** Attachments through each gateway before the fastest are compared, and how often that may be. */
const ATTACHMENTS = 3;
const BATCHES_MAX = 10;

const MODULES = 'usb-storage sd_mod usbhid hid-generic evdev cdc-acm snd-usb-audio usbtest';

/** What there is below a device's folder when its class driver is ready. */
const DEVICES = {
  disk: {
    spec: 'virtual:disk,size=64MiB',
    ready: '[ "$(cat $device/*/host*/target*/*/block/sd*/size)" -gt 0 ]',
  },
  keyboard: { spec: 'virtual:keyboard', ready: 'ls -d $device/*/*/input/input*/event*' },
  serial: { spec: 'virtual:serial', ready: 'ls -d $device/*/tty/ttyACM*' },
  audio: { spec: 'virtual:audio', ready: 'ls -d $device/*/sound/card*/pcmC*' },
  'source-sink': { spec: 'virtual:source-sink', ready: 'ls -d $device/*/driver/module' },
} as const;

/** Milliseconds from the call of `usbip attach` until the class driver is ready. */
async function attachTime(
  guest: Guest,
  port: number,
  busId: string,
  ready: string,
): Promise<number> {
  const printed = await guest.succeed(
    `from=$(date +%s%N)
usbip --tcp-port ${port} attach -r ${GATEWAY_ADDRESS} -b ${busId} || exit 1
end=$(( $(date +%s) + 20 ))
while [ $(date +%s) -lt $end ]; do
  for device in /sys/devices/platform/vhci_hcd.0/usb*/[0-9]*-[0-9]*; do
    { ${ready}; } > /dev/null 2>&1 && echo $(( ($(date +%s%N) - from) / 1000000 )) && exit
  done
done
echo 'no driver is ready' >&2
exit 1`,
    { timeoutSeconds: 40 },
  );
  await detachAll(guest);
  return Number(printed.trim().split('\n').at(-1));
}

describe('attaching takes no longer with the stall guarantee', function () {
  this.timeout(300_000);
  const ports = FORWARDED_PORTS.slice(0, 2) as [number, number];
  const gateways: Gateway[] = [];
  let guest: Guest;

  before(async () => {
    guest = await sharedGuest();
    await loadVhci(guest);
    await guest.succeed(`modprobe -a ${MODULES}`);
    const exports = Object.values(DEVICES).map(({ spec }) => spec);
    for (const [n, hold] of [[], ['--stall-hold', '0']].entries()) {
      const gateway = await startGateway({ exports, arguments: ['--control', 'none', ...hold] });
      gateways.push(gateway);
      guest.forward(gateway.port, ports[n]);
    }
  });

  after(async () => {
    for (const gateway of gateways) await gateway.kill();
  });

  for (const [n, [kind, { ready }]] of Object.entries(DEVICES).entries()) {
    it(`${kind}: at most ${RATIO_MAX} times as long`, async () => {
      const fastest = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
      const ratio = () => (fastest[0] as number) / (fastest[1] as number);
      for (let batch = 0; batch < BATCHES_MAX; batch++) {
        for (let round = 0; round < ATTACHMENTS; round++) {
          for (const [which, port] of ports.entries()) {
            const took = await attachTime(guest, port, `1-${n + 1}`, ready);
            fastest[which] = Math.min(fastest[which] as number, took);
          }
        }
        if (ratio() <= RATIO_MAX) break;
      }
      console.log(`      ${kind}: ${fastest[0]} ms, ${fastest[1]} ms without a hold`);
      assert(ratio() <= RATIO_MAX, `${fastest[0]} ms, at most ${RATIO_MAX} x ${fastest[1]} wanted`);
    });
  }
});
